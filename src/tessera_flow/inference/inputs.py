"""A tile's time steps as the model takes them: which are valid, and what standardises them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.statistics import Statistics
from ..sensors.sentinel1 import CHANNELS
from ..sensors.sentinel2 import BANDS
from .tile import TileArrays


@dataclass(frozen=True)
class SensorSteps:
    """One sensor's time steps for P pixels, as they are stored.

    Attributes:
        raw: (T, P, C) in stored units: uint16, int16 or float32.
        valid: (P, T) bool.
        days: (T,) int64, day of year.
        mean: (T, C) float32, the mean to subtract from each step.
        divisor: (T, C) float32, what to divide by then.
    """

    raw: NDArray[Any]
    valid: NDArray[np.bool_]
    days: NDArray[np.int64]
    mean: NDArray[np.float32]
    divisor: NDArray[np.float32]

    def on(self, device: torch.device) -> DeviceSteps:
        """The steps on a device, in stored units: a quarter to a half of what float32 takes."""
        unsigned = self.raw.dtype == np.uint16
        return DeviceSteps(
            as_tensor(self.raw.view(np.int16) if unsigned else self.raw, device),
            unsigned,
            *(as_tensor(array, device) for array in (self.days, self.mean, self.divisor)),
        )


@dataclass(frozen=True)
class DeviceSteps:
    """`SensorSteps` on a device, where sequences are gathered and standardised.

    Attributes:
        raw: (T, P, C); 16-bit integers without a sign are kept as those with one.
        unsigned: `raw` has no sign.
        days, mean, divisor: as in `SensorSteps`.
    """

    raw: Tensor
    unsigned: bool
    days: Tensor
    mean: Tensor
    divisor: Tensor

    def sequences(self, pixels: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised values and days of some steps of some pixels.

        (value - mean) / divisor, in float32.

        Args:
            pixels: (N,) int64.
            steps: (N, U) int64.

        Returns:
            (N, U, C) float32, (N, U) int64.
        """
        values = self.raw[steps, pixels[:, None]]
        if self.unsigned:
            values = values.to(torch.int32) & 0xFFFF
        standardised = values.to(torch.float32).sub_(self.mean[steps]).div_(self.divisor[steps])
        return standardised, self.days[steps]


def as_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device. PyTorch cannot share the memory of one that is read-only."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def sentinel2_steps(tile: TileArrays, rows: slice, chosen: Statistics) -> SensorSteps:
    """The Sentinel-2 steps of some rows of a tile, pixels row by row.

    A step is valid where its mask is 1, whatever the bands hold.
    """
    bands = np.asarray(tile.bands[:, rows])
    steps = bands.shape[0]
    mean, divisor = chosen.sentinel2.in_order(BANDS)
    valid = (np.asarray(tile.masks[:, rows]) == 1).reshape(steps, _size(bands)).T
    return SensorSteps(
        raw=bands.reshape(steps, _size(bands), len(BANDS)),
        valid=valid,
        days=np.asarray(tile.doys).astype(np.int64),
        mean=np.broadcast_to(mean, (steps, len(BANDS))),
        divisor=np.broadcast_to(divisor, (steps, len(BANDS))),
    )


def sentinel1_steps(
    tile: TileArrays, rows: slice, chosen: Statistics, empty_orbit_day: int | None = None
) -> SensorSteps:
    """The Sentinel-1 steps of some rows of a tile: ascending ones, then descending ones.

    A step is valid where any of its two channels is not 0. Each direction is standardised
    with its own statistics.

    Args:
        tile: the tile.
        rows: which of its rows.
        chosen: the statistics.
        empty_orbit_day: if given, a direction without any date gets one step of zeros on
            this day, which is never valid.
    """
    stacks = [np.asarray(s[:, rows]) for s in (tile.sar_ascending, tile.sar_descending)]
    days = [np.asarray(d) for d in (tile.sar_ascending_doy, tile.sar_descending_doy)]
    if empty_orbit_day is not None:
        for orbit, stack in enumerate(stacks):
            if not len(stack):
                stacks[orbit] = np.zeros((1, *stack.shape[1:]), stack.dtype)
                days[orbit] = np.array([empty_orbit_day])
    raw = np.concatenate([s.reshape(s.shape[0], _size(s), len(CHANNELS)) for s in stacks])
    by_orbit = [s.in_order(CHANNELS) for s in (chosen.ascending, chosen.descending)]
    repeats = [s.shape[0] for s in stacks]
    return SensorSteps(
        raw=raw,
        valid=((raw[..., 0] != 0) | (raw[..., 1] != 0)).T,
        days=np.concatenate(days).astype(np.int64),
        mean=np.repeat([mean for mean, _ in by_orbit], repeats, axis=0),
        divisor=np.repeat([divisor for _, divisor in by_orbit], repeats, axis=0),
    )


def count_steps(s2: SensorSteps, s1: SensorSteps, ascending: int) -> NDArray[np.uint16]:
    """How often each pixel is observed.

    Args:
        s2: Sentinel-2 steps.
        s1: Sentinel-1 steps, ascending first.
        ascending: how many of the Sentinel-1 steps are of ascending orbits that have dates
            (a row that stands for an empty orbit is never valid, and so in neither count).

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
    """Pixels of a stack (T, h, w, C); a reshape to -1 is undefined where T is 0."""
    return math.prod(stack.shape[1:3])
