"""The time series of one tile: seven arrays, and reading them from a `patches` block file.

Reference tile folders, which hold the same arrays, are read by `tile_folders.format`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ..block_file import Allocate
from ..errors import TileError
from ..sensors.needed_values import NEEDED, NeededValues, kept_steps
from ..sensors.sentinel2 import BANDS
from .block_chunks import read_array

LAST_DAY = 366


@dataclass(frozen=True)
class TileArrays:
    """The time series of one tile, in memory or memory-mapped. T, Ta and Td may be 0.

    Attributes:
        bands: (T, H, W, 10) uint16, Sentinel-2 digital numbers in the order
            `sentinel2.BANDS`; or those of them that an embedding can depend on.
        masks: (T, H, W) uint8, 1 where the step is valid.
        doys: (T,) integer, day of year 1..366.
        sar_ascending: (Ta, H, W, 2) int16, scaled decibels of vv and vh, both 0 where
            missing.
        sar_ascending_doy: (Ta,) integer.
        sar_descending: (Td, H, W, 2) int16.
        sar_descending_doy: (Td,) integer.
        roi: (H, W) uint8, not 0 inside the region; None if all pixels are inside.
        positions: (2, H, W) int64, row and column of each pixel in its grid, for pixels that are
            not side by side there; None: those that follow from the origin of the tile.
    """

    bands: NDArray[np.uint16] | NeededValues
    masks: NDArray[np.uint8]
    doys: NDArray[np.integer]
    sar_ascending: NDArray[np.int16]
    sar_ascending_doy: NDArray[np.integer]
    sar_descending: NDArray[np.int16]
    sar_descending_doy: NDArray[np.integer]
    roi: NDArray[np.uint8] | None = None
    positions: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.masks.shape[1:]
        return height, width

    def bands_of(self, rows: slice) -> NDArray[np.uint16]:
        """Return the digital numbers of some rows, (T, h, W, 10); those that no embedding depends
        on may be 0."""
        if isinstance(self.bands, NeededValues):
            return self.bands.rows(rows)
        return self.bands[:, rows]

    def bands_at(self, pixels: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Return the digital numbers of pixels that are numbered row by row, (T, n, 10), as
        `bands_of`."""
        if isinstance(self.bands, NeededValues):
            return self.bands.at(pixels)
        taken: NDArray[np.uint16] = np.take(flat_pixels(self.bands), pixels, axis=1)
        return taken

    def has_value(self, rows: slice) -> NDArray[np.bool_]:
        """Return which pixels of some rows have a digital number other than 0, (P,) bool."""
        if isinstance(self.bands, NeededValues):
            return self.bands.has_value[rows].reshape(-1)
        some: NDArray[np.bool_] = (flat_pixels(self.bands[:, rows]) != 0).any(axis=(0, 2))
        return some


def flat_pixels(stack: NDArray[Any]) -> NDArray[Any]:
    """Return a stack (T, H, W, ...) as (T, H * W, ...)."""
    return stack.reshape(stack.shape[0], math.prod(stack.shape[1:3]), *stack.shape[3:])


ARRAYS = tuple(f.name for f in fields(TileArrays) if f.name not in ("roi", "positions"))
"""Names of the seven arrays."""

TILE_PIXEL_ARRAYS = frozenset({"bands", "masks", "sar_ascending", "sar_descending"})
"""The arrays with axes (time steps, rows, columns, ...); the others have time steps only."""

DAYS = ("doys", "sar_ascending_doy", "sar_descending_doy")
"""The arrays with the day of the year of each step: S2, S1 ascending, S1 descending."""

# Number of axes and type of each array; days may have any integer type.
_FORMS: dict[str, tuple[int, type[Any]]] = {
    "bands": (4, np.uint16),
    "masks": (3, np.uint8),
    "doys": (1, np.integer),
    "sar_ascending": (4, np.int16),
    "sar_ascending_doy": (1, np.integer),
    "sar_descending": (4, np.int16),
    "sar_descending_doy": (1, np.integer),
}
_CHANNELS = {"bands": 10, "sar_ascending": 2, "sar_descending": 2}
_STACKS = (
    ("doys", ("bands", "masks")),
    ("sar_ascending_doy", ("sar_ascending",)),
    ("sar_descending_doy", ("sar_descending",)),
)


def read_patch(group: zarr.Group, source: str, allocate: Allocate = np.empty) -> TileArrays:
    """Read one patch of a `patches` block file into memory.

    Args:
        group: the patch's group, with the seven arrays and `roi`; or with `NEEDED` in place of
            `bands`.
        source: name of the patch and its file in error messages.
        allocate: returns the memory of an array.

    Raises:
        TileError: an array is missing or does not fit another one, or a value is invalid.
    """
    stored = dict(group.arrays())  # once: zarr parses the metadata of an array in a millisecond
    complete = "bands" in stored
    names = (*ARRAYS, "roi") if complete else (*NEEDED, *ARRAYS[1:], "roi")
    missing = [name for name in names if name not in stored]
    if missing:
        raise TileError(
            f"{source} is incomplete: {', '.join(missing)} missing. Delete the file and run again."
        )
    arrays = {name: read_array(stored[name], allocate) for name in names}
    if arrays["masks"].dtype == np.bool_:
        arrays["masks"] = arrays["masks"].view(np.uint8)
    roi = arrays.pop("roi").astype(np.uint8, copy=False)
    needed = {name: arrays.pop(name) for name in NEEDED if name in arrays}
    check_arrays(arrays, source)
    pixels = arrays["masks"].shape[1:]
    for name, array in {"roi": roi, **needed}.items():
        if name != NEEDED[0] and array.shape != pixels:
            raise TileError(_wrong_shape(source, name, array.shape, pixels))
    if complete:
        return TileArrays(**arrays, roi=roi)
    for name, kind in zip(NEEDED, (np.uint16, np.bool_), strict=True):
        if needed[name].dtype != kind:
            raise TileError(
                f"{name} of {source} is {needed[name].dtype}, but should be {np.dtype(kind)}: "
                "delete the file and run again."
            )
    values, has_value = (needed[name] for name in NEEDED)
    kept = kept_steps(arrays["masks"], roi != 0)
    expected = int(np.count_nonzero(kept)), len(BANDS)
    if values.shape != expected:
        raise TileError(_wrong_shape(source, NEEDED[0], values.shape, expected))
    return TileArrays(NeededValues(values, kept, has_value), **arrays, roi=roi)


def check_arrays(arrays: Mapping[str, NDArray[Any]], source: str, suffix: str = "") -> None:
    """Check types, shapes, days and masks of the seven arrays of a tile.

    Args:
        arrays: the arrays by name; `bands` may be missing.
        source: name of the tile in error messages.
        suffix: appended to the names of arrays in error messages, such as `.npy`.

    Raises:
        TileError: an array has the wrong type or number of axes, or does not fit another
            one; a day is outside 1..366; or a mask is neither 0 nor 1.
    """
    for name, array in arrays.items():
        rank, kind = _FORMS[name]
        if array.ndim != rank or not np.issubdtype(array.dtype, kind):
            raise TileError(
                f"{name}{suffix} of {source} is {array.dtype} with {array.ndim} axes, but should "
                f"be {kind.__name__} with {rank}: make the tile again in that form."
            )
        channels = _CHANNELS.get(name)
        if channels is not None and array.shape[-1] != channels:
            raise TileError(
                f"{name}{suffix} of {source} has {array.shape[-1]} channels, but should have "
                f"{channels}: make the tile again in that form."
            )
    pixels = arrays["masks"].shape[1:]
    for days, stacks in _STACKS:
        for name in filter(arrays.__contains__, stacks):
            expected = (*arrays[days].shape, *pixels)
            if arrays[name].shape[:3] != expected:
                raise TileError(
                    _wrong_shape(source, f"{name}{suffix}", arrays[name].shape[:3], expected)
                )
        bad = arrays[days][(arrays[days] < 1) | (arrays[days] > LAST_DAY)]
        if bad.size:
            raise TileError(
                f"{days}{suffix} of {source} contains day {int(bad[0])}, but days of year are 1 "
                f"to {LAST_DAY}: correct the days or make the tile again."
            )
    _check_masks(arrays["masks"], source, suffix)


def _check_masks(masks: NDArray[Any], source: str, suffix: str) -> None:
    for step in masks:  # one at a time: the array may be memory-mapped
        if step.size and step.max() > 1:
            other = [int(value) for value in np.unique(step) if value > 1]
            shown = ", ".join(map(str, other[:3])) + (", ..." if len(other) > 3 else "")
            raise TileError(
                f"masks{suffix} of {source} contains {shown}, but a mask is 1 where the step is "
                "valid and 0 elsewhere: make the tile again in that form."
            )


def _wrong_shape(source: str, name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    return (
        f"{name} of {source} has shape {shape}, but its days and masks require {expected}: the "
        "files are not of one tile, so copy or make the tile again."
    )
