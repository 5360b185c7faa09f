"""Count and summarise the time series of a tile on a GPU, which has them anyway.

The numbers are those of `months.StepMonths.masks` and `series.summarise`, integer by integer.
Nothing here waits for the device.

Shapes in the comments: T steps, P pixels of some rows of a tile (h, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .block_embeddings import mask_dtype
from .inputs import DeviceSteps
from .months import STREAMS, StepMonths
from .series import COLUMNS, steps_by_day

SORTED_VALUES = 2**25
"""Most values of a strip of the median image."""


@dataclass(frozen=True)
class SeriesRequest:
    """What to count and summarise of the time series of a tile.

    Attributes:
        months: of the steps, for masks of months; None for no masks.
        dates: ordinal of the date of each step by stream, 0 if it is not known; None if none is.
        step: see `series.median_step`.
        position: (row, column) of the tile's upper left pixel in the region's product grid.
    """

    months: StepMonths | None
    dates: Mapping[str, Sequence[int]] | None
    step: int
    position: tuple[int, int]

    def days(self) -> list[tuple[int, int, list[int]]]:
        """Return stream, ordinal and steps of each date, in the order of `series.summarise`."""
        if self.dates is None:
            return []
        return [
            (number, day, steps)
            for number, stream in enumerate(STREAMS)
            for day, steps in steps_by_day(self.dates[stream]).items()
        ]

    def start(
        self,
        valid: Sequence[Tensor],
        bands: DeviceSteps,
        inside: Tensor | None,
        rows: slice,
        width: int,
    ) -> list[Tensor]:
        """Compute everything for some rows of the tile.

        Args:
            valid: (T, P) bool by stream.
            bands: of Sentinel-2.
            inside: (P,) bool, pixels of the region; None for all.
            rows: of the tile.
            width: of the tile.

        Returns:
            Median (h', w', 3) int16 with the bits of uint16; numbers of valid pixels (D,) int64;
            masks of months (P, 3) int32, or (0, 3).
        """
        masked = valid if inside is None else [v & inside for v in valid]
        sums = [v.sum(1) for v in masked]
        days = [
            sums[stream][steps[0]]
            if len(steps) == 1
            else reduce(or_, (masked[stream][step] for step in steps)).sum()
            for stream, _, steps in self.days()
        ]
        counts = torch.stack(days) if days else sums[0][:0]
        return [self._median(masked[0], bands, rows, width), counts, self._masks(masked)]

    def _masks(self, valid: Sequence[Tensor]) -> Tensor:
        device, pixels = valid[0].device, valid[0].shape[1]
        if self.months is None:
            return torch.zeros((0, len(STREAMS)), dtype=torch.int32, device=device)
        bits = torch.arange(self.months.number, device=device)[:, None]
        masks = []
        for stream, steps in zip(STREAMS, valid, strict=True):
            found = torch.zeros((self.months.number, pixels), dtype=torch.bool, device=device)
            for step, month in enumerate(self.months.steps[stream].tolist()):
                if month >= 0:
                    found[month] |= steps[step]
            masks.append((found.to(torch.int64) << bits).sum(0).to(torch.int32))
        return torch.stack(masks, dim=1)

    def _median(self, valid: Tensor, bands: DeviceSteps, rows: slice, width: int) -> Tensor:
        steps, step, device = len(valid), self.step, valid.device
        first = -(self.position[0] + rows.start) % step
        columns = slice(-self.position[1] % step, None, step)
        height = rows.stop - rows.start
        numbers = torch.arange(height * width, device=device).view(height, width)
        pixels = numbers[first::step, columns]
        known = valid.view(steps, height, width)[:, first::step, columns]
        every = torch.arange(steps, device=device)[:, None, None]
        shape = (*pixels.shape, len(COLUMNS))
        result = torch.zeros(shape, dtype=bands.raw.dtype, device=device)
        size = max(1, SORTED_VALUES // max(1, steps * shape[1] * len(COLUMNS)))
        for start in range(0, shape[0] if steps else 0, size):
            strip = slice(start, start + size)
            image = [bands.values(every, pixels[strip], band) for band in COLUMNS]
            colours, here = torch.stack(image, dim=-1), known[:, strip]
            values = torch.where(here[..., None], colours.to(torch.int32) & 0xFFFF, 0xFFFF)
            number = here.sum(0)
            middle = torch.div((number - 1).clamp_(min=0), 2, rounding_mode="floor")
            index = middle[None, ..., None].expand(1, *values.shape[1:])
            median = values.sort(dim=0).values.gather(0, index)[0]
            result[strip] = torch.where(number[..., None] > 0, median, 0).to(result.dtype)
        return result


@dataclass
class SeriesResult:
    """What was requested of a tile.

    Attributes:
        request: the request.
        median: (h, w, 3) uint16.
        counts: (D,) int64.
        masks: (H, W, 3) masks of months; None if they were not requested.
    """

    request: SeriesRequest
    median: NDArray[np.uint16]
    counts: NDArray[np.int64]
    masks: NDArray[np.unsignedinteger] | None

    @classmethod
    def of(cls, request: SeriesRequest, shape: tuple[int, int]) -> SeriesResult:
        """Return arrays for a tile of a shape, to be filled."""
        starts = [-n % request.step for n in request.position]
        size = [len(range(first, n, request.step)) for first, n in zip(starts, shape, strict=True)]
        months = request.months
        return cls(
            request,
            np.zeros((*size, len(COLUMNS)), np.uint16),
            np.zeros(len(request.days()), np.int64),
            None if months is None else np.zeros((*shape, len(STREAMS)), mask_dtype(months.number)),
        )

    def add(self, rows: slice, results: Sequence[NDArray[Any]]) -> None:
        """Add what `SeriesRequest.start` returned for some rows."""
        median, counts, masks = results
        first = (rows.start + self.request.position[0] + self.request.step - 1) // self.request.step
        top = (self.request.position[0] + self.request.step - 1) // self.request.step
        self.median[first - top : first - top + len(median)] = median.view(np.uint16)
        self.counts += counts
        if self.masks is not None:
            self.masks[rows] = masks.view(np.uint32).reshape(-1, *self.masks.shape[1:])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays `median` and `days` of `series.summarise`."""
        result: dict[str, NDArray[np.generic]] = {"median": self.median}
        if self.request.dates is not None:
            found = zip(self.request.days(), self.counts.tolist(), strict=True)
            days = [(stream, day, number) for (stream, day, _), number in found]
            result["days"] = np.array(days, np.int64).reshape(-1, 3)
        return result
