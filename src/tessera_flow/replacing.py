"""What a run must not replace: products that were made with other settings."""

from __future__ import annotations

from pathlib import Path

from .config import runs
from .config_hash import content_hash
from .errors import OutputError, TileError
from .layout import Layout
from .products.description import read_record


def refuse_replacing(run: Layout) -> None:
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


def _settings_of(product: Path) -> str | None:
    """The hash of settings that a product states; None where it states none."""
    try:
        return str(read_record(product)["configuration_sha256"])
    except TileError:
        return None
