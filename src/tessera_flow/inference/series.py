"""Summarise the time series of a patch for the report, while they exist: the files are temporary.

A summary has a true-colour median image, the number of valid pixels of each date, and the complete
series of a few pixels. Inference makes it, because it has every patch in memory once, whatever its
source, and keeps the summary of a block in its embeddings file.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import zarr
from numpy.typing import NDArray

from ..block_file import create_array
from ..region.grid import Window
from ..region.pixel_order import window_priority
from ..sensors.sentinel1 import CHANNELS
from ..sensors.sentinel2 import BANDS
from .months import STREAMS
from .tile import TileArrays

SUMMARY = "summary"
"""Group of an embeddings file."""

COLOURS = ("B04", "B03", "B02")
"""Bands of the median image: red, green and blue."""

MEDIAN_EDGE = 1024
"""Most rows and columns of the median image of a block."""

PIXELS_OF_A_PATCH = 16
"""Pixels of each patch whose series are kept. They are chosen by position, without regard to their
values; which of them the report shows is decided when all embeddings are known."""

_ROWS = 32
_INVALID = np.uint16(65535)
COLUMNS = [BANDS.index(band) for band in COLOURS]
_NIR, _RED = BANDS.index("B08"), BANDS.index("B04")
_VV = CHANNELS.index("vv")


def median_step(block_edge: int) -> int:
    """Return n for a median image of every n-th row and column of the region's grid.

    Args:
        block_edge: edge of a block of the product grid that is not clipped.
    """
    return -(-block_edge // MEDIAN_EDGE)


def summarise(
    tile: TileArrays,
    dates: Mapping[str, Sequence[str]] | None,
    position: tuple[int, int],
    step: int,
    *,
    everywhere: bool = True,
) -> dict[str, NDArray[np.generic]]:
    """Summarise the time series of a patch.

    Args:
        tile: the patch.
        dates: ISO date of each step by stream (`months.STREAMS`), empty if it is not known; None
            if none is.
        position: (row, column) of its upper left pixel in the region's product grid.
        step: see `median_step`.
        everywhere: also what needs all pixels: `median` and `days`.

    Returns:
        `median` (h, w, 3) uint16, the median of the valid steps of `COLOURS` (the lower of the two
        in the middle), 0 without one; `pixels` (1,) int64, pixels inside the region; with dates
        also `days` (N, 3) int64, stream, ordinal of the date and number of valid pixels inside the
        region; `places` (n, 2) int64, rows and columns in the patch of the pixels whose series are
        kept; `series` (M, 4) float32, number of the pixel, stream, ordinal of the date, and NDVI
        or VV in dB.
    """
    inside = np.ones(tile.shape, bool) if tile.roi is None else tile.roi != 0
    summary: dict[str, NDArray[np.generic]] = {
        "pixels": np.array([np.count_nonzero(inside)], np.int64)
    }
    if everywhere:
        summary["median"] = _median(tile, inside, position, step)
    if dates is not None:
        known = ordinals(dates)
        if everywhere:
            summary["days"] = _days(tile, inside, known)
        summary["places"] = places = _places(tile, inside, position)
        summary["series"] = _series(tile, places, known)
    return summary


def ordinals(dates: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """Return ordinals of ISO dates by stream; 0 for an unknown one."""
    return {
        stream: [datetime.date.fromisoformat(day).toordinal() if day else 0 for day in days]
        for stream, days in dates.items()
    }


def steps_by_day(ordinals: Sequence[int]) -> dict[int, list[int]]:
    """Return the steps of each known day: tile folders can have two steps of one day."""
    steps: dict[int, list[int]] = {}
    for index, ordinal in enumerate(ordinals):
        if ordinal:
            steps.setdefault(ordinal, []).append(index)
    return steps


def _median(
    tile: TileArrays, inside: NDArray[np.bool_], position: tuple[int, int], step: int
) -> NDArray[np.uint16]:
    rows = range(-position[0] % step, tile.shape[0], step)
    columns = slice(-position[1] % step, None, step)
    width = len(range(columns.start, tile.shape[1], step))
    result = np.zeros((len(rows), width, len(COLOURS)), np.uint16)
    if not len(tile.doys) or not result.size:
        return result
    numbers = np.arange(math.prod(tile.shape)).reshape(tile.shape)
    for start in range(0, len(rows), _ROWS):
        strip = slice(rows[start], rows[min(start + _ROWS, len(rows)) - 1] + 1, step)
        valid = tile.masks[:, strip, columns] != 0
        bands = tile.bands_at(numbers[strip, columns].reshape(-1))[..., COLUMNS]
        values = np.where(
            valid[..., np.newaxis], bands.reshape(*valid.shape, len(COLUMNS)), _INVALID
        )
        ordered = np.sort(np.moveaxis(values, 0, -1), axis=-1)
        number = np.count_nonzero(valid, axis=0)
        middle = np.maximum(number - 1, 0) // 2
        median = np.take_along_axis(ordered, middle[..., np.newaxis, np.newaxis], axis=-1)[..., 0]
        median[(number == 0) | ~inside[strip, columns]] = 0
        result[start : start + _ROWS] = median
    return result


def _days(
    tile: TileArrays, inside: NDArray[np.bool_], ordinals: Mapping[str, Sequence[int]]
) -> NDArray[np.int64]:
    rows = []
    for number, stream in enumerate(STREAMS):
        for ordinal, indices in steps_by_day(ordinals[stream]).items():
            valid = np.logical_or.reduce([_valid(tile, stream, index) for index in indices])
            rows.append((number, ordinal, np.count_nonzero(valid & inside)))
    return np.array(rows, np.int64).reshape(-1, 3)


def _valid(tile: TileArrays, stream: str, step: int) -> NDArray[np.bool_]:
    if stream == "sentinel2":
        return np.asarray(tile.masks[step] != 0)
    values: NDArray[np.int16] = getattr(tile, f"sar_{stream}")[step]
    return np.asarray((values[..., 0] != 0) | (values[..., 1] != 0))


def _places(
    tile: TileArrays, inside: NDArray[np.bool_], position: tuple[int, int]
) -> NDArray[np.int64]:
    """Return (n, 2) rows and columns of the pixels inside the region of lowest priority."""
    candidates = np.flatnonzero(inside)
    priority = window_priority(*position, tile.shape).reshape(-1)[candidates]
    if len(candidates) > PIXELS_OF_A_PATCH:
        few = np.argpartition(priority, PIXELS_OF_A_PATCH)[:PIXELS_OF_A_PATCH]
        candidates, priority = candidates[few], priority[few]
    chosen = candidates[np.argsort(priority)]
    return np.stack(np.unravel_index(chosen, tile.shape), axis=-1).astype(np.int64)


def _series(
    tile: TileArrays, places: NDArray[np.int64], ordinals: Mapping[str, Sequence[int]]
) -> NDArray[np.float32]:
    rows, columns = places.T
    parts = []
    for number, stream in enumerate(STREAMS):
        days = np.asarray(ordinals[stream], np.int64)
        if stream == "sentinel2":
            pixels = tile.bands_at(rows * tile.shape[1] + columns).astype(np.float32)
            red, nir = pixels[..., _RED], pixels[..., _NIR]
            valid = (tile.masks[:, rows, columns] != 0) & (red + nir > 0)
            values = (nir - red) / np.where(valid, red + nir, 1)
        else:
            scaled = getattr(tile, f"sar_{stream}")[:, rows, columns, _VV].astype(np.float32)
            valid = scaled != 0
            # The stored number is 200 (20 log10(power) + 50); decibels of power are 10 log10.
            values = (scaled / 200 - 50) / 2
        step, pixel = np.nonzero(valid & (days != 0)[:, np.newaxis])
        stream_column = np.full(len(step), number)
        parts.append(np.stack([pixel, stream_column, days[step], values[step, pixel]], axis=-1))
    return np.concatenate(parts).astype(np.float32)


def with_vectors(
    summary: Mapping[str, NDArray[np.generic]],
    values: NDArray[np.generic],
    scales: NDArray[np.float32] | None,
) -> dict[str, NDArray[np.generic]]:
    """Add `vectors` (n, K) float32: the embeddings of the pixels whose series are kept, NaN if a
    pixel has none.

    Args:
        summary: of a patch, see `summarise`.
        values: (H, W, K) embeddings of the patch, or their codes.
        scales: (H, W) of the codes; None for embeddings.
    """
    if "places" not in summary:
        return dict(summary)
    rows, columns = summary["places"].T
    vectors = values[rows, columns].astype(np.float32)
    if scales is not None:
        vectors *= scales[rows, columns, np.newaxis]
    return {**summary, "vectors": vectors}


def write_summary(
    target: zarr.Group,
    shape: tuple[int, int],
    origin: tuple[int, int],
    step: int,
    patches: Iterable[tuple[Window, Mapping[str, NDArray[np.generic]]]],
) -> None:
    """Write the summaries of the patches of a block as one group, `SUMMARY`, of its file.

    The arrays are those of `summarise`, of the block: `places` are rows and columns of the block,
    and `days` has one row for each date. Without known dates only `median` is there. Attributes
    `step` and `pixels`.

    Args:
        target: the embeddings file.
        shape: (H, W) of the block.
        origin: (row, column) of its upper left pixel in the region's product grid.
        step: see `median_step`.
        patches: window in the block, and arrays of `with_vectors`.
    """
    first = [-n % step for n in origin]
    size = [len(range(start, n, step)) for start, n in zip(first, shape, strict=True)]
    median = np.zeros((*size, len(COLOURS)), np.uint16)
    counts: dict[tuple[int, int], int] = {}
    joined: dict[str, list[NDArray[np.generic]]] = {}
    pixels = number = 0
    for patch, arrays in patches:
        part = arrays["median"]
        top = (patch.y0 - first[0] + step - 1) // step
        left = (patch.x0 - first[1] + step - 1) // step
        median[top : top + part.shape[0], left : left + part.shape[1]] = part
        pixels += int(arrays["pixels"][0])
        if "days" not in arrays:
            continue
        for stream, day, valid in arrays["days"].tolist():
            counts[stream, day] = counts.get((stream, day), 0) + valid
        series = arrays["series"].astype(np.float32)
        series[:, 0] += number
        number += len(arrays["places"])
        places = arrays["places"] + np.array([patch.y0, patch.x0])
        for name, rows in (("places", places), ("series", series), ("vectors", arrays["vectors"])):
            joined.setdefault(name, []).append(rows)
    group = target.create_group(SUMMARY, attributes={"step": step, "pixels": pixels})
    written = {"median": median} | {name: np.concatenate(parts) for name, parts in joined.items()}
    if joined:
        written["days"] = np.array([(*key, n) for key, n in sorted(counts.items())], np.int64)
    for name, values in written.items():
        array = create_array(group, name, values.shape, values.shape, values.dtype)
        if values.size:
            array[...] = values
