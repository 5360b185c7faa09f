"""Read the patches of a block from their file, with the months of their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ..block_file import Allocate, get_array
from ..errors import TileError
from ..region.grid import Window, patch_name, tiling
from .device_series import SeriesRequest, SeriesResult
from .months import PeriodMonths, StepMonths
from .series import ordinals, summarise
from .tile import DAYS, TileArrays, read_patch

POSITIONS = "positions"
"""Array (2, H, W) of a file of patches: see `TileArrays.positions`."""


@dataclass(frozen=True)
class PatchFile:
    """An open file of patches.

    Attributes:
        group: its root group.
        path: its path, for messages.
        patches: windows in the block of the patches that have a pixel of the region.
        shape: (H, W) of the block.
        patch_size: edge of a patch that is not clipped.
        dates: ISO dates of the steps by series (`months.STREAMS`), the same for all patches; None
            for tile folders, which have days of the year only.
        period: the months of the period; None if no masks of months are made.
        origin: (row, column) of the block's upper left pixel in the region's product grid.
        median_step: see `series.median_step`.
        masks: masks of months (h, w, 3) of each patch that was read.
        summaries: of the time series of each patch that was read; see `series`.
    """

    group: zarr.Group
    path: str
    patches: list[Window]
    shape: tuple[int, int]
    patch_size: int
    dates: Mapping[str, list[str]] | None
    period: PeriodMonths | None
    origin: tuple[int, int] = (0, 0)
    median_step: int = 1
    masks: dict[Window, NDArray[np.unsignedinteger]] = field(default_factory=dict)
    summaries: dict[Window, dict[str, NDArray[np.generic]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        group: zarr.Group,
        path: str,
        period: PeriodMonths | None,
        origin: tuple[int, int] = (0, 0),
        median_step: int = 1,
    ) -> PatchFile:
        """Read the attributes of a file of patches; for the arguments see the attributes.

        Raises:
            TileError: they are missing or wrong.
        """
        try:
            attributes: Mapping[str, Any] = group.attrs.asdict()
            height, width = (int(n) for n in attributes["shape"])
            patch_size = int(attributes["patch_size"])
            patches = [Window(*(int(n) for n in patch)) for patch in attributes["patches"]]
            # A patch is a chunk of the output.
            if not set(patches) <= set(tiling(height, width, patch_size)):
                raise ValueError("patches are not those of the shape and the patch size")
            return cls(
                group,
                path,
                patches,
                (height, width),
                patch_size,
                attributes.get("dates"),
                period,
                origin,
                median_step,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TileError(
                f"{path} is not a file of patches (attributes `patches`, `shape` and `patch_size` "
                "are missing or wrong): delete it and run again."
            ) from error

    @property
    def month_count(self) -> int:
        """Number of months that masks have bits for; 0 without masks."""
        return 0 if self.period is None else len(self.period.months)

    def position(self, patch: Window) -> tuple[int, int]:
        """Return (row, column) of the upper left pixel of a patch in the region's grid."""
        return self.origin[0] + patch.y0, self.origin[1] + patch.x0

    def read(
        self, patch: Window, allocate: Allocate = np.empty, everywhere: bool = True
    ) -> TileArrays:
        """Read the arrays of a patch into arrays that `allocate` returns, and set its masks and
        its summary.

        Args:
            patch: its window.
            allocate: returns the memory of an array.
            everywhere: set also what `request` requests of a device.

        Raises:
            TileError: the patch is missing or damaged.
        """
        name = patch_name(patch)
        tile = read_patch(self._group(patch), f"the patch {name} of {self.path}", allocate)
        if tile.shape != patch.shape:
            raise TileError(
                f"The patch {name} of {self.path} has shape {tile.shape}, but the file lists "
                f"{patch.shape}: delete the file and run again."
            )
        if isinstance(positions := self.group.get(POSITIONS), zarr.Array):
            part = np.asarray(positions[(slice(None), *patch.slices)])
            tile = replace(tile, positions=part)
        if everywhere and self.period is not None:
            self.masks[patch] = self._months(self.period, patch).masks(tile)
        self.summaries[patch] = summarise(
            tile,
            self.dates_of(patch),
            self.position(patch),
            self.median_step,
            everywhere=everywhere,
        )
        return tile

    def request(self, patch: Window) -> SeriesRequest:
        """Return what a device has to count and summarise of a patch."""
        dates = self.dates_of(patch)
        return SeriesRequest(
            None if self.period is None else self._months(self.period, patch),
            None if dates is None else ordinals(dates),
            self.median_step,
            self.position(patch),
        )

    def add(self, patch: Window, result: SeriesResult) -> None:
        """Set what was requested of a device."""
        if result.masks is not None:
            self.masks[patch] = result.masks
        self.summaries[patch] |= result.arrays()

    def dates_of(self, patch: Window) -> Mapping[str, Sequence[str]] | None:
        """Return the ISO dates of the steps of a patch by series, empty for a day that is not in
        the period; None if they are not known (see `dates`)."""
        if self.dates is not None:
            return self.dates
        if self.period is None:
            return None
        group = self._group(patch)
        return self.period.dates([np.asarray(get_array(group, name)[:]) for name in DAYS])

    def pixel_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays (..., H, W) beside the patches."""
        return {name: np.asarray(array[:]) for name, array in self.group.arrays()}

    def steps_outside_period(self) -> int:
        """Return the largest number of steps of a patch that are outside the period."""
        if self.period is None:
            return 0
        return max((self._months(self.period, patch).outside for patch in self.patches), default=0)

    def _months(self, period: PeriodMonths, patch: Window) -> StepMonths:
        if self.dates is not None:
            return period.of_dates(self.dates)
        if period.repeats_days:
            raise TileError(
                f"{self.path} states no dates, and a day of the year occurs twice in the period: "
                "delete the file and run again."
            )
        group = self._group(patch)
        return period.of_days([np.asarray(get_array(group, name)[:]) for name in DAYS])

    def _group(self, patch: Window) -> zarr.Group:
        name = patch_name(patch)
        group = self.group.get(name)
        if not isinstance(group, zarr.Group):
            raise TileError(
                f"The patch {name} of {self.path} is missing: delete the file and run again."
            )
        return group
