"""The time steps of a tile as input of the model: valid steps, and standardisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.statistics import Statistics
from ..sensors.sentinel1 import CHANNELS
from ..sensors.sentinel2 import BANDS
from .tile import TileArrays

Days: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]
"""Days (T,), means (T, C) and divisors (T, C) of steps, as in `SensorSteps`."""


@dataclass(frozen=True)
class SensorSteps:
    """The time steps of one sensor for P pixels, in stored units.

    Attributes:
        raw: (T, P, C) in stored units: uint16, int16 or float32.
        valid: (P, T) bool.
        days: (T,) int64, day of year.
        mean: (T, C) float32, subtracted from each step.
        divisor: (T, C) float32, by which the difference is divided.
    """

    raw: NDArray[Any]
    valid: NDArray[np.bool_]
    days: NDArray[np.int64]
    mean: NDArray[np.float32]
    divisor: NDArray[np.float32]

    def on(self, device: torch.device) -> DeviceSteps:
        """Copy the steps to a device, in stored units (a quarter to a half of float32)."""
        unsigned = self.raw.dtype == np.uint16
        return DeviceSteps(
            as_tensor(self.raw.view(np.int16) if unsigned else self.raw, device),
            unsigned,
            *(as_tensor(array, device) for array in (self.days, self.mean, self.divisor)),
        )


@dataclass(frozen=True)
class DeviceSteps:
    """`SensorSteps` on a device, which gathers and standardises sequences.

    Attributes:
        raw: (T, P, C), or with `places` (n, C); uint16 is stored as int16.
        unsigned: `raw` is uint16.
        days, mean, divisor: as in `SensorSteps`.
        places: (T, P) int32, the row of `raw` with the values of a step of a pixel; None if `raw`
            has all steps of all pixels.
    """

    raw: Tensor
    unsigned: bool
    days: Tensor
    mean: Tensor
    divisor: Tensor
    places: Tensor | None = None

    def values(self, steps: Tensor, pixels: Tensor, channel: int | None = None) -> Tensor:
        """Return stored values of steps of pixels, of all channels (..., C) or of one (...).

        Args:
            steps, pixels: int64, of shapes that NumPy would broadcast to (...).
            channel: number of the channel.
        """
        raw = self.raw if channel is None else self.raw[..., channel]
        return raw[steps, pixels] if self.places is None else raw[self.places[steps, pixels]]

    def sequences(self, pixels: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return standardised values and days of U steps of each of N pixels.

        (value - mean) / divisor, in float32.

        Args:
            pixels: (N,) int64.
            steps: (N, U) int64.

        Returns:
            (N, U, C) float32, (N, U) int64.
        """
        values = self.values(steps, pixels[:, None])
        if self.unsigned:
            values = values.to(torch.int32) & 0xFFFF
        standardised = values.to(torch.float32).sub_(self.mean[steps]).div_(self.divisor[steps])
        return standardised, self.days[steps]


def as_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device; on a CPU a writable array shares its memory."""
    array = np.ascontiguousarray(array)  # PyTorch cannot share the memory of a read-only array
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array in the byte order of this machine: a tile may be written on another."""
    return np.asarray(array, array.dtype.newbyteorder("="))


def sentinel2_steps(tile: TileArrays, rows: slice, statistics: Statistics) -> SensorSteps:
    """Return the Sentinel-2 steps of `rows` of a tile, pixels in row-major order.

    A step is valid where its mask is 1, whatever the values of the bands.
    """
    bands = _native(tile.bands_of(rows))
    steps = bands.shape[0]
    valid = (np.asarray(tile.masks[:, rows]) == 1).reshape(steps, _size(bands)).T
    return SensorSteps(
        bands.reshape(steps, _size(bands), len(BANDS)), valid, *sentinel2_days(tile, statistics)
    )


def sentinel2_days(tile: TileArrays, statistics: Statistics) -> Days:
    """Return days, means and divisors of the Sentinel-2 steps, as in `SensorSteps`."""
    days = np.asarray(tile.doys).astype(np.int64)
    mean, divisor = statistics.sentinel2.in_order(BANDS)
    shape = (len(days), len(BANDS))
    return days, np.broadcast_to(mean, shape), np.broadcast_to(divisor, shape)


def sentinel1_steps(
    tile: TileArrays, rows: slice, statistics: Statistics, empty_orbit_day: int | None = None
) -> SensorSteps:
    """Return the Sentinel-1 steps of `rows` of a tile: first ascending, then descending.

    A step is valid where any of its two channels is not 0. Each direction has its own
    statistics.

    Args:
        tile: the tile.
        rows: slice of rows.
        statistics: the statistics.
        empty_orbit_day: if given, a direction without any date gets one invalid step of zeros
            on this day.
    """
    stacks = [_native(s) for s in sentinel1_stacks(tile, rows, empty_orbit_day)]
    raw = np.concatenate([s.reshape(s.shape[0], _size(s), len(CHANNELS)) for s in stacks])
    valid = ((raw[..., 0] != 0) | (raw[..., 1] != 0)).T
    return SensorSteps(raw, valid, *sentinel1_days(tile, statistics, empty_orbit_day))


def sentinel1_stacks(
    tile: TileArrays, rows: slice, empty_orbit_day: int | None = None
) -> list[NDArray[np.int16]]:
    """Return `rows` of the ascending and the descending values; see `sentinel1_steps`."""
    stacks = [tile.sar_ascending[:, rows], tile.sar_descending[:, rows]]
    if empty_orbit_day is None:
        return stacks
    return [s if len(s) else np.zeros((1, *s.shape[1:]), s.dtype) for s in stacks]


def sentinel1_days(
    tile: TileArrays, statistics: Statistics, empty_orbit_day: int | None = None
) -> Days:
    """Return days, means and divisors of the Sentinel-1 steps, as in `SensorSteps`."""
    days = [np.asarray(d) for d in (tile.sar_ascending_doy, tile.sar_descending_doy)]
    if empty_orbit_day is not None:
        days = [d if len(d) else np.array([empty_orbit_day]) for d in days]
    by_orbit = [s.in_order(CHANNELS) for s in (statistics.ascending, statistics.descending)]
    repeats = [len(d) for d in days]
    return (
        np.concatenate(days).astype(np.int64),
        np.repeat([mean for mean, _ in by_orbit], repeats, axis=0),
        np.repeat([divisor for _, divisor in by_orbit], repeats, axis=0),
    )


def count_steps(s2: SensorSteps, s1: SensorSteps, ascending: int) -> NDArray[np.uint16]:
    """Count the valid steps of each pixel.

    Args:
        s2: Sentinel-2 steps.
        s1: Sentinel-1 steps, ascending first.
        ascending: number of the Sentinel-1 steps of ascending orbits (the row of an empty
            orbit is never valid, and so is not counted).

    Returns:
        (P, 3) uint16, valid S2, S1 ascending and S1 descending steps.
    """
    return np.stack(
        [
            np.count_nonzero(valid, axis=1)
            for valid in (s2.valid, s1.valid[:, :ascending], s1.valid[:, ascending:])
        ],
        axis=1,
    ).astype(np.uint16)


def _size(stack: NDArray[Any]) -> int:
    """Return the pixels of a stack (T, h, w, C); a reshape to -1 is undefined if T is 0."""
    return math.prod(stack.shape[1:3])
