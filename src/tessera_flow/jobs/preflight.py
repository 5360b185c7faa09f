"""What a run must not replace, products that were made with other settings; and what it must not
leave behind."""

from __future__ import annotations

from pathlib import Path

from ..config.configuration import runs
from ..config.fingerprint import content_hash
from ..errors import OutputError, TileError
from ..products.description import read_record
from .files import RunFiles


def refuse_other_settings(run: RunFiles) -> None:
    """Refuse to replace products that were made with other settings.

    Products without a record (see `products.description`) are not looked at.

    Raises:
        OutputError: there are such products; one is named for each region and period.
    """
    sentences = []
    for region, period in runs(run.config):
        wanted = content_hash(run.config, region, period)
        found = [
            path
            for path in map(Path, run.products(region, period))
            if path.exists() and _settings_of(path) not in (None, wanted)
        ]
        if found:
            sentences.append(
                f"{found[0]} was made with other settings than those for region {region} and "
                f"period {period}: choose another paths.results, or run with --force to "
                "replace it" + (f" and {len(found) - 1} more." if found[1:] else ".")
            )
    if sentences:
        raise OutputError("\n".join(sentences))


def drop_old_skip_lists(run: RunFiles) -> None:
    """Delete `skipped_blocks.json` where every product was made anew, without holes, since."""
    for region, period in runs(run.config):
        listed = Path(run.paths.skip_list.format(region=region, period=period))
        if run.holes(region, period) or not listed.exists():
            continue
        written = listed.stat().st_mtime
        files = run.product_files(region, period)
        files.pop("tiles", None)  # made from the time series, with or without embeddings
        made = [Path(path) for some in files.values() for path in some]
        if all(path.exists() and path.stat().st_mtime > written for path in made):
            listed.unlink()


def _settings_of(product: Path) -> str | None:
    """The hash of settings that a product states; None where it states none."""
    try:
        return str(read_record(product)["configuration_sha256"])
    except TileError:
        return None
