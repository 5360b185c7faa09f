"""Order the pixels of a region at random, by nothing but their position in its grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pixel_priority(y: NDArray[np.uint64], x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a pseudo-random number per pixel position, different for any two (splitmix64)."""
    z = ((y << np.uint64(32)) | x) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def window_priority(y0: int, x0: int, shape: tuple[int, int]) -> NDArray[np.uint64]:
    """Return the priority of each pixel of a window of the grid, (height, width)."""
    rows, columns = np.indices(shape, dtype=np.uint64)
    return pixel_priority(rows + np.uint64(y0), columns + np.uint64(x0))
