"""Reduce a comparison to an image: mean difference and coverage of cells of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..region.grid import Window

NEITHER, ONLY_A, ONLY_B, BOTH = range(4)

EDGE = 1000
"""Most cells along a side of the image."""


class DifferenceCells:
    """Cells of `step` x `step` pixels of the overlap, in bounded memory.

    Attributes:
        shape: (height, width) of the overlap in pixels.
        step: edge of a cell in pixels.
    """

    def __init__(self, shape: tuple[int, int], edge: int = EDGE) -> None:
        """Start with no pixel; there are at most `edge` cells along a side."""
        self.shape = shape
        self.step = -(-max(shape) // edge)
        self._size = -(-shape[0] // self.step), -(-shape[1] // self.step)
        self._sum, self._number = np.zeros(self._size), np.zeros(self._size, np.int64)
        self._coverage = np.zeros(self._size, np.uint8)

    def add(
        self,
        window: Window,
        distance: NDArray[np.float64],
        in_a: NDArray[np.bool_],
        in_b: NDArray[np.bool_],
    ) -> None:
        """Add a window of the overlap.

        Args:
            window: relative to the overlap.
            distance: (h, w) 1 - cosine, NaN where it is not known.
            in_a, in_b: (h, w) whether there is an embedding.
        """
        rows = (window.y0 + np.arange(window.height)) // self.step
        columns = (window.x0 + np.arange(window.width)) // self.step
        cell = (rows[:, np.newaxis] * self._size[1] + columns).ravel()
        known = np.isfinite(distance).ravel()
        length = self._number.size

        def total(weights: NDArray[np.float64] | None, chosen: NDArray[np.bool_]) -> NDArray[Any]:
            counted = np.bincount(cell[chosen], weights, minlength=length)
            return counted.reshape(self._size)

        self._sum += total(distance.ravel()[known], known)
        self._number += total(None, known)
        for value, present in ((ONLY_A, in_a), (ONLY_B, in_b), (BOTH, in_a & in_b)):
            self._coverage[total(None, present.ravel()) > 0] |= np.uint8(value)

    def distance(self) -> NDArray[np.float64]:
        """Return the mean of 1 - cosine of each cell, NaN where it is not known."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self._sum / np.where(self._number, self._number, np.nan))

    def coverage(self) -> NDArray[np.uint8]:
        """Return for each cell whether it has embeddings: `NEITHER`, `ONLY_A`, `ONLY_B`, `BOTH`."""
        return self._coverage
