"""Find periods that are missing in the store of all periods of a region, or are not configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.configuration import runs
from ...errors import TileError
from ...products.checksums import STORE_RECORD, Checksums, sha256_of
from ...products.stores.cube import cube_periods, periods_left_out
from ..files import RunFiles


@dataclass(frozen=True)
class CubeState:
    """What the cube of a region contains.

    Attributes:
        path: the cube.
        periods: names of its periods.
        left_out: `periods_left_out`.
        damage: what is wrong with it; empty if it is complete or does not exist.
    """

    path: Path
    periods: list[str]
    left_out: list[dict[str, Any]]
    damage: str


def read_cubes(files: RunFiles) -> dict[str, CubeState]:
    """Return the state of the cube of each region; nothing without `products.cube`."""
    if not files.config.products.cube:
        return {}
    paths = {r: Path(files.paths.cube.format(region=r)) for r in files.config.regions}
    return {region: _state(path) for region, path in paths.items()}


def _state(cube: Path) -> CubeState:
    try:
        periods = [entry["period"] for entry in cube_periods(cube)]
        left_out = periods_left_out(cube)
        damage = next(Checksums.of_store(cube).changed_sizes(), "") if periods else ""
    except TileError as error:
        return CubeState(cube, [], [], str(error))
    return CubeState(cube, periods, left_out, damage)


def cube_faults(files: RunFiles, cubes: Mapping[str, CubeState]) -> dict[str, str]:
    """Return what is wrong with the cubes, by the record of each period that must be added again.

    A cube is no output of a job, so Snakemake does not notice that it is missing. A period that was
    left out because it does not match is not added again before its store changes.
    """
    faults: dict[str, str] = {}
    for region, cube in cubes.items():
        left_out = {one["period"]: one["checksums_sha256"] for one in cube.left_out}
        for name, period in runs(files.config):
            record = files.paths.cube_record.format(region=region, period=period)
            if name != region or not Path(record).exists():
                continue
            if cube.damage:
                faults[record] = f"{cube.path} is damaged: {cube.damage}"
            elif period not in cube.periods and not _is_store(
                files, region, period, left_out.get(period)
            ):
                faults[record] = f"{cube.path} does not have the period {period}"
    return faults


def _is_store(files: RunFiles, region: str, period: str, record_sha256: str | None) -> bool:
    """Return whether the store of a period has a record with this SHA-256."""
    record = Path(files.paths.zarr.format(region=region, period=period), STORE_RECORD)
    return record_sha256 is not None and record.exists() and sha256_of(record) == record_sha256


def cube_warnings(files: RunFiles, cubes: Mapping[str, CubeState]) -> list[str]:
    """Return a warning for each cube with periods that are not in the configuration, and for each
    period of the configuration that a cube is without because it does not match."""
    texts = []
    for region, cube in cubes.items():
        known = {period for name, period in runs(files.config) if name == region}
        if others := [name for name in cube.periods if name not in known]:
            texts.append(
                f"{cube.path} keeps {', '.join(others)}, which the configuration does not have for "
                f"region {region}: to make it without, delete that folder and run again."
            )
        texts += [
            f"{cube.path} is without the period {one['period']}: {one['reason']}."
            for one in cube.left_out
            if one["period"] in known
        ]
    return texts
