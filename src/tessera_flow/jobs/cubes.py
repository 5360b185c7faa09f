"""Find periods that are missing in the store of all periods of a region, or are not configured."""

from __future__ import annotations

from pathlib import Path

from ..config.configuration import runs
from ..errors import TileError
from ..products.checksums import STORE_RECORD, Checksums, sha256_of
from ..products.cube import cube_periods, periods_left_out
from .files import RunFiles


def cube_faults(files: RunFiles) -> dict[str, str]:
    """Return what is wrong with the cubes, by the record of each period that must be added again.

    A cube is no output of a job, so Snakemake does not notice that it is missing. A period that was
    left out because it does not match is not added again before its store changes.
    """
    faults: dict[str, str] = {}
    for region in files.config.regions:
        cube = Path(files.paths.cube.format(region=region))
        present: set[str] = set()
        left_out: dict[str, str] = {}
        try:
            present = {entry["period"] for entry in cube_periods(cube)}
            left_out = {one["period"]: one["checksums_sha256"] for one in periods_left_out(cube)}
            damage = next(Checksums.of_store(cube).changed_sizes(), "") if present else ""
        except TileError as error:
            damage = str(error)
        for name, period in runs(files.config):
            record = files.paths.cube_record.format(region=region, period=period)
            if name != region or not Path(record).exists():
                continue
            if damage:
                faults[record] = f"{cube} is damaged: {damage}"
            elif period not in present and not _is_store(
                files, region, period, left_out.get(period)
            ):
                faults[record] = f"{cube} does not have the period {period}"
    return faults


def _is_store(files: RunFiles, region: str, period: str, record_sha256: str | None) -> bool:
    """Return whether the store of a period has a record with this SHA-256."""
    record = Path(files.paths.zarr.format(region=region, period=period), STORE_RECORD)
    return record_sha256 is not None and record.exists() and sha256_of(record) == record_sha256


def cube_warnings(files: RunFiles) -> list[str]:
    """Return a warning for each cube with periods that are not in the configuration, and for each
    period of the configuration that a cube is without because it does not match."""
    if not files.config.products.cube:
        return []
    texts = []
    for region in files.config.regions:
        cube = Path(files.paths.cube.format(region=region))
        known = {period for name, period in runs(files.config) if name == region}
        try:
            names = [entry["period"] for entry in cube_periods(cube)]
            left_out = periods_left_out(cube)
        except TileError:
            continue  # `cube_faults` has it
        if others := [name for name in names if name not in known]:
            texts.append(
                f"{cube} keeps {', '.join(others)}, which the configuration does not have for "
                f"region {region}: to make it without, delete that folder and run again."
            )
        texts += [
            f"{cube} is without the period {one['period']}: {one['reason']}."
            for one in left_out
            if one["period"] in known
        ]
    return texts
