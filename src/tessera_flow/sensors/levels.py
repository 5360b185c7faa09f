"""Compare the level of digital numbers of each day with the days around it.

An offset of 1000 that was not removed, or removed twice, shifts all bands by 1000 at once. Snow,
haze, water and the seasons do not: they change bands differently. So a jump of about 1000 in
nearly all bands is reported, whatever its cause.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sentinel2 import BANDS, BOA_OFFSET

_FEWEST_PIXELS = 100
_MOST_PIXELS = 40_000
_NAMED = 3
_AROUND = 3
"""Days before, and days after, that a day is compared with."""

_VISIBLE = [BANDS.index(band) for band in ("B02", "B03", "B04")]
_OTHERS = [index for index in range(len(BANDS)) if index not in _VISIBLE]

_TOLERANCE, _TOLERANCE_OTHERS = 300, 600
"""Largest deviation from a shift of 1000 in the visible bands and in the others, which change more
with the seasons."""

_OTHERS_SHIFTED = len(_OTHERS) - 1
"""Number of bands, of those that are not visible, that must be shifted."""

_CUT_OFF = 50
"""Below this value, the median of a visible band is that of values cut off at 1."""

_NEAR_INFRARED, _LAND = BANDS.index("B08"), 300
"""Median of B08 from which on most pixels are not water, whose visible bands can be near 0."""

_BRIGHTER = 300
"""Least increase of the median: thin clouds brighten dark pixels and hardly change bright ones."""

_DARKER = 150
"""Least decrease that counts, since a shifted value cannot fall below 1."""


@dataclass(frozen=True)
class DayLevel:
    """Level of the valid pixels of one day: percentiles 5 and 50 of each band."""

    day: datetime.date
    low: tuple[int, ...]
    middle: tuple[int, ...]

    @classmethod
    def of(
        cls, day: datetime.date, bands: NDArray[np.uint16], valid: NDArray[np.bool_]
    ) -> DayLevel | None:
        """Return the level of a mosaic, (H, W, 10); None if it has too few valid pixels.

        Pixels with thin clouds should not count as valid.
        """
        if np.count_nonzero(valid) < _FEWEST_PIXELS:
            return None
        step = max(1, int((np.count_nonzero(valid) / _MOST_PIXELS) ** 0.5))
        pixels = bands[::step, ::step][valid[::step, ::step]]
        pixels = pixels[(pixels > 0).all(axis=-1)]
        if len(pixels) < _FEWEST_PIXELS / 2:
            return None
        low, middle = np.percentile(pixels, (5, 50), axis=0).round().astype(int)
        return cls(day, tuple(low.tolist()), tuple(middle.tolist()))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document that `from_json` reads back."""
        return {"date": self.day.isoformat(), "low": list(self.low), "middle": list(self.middle)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> DayLevel:
        """Return the level of a document from `to_json`."""
        day = datetime.date.fromisoformat(document["date"])
        return cls(day, tuple(document["low"]), tuple(document["middle"]))


@dataclass(frozen=True)
class Jump:
    """A jump between days.

    Attributes:
        first, last: the same day if it differs from the days around it, otherwise the days before
            and after the jump.
        change: median over the bands, in digital numbers.
        items: scenes of `last`.
    """

    first: datetime.date
    last: datetime.date
    change: int
    items: tuple[str, ...] = ()

    def text(self) -> str:
        """Return a message."""
        side = "above" if self.change > 0 else "below"
        cause = "not removed" if self.change > 0 else "removed twice"
        amount = f"the Sentinel-2 values of all bands are about {abs(self.change)} {side} those"
        single = self.first == self.last
        where = f"{self.last}: {amount} of the days around it"
        if not single:
            where = f"From {self.last} on, {amount} of {self.first} and before"
        scenes = f" ({', '.join(self.items[:_NAMED])})" if self.items else ""
        return f"{where}{scenes}. This can be an offset that was {cause}: sentinel2.boa_offset."

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document that `from_json` reads back."""
        days = {"first": self.first.isoformat(), "last": self.last.isoformat()}
        return {**days, "change": self.change, "items": list(self.items)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Jump:
        """Return the jump of a document from `to_json`."""
        first, last = (datetime.date.fromisoformat(document[key]) for key in ("first", "last"))
        return cls(first, last, document["change"], tuple(document["items"]))


def find_jumps(levels: Sequence[DayLevel]) -> list[Jump]:
    """Return the days whose level differs by about 1000 from that of the days around them.

    Args:
        levels: in date order.
    """
    sides = [
        (levels[max(0, index - _AROUND) : index], levels[index : index + _AROUND])
        for index in range(len(levels) + 1)
    ]
    jumps = []
    for index, level in enumerate(levels):
        around = [side for side in (sides[index][0], sides[index + 1][1]) if side]
        if sum(map(len, around)) >= 2 and (change := _shift(around, level)):
            jumps.append(Jump(level.day, level.day, change))
    outliers = {jump.last for jump in jumps}
    for before, after in sides[1:-1]:
        if outliers & {before[-1].day, after[0].day}:
            continue
        change = _shift([before], after[0])
        if change and _shift([before[-1:]], after[0]) and _shift([before], after[-1]):
            jumps.append(Jump(before[-1].day, after[0].day, change))
    return sorted(jumps, key=lambda jump: (jump.last, jump.first))


def _shift(around: Sequence[Sequence[DayLevel]], level: DayLevel) -> int:
    """Return the shift of a day against others, 0 if it is not about 1000 in all bands.

    Brighter days are compared by their dark pixels, which clouds and snow in a part of the area
    do not change; darker ones by their median, because the dark pixels are cut off at 1.

    Args:
        around: days before, days after. The mean of the two follows the seasons.
        level: the day.
    """
    low = level.low - _usual(around, "low")
    usual, middle = _usual(around, "middle"), np.asarray(level.middle)
    brighter = (middle - usual)[_OTHERS]
    visible, others = low[_VISIBLE] - BOA_OFFSET, low[_OTHERS] - BOA_OFFSET
    if (
        (np.abs(visible) <= _TOLERANCE).all()
        and np.ptp(visible) <= _TOLERANCE
        and np.count_nonzero(np.abs(others) <= _TOLERANCE_OTHERS) >= _OTHERS_SHIFTED
        and np.count_nonzero(brighter >= _BRIGHTER) >= _OTHERS_SHIFTED
    ):
        return int(np.median(low))
    deviation = np.abs(middle - (usual - BOA_OFFSET))
    cut_off = (usual < BOA_OFFSET) & (middle <= _CUT_OFF)
    darker = usual - middle >= _DARKER
    visible_shifted = ((deviation <= _TOLERANCE) | cut_off)[_VISIBLE] & darker[_VISIBLE]
    others_shifted = ((deviation <= _TOLERANCE_OTHERS) | cut_off)[_OTHERS] & darker[_OTHERS]
    land_cut_off = (cut_off & darker)[_VISIBLE].all() and middle[_NEAR_INFRARED] >= _LAND
    shifted = visible_shifted.all() and np.count_nonzero(others_shifted) >= _OTHERS_SHIFTED
    if shifted or land_cut_off:
        return int(np.median(middle - usual))
    return 0


def _usual(around: Sequence[Sequence[DayLevel]], name: str) -> NDArray[np.float64]:
    sides = [np.median([getattr(level, name) for level in side], axis=0) for side in around]
    result: NDArray[np.float64] = np.mean(sides, axis=0)
    return result
