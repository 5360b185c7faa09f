"""Measure the structure of embeddings: effective rank, and neighbours in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS = 256
"""Pixels whose cosines with all others are in memory."""


class Moments:
    """Sums of embeddings, from which their covariance follows."""

    def __init__(self, dim: int) -> None:
        """Start with no pixel."""
        self.pixels = 0
        self._sum = np.zeros(dim)
        self._products = np.zeros((dim, dim))
        self._origin: NDArray[np.float64] | None = None

    def add(self, values: NDArray[np.float64]) -> None:
        """Add (n, K) embeddings."""
        if self._origin is None:
            # Near the mean, so that no digits are lost.
            self._origin = values.mean(axis=0)
        centred = values - self._origin
        self.pixels += len(values)
        self._sum += centred.sum(axis=0)
        self._products += centred.T @ centred

    def covariance(self) -> NDArray[np.float64]:
        """Return the (K, K) covariance."""
        mean = self._sum / self.pixels
        return np.asarray(self._products / self.pixels - np.outer(mean, mean))


def effective_rank(moments: Moments) -> float | None:
    """Return the effective rank: exp of the entropy of the shares of variance of the principal
    components. Between 1 and K; K if all components have the same variance.

    Returns:
        None with fewer than two pixels, or without variance.
    """
    if moments.pixels < 2:
        return None
    variances = np.clip(np.linalg.eigvalsh(moments.covariance()), 0, None)
    if variances.sum() <= 0:
        return None
    shares = variances[variances > 0] / variances.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


class NeighbourSample:
    """The pixels of lowest priority, with their embeddings in A and B.

    Attributes:
        first, second: (n, K) float64 embeddings, ordered by priority.
    """

    def __init__(self, size: int) -> None:
        """Keep at most `size` pixels."""
        self._size = size
        self._priority = np.empty(0, np.uint64)
        self.first = np.empty((0, 0))
        self.second = np.empty((0, 0))

    def add(
        self,
        priority: NDArray[np.uint64],
        first: NDArray[np.float64],
        second: NDArray[np.float64],
    ) -> None:
        """Add n pixels."""
        if not len(self._priority):
            self.first, self.second = first[:0], second[:0]
        joined = np.concatenate([self._priority, priority])
        keep = np.argsort(joined)[: self._size]
        self._priority = joined[keep]
        self.first = np.concatenate([self.first, first])[keep]
        self.second = np.concatenate([self.second, second])[keep]


def neighbour_overlap(
    first: NDArray[np.float64], second: NDArray[np.float64], neighbours: int
) -> float | None:
    """Return the mean share of the nearest neighbours of a pixel, by cosine, in `first` that are
    also among those in `second`.

    Args:
        first, second: (n, K) and (n, L) embeddings of the same pixels.
        neighbours: number of neighbours of a pixel.

    Returns:
        None if there are not more pixels than neighbours.
    """
    if len(first) <= neighbours:
        return None
    nearest = [_nearest(values, neighbours) for values in (first, second)]
    common = [len(np.intersect1d(*pair)) for pair in zip(*nearest, strict=True)]
    return float(np.mean(common)) / neighbours


def _nearest(values: NDArray[np.float64], neighbours: int) -> NDArray[np.intp]:
    """Return (n, neighbours) indices of the nearest other rows by cosine; of rows that are equally
    near the first ones."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.where(lengths > 0, lengths, 1)
    result = np.empty((len(unit), neighbours), np.intp)
    for start in range(0, len(unit), _ROWS):
        distances = -(unit[start : start + _ROWS] @ unit.T)
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf
        # Sorting all distances would take most of the time.
        last = np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1 : neighbours]
        near = distances <= last
        for row in np.flatnonzero(near.sum(axis=1) > neighbours):
            equal = np.flatnonzero(distances[row] == last[row])
            near[row, equal[neighbours - near[row].sum() :]] = False
        result[start : start + _ROWS] = np.nonzero(near)[1].reshape(-1, neighbours)
    return result
