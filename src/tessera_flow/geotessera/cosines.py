"""Tally cosines of pairs of embeddings in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEPS = 20
_EDGES = 10.0 ** (np.arange(-9 * _STEPS, 1) / _STEPS)
"""Upper edges of the classes of 1 - cosine, 20 to a decade; the first is 1e-9, above 1 is one."""


@dataclass
class CosineTally:
    """Number of pairs by cosine.

    Attributes:
        counts: pairs by class of 1 - cosine.
        total: sum of the cosines.
        least: smallest cosine; 1 without pairs.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_EDGES) + 1, np.int64))
    total: float = 0.0
    least: float = 1.0

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        """Mean cosine; None without pairs."""
        return self.total / self.pairs if self.pairs else None

    def add(self, cosines: NDArray[np.float64]) -> None:
        """Add the cosines (n,) of pairs; one that is not finite, of a vector of zeros, is 0."""
        if not len(cosines):
            return
        finite = np.where(np.isfinite(cosines), np.clip(cosines, -1.0, 1.0), 0.0)
        self.counts += np.bincount(np.searchsorted(_EDGES, 1 - finite), minlength=len(self.counts))
        self.total += float(finite.sum())
        self.least = min(self.least, float(finite.min()))

    def quantile(self, share: float) -> float | None:
        """Return a cosine that at most `share` of the pairs are below, to a twentieth of a decade
        of its distance from 1; None without pairs."""
        if not self.pairs:
            return None
        # Classes are in the order of decreasing cosine.
        reached = np.cumsum(self.counts) >= (1 - share) * self.pairs
        index = int(np.argmax(reached))
        if index == 0:
            return 1.0
        return float(max(self.least, 1 - _EDGES[min(index, len(_EDGES) - 1)]))

    def __iadd__(self, other: CosineTally) -> CosineTally:
        """Add the pairs of another tally."""
        self.counts += other.counts
        self.total += other.total
        self.least = min(self.least, other.least)
        return self

    def to_json(self) -> dict[str, Any]:
        """Return a document that `of_json` reads."""
        classes = {str(n): int(count) for n, count in enumerate(self.counts) if count}
        return {"classes": classes, "total": self.total, "least": self.least}

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> CosineTally:
        """Read a document of `to_json`.

        Raises:
            KeyError, TypeError, ValueError, IndexError: it is none.
        """
        tally = cls(total=float(document["total"]), least=float(document["least"]))
        for index, count in document["classes"].items():
            tally.counts[int(index)] = int(count)
        return tally

    def summary(self) -> dict[str, float | int | None]:
        """Return number of pairs, mean, median, 1st percentile and least cosine."""
        return {
            "pairs": self.pairs,
            "mean": self.mean,
            "median": self.quantile(0.5),
            "percentile_1": self.quantile(0.01),
            "least": self.least if self.pairs else None,
        }


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of each pair of vectors (n, K); NaN for a vector of zeros. Scales of codes
    do not matter."""
    first, second = a.astype(np.float32), b.astype(np.float32)

    def dot(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
        sums: NDArray[np.float64] = np.einsum("nk,nk->n", x, y).astype(np.float64)
        return sums

    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = dot(first, second) / np.sqrt(
            dot(first, first) * dot(second, second)
        )
    return result
