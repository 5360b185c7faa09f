"""Masks of the months in which a pixel has a valid step: one bit for each month of the period."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dates import days_of_year, mask_months
from .block_embeddings import mask_dtype
from .tile import TileArrays

STREAMS = ("sentinel2", "ascending", "descending")
"""The series that have masks, in the order of the observation counts."""


@dataclass(frozen=True)
class StepMonths:
    """The month of each step of a tile.

    Attributes:
        number: months of the period.
        steps: by stream (T,) int64, index of the month in the period; -1 outside the period.
    """

    number: int
    steps: Mapping[str, NDArray[np.int64]]

    @property
    def outside(self) -> int:
        """Number of steps outside the period."""
        return sum(int((months < 0).sum()) for months in self.steps.values())

    def masks(self, tile: TileArrays) -> NDArray[np.unsignedinteger]:
        """Return the masks of the pixels of a tile, (H, W, 3): bit m is 1 if a step of month m is
        valid; 0 outside the region."""
        dtype = mask_dtype(self.number)
        masks = np.zeros((len(STREAMS), *tile.shape), dtype)
        series: tuple[NDArray[Any], ...] = (
            tile.masks,
            _pairs(tile.sar_ascending),
            _pairs(tile.sar_descending),
        )
        for mask, stream, values in zip(masks, STREAMS, series, strict=True):
            for step, month in enumerate(self.steps[stream]):
                if month >= 0:
                    mask |= (values[step] != 0) * dtype.type(1 << int(month))
        if tile.roi is not None:
            masks[:, tile.roi == 0] = 0
        return np.ascontiguousarray(np.moveaxis(masks, 0, -1))


def _pairs(values: NDArray[np.int16]) -> NDArray[np.int32]:
    """Return both channels of radar, (T, H, W, 2), as one number, (T, H, W): 0 if both are 0."""
    pairs: NDArray[np.int32] = np.ascontiguousarray(values).view(np.int32)
    return pairs.reshape(values.shape[:3])


@dataclass(frozen=True)
class PeriodMonths:
    """The months of a period.

    Attributes:
        start, end: first and last day, both included.
        months: `YYYY-MM` of each bit, in order.
    """

    start: datetime.date
    end: datetime.date
    months: tuple[str, ...]

    @classmethod
    def of(cls, source: str, start: datetime.date, end: datetime.date) -> PeriodMonths | None:
        """Return the months of a period; None where no masks are made (see `dates.mask_months`)."""
        months = mask_months(source, start, end)
        return cls(start, end, tuple(months)) if months else None

    @property
    def repeats_days(self) -> bool:
        """Whether a day of the year occurs twice in the period."""
        return len(days_of_year(self.start, self.end)) <= (self.end - self.start).days

    def of_dates(self, dates: Mapping[str, Sequence[str]]) -> StepMonths:
        """Return the months of the steps of a series with known dates.

        Args:
            dates: ISO dates of the steps by stream.
        """
        return self._steps({name: [day[:7] for day in dates[name]] for name in STREAMS})

    def of_days(self, series: Sequence[NDArray[Any]]) -> StepMonths:
        """Return the months of the steps of series without years, in whose period a day of the
        year occurs once.

        Args:
            series: (T,) days of the year of each stream.
        """
        return self.of_dates(self.dates(series))

    def dates(self, series: Sequence[NDArray[Any]]) -> dict[str, list[str]]:
        """Return the ISO dates of days of the year by stream, empty outside the period; arguments
        as of `of_days`."""
        days = {n: day.isoformat() for n, day in days_of_year(self.start, self.end).items()}
        return {
            name: [days.get(int(day), "") for day in array]
            for name, array in zip(STREAMS, series, strict=True)
        }

    def _steps(self, months: Mapping[str, Sequence[str]]) -> StepMonths:
        index = {month: n for n, month in enumerate(self.months)}
        return StepMonths(
            len(self.months),
            {
                name: np.array([index.get(month, -1) for month in names], np.int64)
                for name, names in months.items()
            },
        )
