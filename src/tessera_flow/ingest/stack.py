"""Join the slices of a block in date order and drop the dates without a valid pixel."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from ..block_file import CHUNK, create_array, create_block_file, get_array, open_block_file
from ..dates import day_of_year
from ..errors import TileError
from ..region.needed import passed_on
from ..sensors.levels import DayLevel, find_jumps
from ..sensors.sentinel1 import CHANNELS, ORBITS
from ..sensors.sentinel2 import BANDS
from .missing_scenes import MISSING_SCENES, check_period

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Day:
    date: datetime.date
    path: Path
    index: int


def _kept_days(
    paths: Sequence[Path], dates: str, kept: str
) -> tuple[list[_Day], int, tuple[int, int]]:
    """Return the days to keep in date order, the number of days with a scene, and (H, W)."""
    days = []
    candidates = 0
    shapes = set()
    for path in paths:
        with open_block_file(path) as group:
            flags = np.asarray(get_array(group, kept)[:])
            names = cast(list[str], group.attrs[dates])
            shapes.add(_block_shape(group))
        candidates += len(names)
        days += [
            _Day(datetime.date.fromisoformat(name), path, index)
            for index, (name, flag) in enumerate(zip(names, flags, strict=True))
            if flag
        ]
    if len(shapes) != 1:
        raise TileError(
            f"The slices {', '.join(map(str, paths))} have different shapes {sorted(shapes)}: "
            "delete them and run again."
        )
    return sorted(days, key=lambda day: day.date), candidates, shapes.pop()


def _missing_scenes(paths: Sequence[Path], limit: float) -> dict[str, Any]:
    """Join `left_out` and `replaced` of all slices, and check that few scenes are left out."""
    result: dict[str, Any] = {key: [] for key in MISSING_SCENES}
    scenes = 0
    for path in paths:
        with open_block_file(path) as group:
            scenes += cast(int, group.attrs.get("scene_count", 0))
            for key, entries in result.items():
                entries += cast(list[dict[str, str]], group.attrs.get(key, []))
    check_period(result["left_out"], scenes, limit)
    return result


def _jumps(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the days whose level differs from that of the days around them, and log them."""
    levels: list[dict[str, Any]] = []
    items: dict[str, list[str]] = {}
    for path in paths:
        with open_block_file(path) as group:
            levels += cast(list[dict[str, Any]], group.attrs.get("levels", []))
            names = cast(list[list[str]], group.attrs["items"])
            items |= dict(zip(cast(list[str], group.attrs["dates"]), names, strict=True))
    days = sorted(map(DayLevel.from_json, levels), key=lambda level: level.day)
    jumps = [replace(jump, items=tuple(items[jump.last.isoformat()])) for jump in find_jumps(days)]
    for jump in jumps:
        log.warning("%s", jump.text())
    return [jump.to_json() for jump in jumps]


def _block_shape(group: zarr.Group) -> tuple[int, int]:
    name = "bands" if "bands" in group else ORBITS[0]
    height, width = get_array(group, name).shape[1:3]
    return int(height), int(width)


def _images(days: Sequence[_Day], name: str, step: int) -> Iterator[NDArray[Any]]:
    """Yield one array per day; each slice file is opened once."""
    for path in dict.fromkeys(day.path for day in days):
        with open_block_file(path) as group:
            for day in days:
                if day.path == path:
                    yield np.asarray(get_array(group, name)[day.index])[::step, ::step]


def _write_stream(
    group: zarr.Group,
    name: str,
    days: Sequence[_Day],
    source: str,
    shape: tuple[int, ...],
    step: int,
    dtype: type[np.generic],
) -> None:
    array = create_array(group, name, (len(days), *shape), (1, CHUNK, CHUNK, *shape[2:]), dtype)
    for index, image in enumerate(_images(days, source, step)):
        array[index] = image


def _write_doys(
    group: zarr.Group, name: str, days: Sequence[_Day], dtype: type[np.generic]
) -> None:
    doys = np.array([day_of_year(day.date) for day in days], dtype)
    create_array(group, name, doys.shape, doys.shape, dtype)[:] = doys


def stack_sentinel2(
    slices: Sequence[Path],
    output: Path,
    downsample_rate: int = 1,
    max_missing_percent: float = 100.0,
) -> None:
    """Join slices from `download_sentinel2` into one block file.

    Output arrays: `bands` (T, H, W, 10) uint16, `masks` (T, H, W) uint8, `doys` (T,) uint16,
    in date order (a period can cross the end of a year); T may be 0. Attribute `scenes` counts the
    days with a scene; `left_out` and `replaced` are those of the slices, in order;
    `level_jumps` are the days whose values differ by about 1000 (see `levels.Jump`).

    Args:
        slices: block files of consecutive slices.
        output: the file to write.
        downsample_rate: keep every n-th pixel in rows and columns.
        max_missing_percent: largest share of missing or corrupt scenes of the period, in percent.

    Raises:
        ReadError: more scenes are missing or corrupt.
        TileError: a slice is missing, corrupt or has another shape.
        OutputError: the output cannot be written.
    """
    n = downsample_rate
    if passed_on(slices, output):
        return
    missing = _missing_scenes(slices, max_missing_percent)
    days, scenes, (height, width) = _kept_days(slices, "dates", "kept")
    shape = (-(-height // n), -(-width // n))
    attributes = {
        "dates": [day.date.isoformat() for day in days],
        "scenes": scenes,
        **missing,
        "level_jumps": _jumps(slices),
    }
    with create_block_file(output, attributes) as group:
        _write_stream(group, "bands", days, "bands", (*shape, len(BANDS)), n, np.uint16)
        _write_stream(group, "masks", days, "masks", shape, n, np.uint8)
        _write_doys(group, "doys", days, np.uint16)


def stack_sentinel1(
    slices: Sequence[Path],
    output: Path,
    downsample_rate: int = 1,
    max_missing_percent: float = 100.0,
) -> None:
    """Join slices from `download_sentinel1` into one block file.

    Output arrays per direction: `sar_ascending` (Ta, H, W, 2) int16 and `sar_ascending_doy`
    (Ta,) int16, likewise `descending`; Ta and Td may be 0. Arguments, attributes and errors
    as in `stack_sentinel2`.
    """
    n = downsample_rate
    if passed_on(slices, output):
        return
    missing = _missing_scenes(slices, max_missing_percent)
    streams = {orbit: _kept_days(slices, f"{orbit}_dates", f"{orbit}_kept") for orbit in ORBITS}
    attributes = {
        "scenes": sum(scenes for _, scenes, _ in streams.values()),
        **{
            f"{orbit}_dates": [day.date.isoformat() for day in days]
            for orbit, (days, _, _) in streams.items()
        },
        **missing,
    }
    with create_block_file(output, attributes) as group:
        for orbit, (days, _, (height, width)) in streams.items():
            shape = (-(-height // n), -(-width // n), len(CHANNELS))
            _write_stream(group, f"sar_{orbit}", days, orbit, shape, n, np.int16)
            _write_doys(group, f"sar_{orbit}_doy", days, np.int16)
