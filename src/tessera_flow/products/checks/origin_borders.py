"""Compare embeddings across the borders of published and computed pixels with those beside them.

A border counts where three published pixels and then three computed ones are in a line, or the
reverse. As for the seams of blocks (`seams`), the pair across it is compared with the pairs two
pixels away on both sides, here by their cosines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...geotessera.cosines import CosineTally, cosines
from ...region.grid import Window
from ..blocks import RegionBlocks

_BEFORE, _AFTER = 2, 3
"""Pixels before and after the first pixel of the pair across a border."""
_LINES = 2**14


@dataclass
class OriginBorders:
    """Cosines of neighbouring pixels, at the borders of published and computed ones.

    Attributes:
        across: of the pairs of one published and one computed pixel.
        beside: of the pairs two pixels away on both sides.
    """

    across: CosineTally = field(default_factory=CosineTally)
    beside: CosineTally = field(default_factory=CosineTally)

    @property
    def ratio(self) -> float | None:
        """Median distance (1 - cosine) across the borders, divided by that beside them; None
        without borders, or if nothing differs beside them."""
        across, beside = self.across.quantile(0.5), self.beside.quantile(0.5)
        if across is None or beside is None or beside >= 1:
            return None
        return (1 - across) / (1 - beside)

    def add(self, source: RegionBlocks, window: Window) -> None:
        """Add the borders whose first pixel is in a window of the region.

        Raises:
            TileError: a block is damaged.
        """
        top, left = max(0, window.y0 - _BEFORE), max(0, window.x0 - _BEFORE)
        bottom = min(source.shape[0], window.y0 + window.height + _AFTER)
        right = min(source.shape[1], window.x0 + window.width + _AFTER)
        outer = Window(top, left, bottom - top, right - left)
        origin = source.read_region("origin", outer)
        if origin is None:
            return
        first = np.zeros(outer.shape, bool)
        inner = Window(window.y0 - top, window.x0 - left, *window.shape)
        first[inner.slices] = True
        found = [_lines(origin, first, axis) for axis in (0, 1)]
        if not any(len(places) for places in found):
            return
        codes = source.read_region("embeddings", outer)
        if codes is None:
            return
        for axis, places in enumerate(found):
            for start in range(0, len(places), _LINES):
                self._add(codes, places[start : start + _LINES], axis)

    def _add(self, codes: NDArray[np.int8], places: NDArray[np.intp], axis: int) -> None:
        """Add the borders whose first pixels are at (n, 2) places."""

        def vectors(shift: int) -> NDArray[np.int8]:
            moved = places + shift * np.eye(2, dtype=np.intp)[axis]
            chosen: NDArray[np.int8] = codes[moved[:, 0], moved[:, 1]]
            return chosen

        self.across.add(cosines(vectors(0), vectors(1)))
        for pair in (-_BEFORE, _AFTER - 1):
            self.beside.add(cosines(vectors(pair), vectors(pair + 1)))


def _lines(origin: NDArray[np.uint8], first: NDArray[np.bool_], axis: int) -> NDArray[np.intp]:
    """Return the (n, 2) places where lines along an axis change their origin.

    Args:
        origin: (h, w).
        first: (h, w) places that count.
        axis: 0 or 1.
    """
    lines, counts = np.moveaxis(origin, axis, 0), np.moveaxis(first, axis, 0)
    length = len(lines) - _BEFORE - _AFTER
    if length <= 0:
        return np.zeros((0, 2), np.intp)
    steps = [lines[n : n + length] for n in range(_BEFORE + _AFTER + 1)]
    before, after = steps[_BEFORE], steps[_BEFORE + 1]
    found = (before != after) & (before > 0) & (after > 0)
    for n, step in enumerate(steps):
        found &= step == (before if n <= _BEFORE else after)
    found &= counts[_BEFORE : _BEFORE + length]
    places = np.argwhere(found)
    places[:, 0] += _BEFORE
    return places if axis == 0 else places[:, ::-1]
