"""Generate smooth random fields."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Field:
    """Return a random field that varies over about `scale` pixels, of mean 0 and deviation near 1.

    Random numbers on a coarse lattice, interpolated with a smooth-step (value noise).
    """
    rows, columns = (_interpolation(n, scale) for n in shape)
    lattice = rng.standard_normal((rows.shape[1], columns.shape[1])).astype(np.float32)
    # Interpolation lowers the variance; 1.55 restores it on average.
    field: Field = (1.55 * (rows @ lattice @ columns.T)).astype(np.float32)
    return field


def rough_noise(rng: np.random.Generator, shape: tuple[int, int], scales: Sequence[float]) -> Field:
    """Sum smooth fields, each half as strong as the previous one; standard deviation near 1."""
    weights = 0.5 ** np.arange(len(scales))
    total = np.zeros(shape, dtype=np.float32)
    for weight, scale in zip(weights, scales, strict=True):
        total += np.float32(weight) * smooth_noise(rng, shape, scale)
    return total / np.float32(np.sqrt((weights**2).sum()))


def _interpolation(length: int, scale: float) -> Field:
    """Return (length, lattice points) weights; every row sums to 1."""
    position = np.arange(length) / scale
    left = position.astype(int)
    t = position - left
    step = t * t * (3 - 2 * t)
    matrix = np.zeros((length, left[-1] + 2), dtype=np.float32)
    matrix[np.arange(length), left] = 1 - step
    matrix[np.arange(length), left + 1] = step
    return matrix
