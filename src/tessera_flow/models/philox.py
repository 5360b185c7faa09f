"""Random draws of time steps that depend only on the seed and on a pixel's position.

The numbers come from Philox4x32-10, a generator without state: it maps a counter and a key
to four words of 32 bits. The key is the seed; the counter consists of the pixel (column,
row), the index of the four words, and the repeat and sensor. So no number depends on how many
pixels are drawn for, in which order, or on which machine.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox(counters: NDArray[np.integer], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Return the Philox4x32-10 words of counters.

    Args:
        counters: (..., 4), values from 0 to 2**32 - 1.
        key: two numbers of 32 bits.

    Returns:
        (..., 4) uint32.
    """
    a, b, c, d = (counters[..., i].astype(np.uint64) for i in range(4))
    for number in range(ROUNDS):
        low, high = (
            np.uint64((word + number * step) & 0xFFFFFFFF)
            for word, step in zip(key, KEY_STEPS, strict=True)
        )
        first, second = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        a, b, c, d = (
            (second >> _SHIFT) ^ b ^ low,
            second & _LOW,
            (first >> _SHIFT) ^ d ^ high,
            first & _LOW,
        )
    return np.stack([a, b, c, d], axis=-1).astype(np.uint32)


@dataclass(frozen=True)
class Stream:
    """The random words of N pixels, for one sensor and one repeat.

    Attributes:
        seed: any whole number from 0; taken modulo 2**64.
        rows: (N,) rows in the region's grid, from 0 to 2**32 - 1.
        columns: (N,) columns.
        sensor: 0 for Sentinel-2, 1 for Sentinel-1.
        repeat: number of the draw, from 0, if several are averaged.
    """

    seed: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    sensor: int = 0
    repeat: int = 0

    def subset(self, pixels: NDArray[np.integer] | NDArray[np.bool_]) -> Stream:
        """Return the stream of a subset of the pixels."""
        return replace(self, rows=self.rows[pixels], columns=self.columns[pixels])

    def words(self, count: int) -> NDArray[np.uint32]:
        """Return the first `count` words of every pixel, (N, count) uint32."""
        fours = -(-count // 4)
        counters = np.empty((len(self.rows), fours, 4), np.uint64)
        counters[..., 0] = self.columns[:, None]
        counters[..., 1] = self.rows[:, None]
        counters[..., 2] = np.arange(fours)
        counters[..., 3] = 2 * self.repeat + self.sensor
        key = (self.seed & 0xFFFFFFFF, (self.seed >> 32) & 0xFFFFFFFF)
        return philox(counters, key).reshape(len(self.rows), 4 * fours)[:, :count]


def draw_ranks(n: NDArray[np.integer], size: int, stream: Stream) -> NDArray[np.int64]:
    """Draw `size` of the n candidates of each pixel, in ascending order.

    Without replacement if n >= size: the candidates with the smallest words, where the i-th
    word belongs to the i-th candidate. With replacement if n < size.

    Args:
        n: (N,) number of candidates of each pixel, at least 1.
        size: number of draws.
        stream: the random words of the N pixels.

    Returns:
        (N, size) int64, values 0 .. n-1.
    """
    counts = np.asarray(n, dtype=np.int64)
    ranks = np.empty((len(counts), size), np.int64)
    few = counts < size
    if few.any():
        words = stream.subset(few).words(size).astype(np.uint64)
        ranks[few] = (words * counts[few].astype(np.uint64)[:, None]) >> _SHIFT
    if not few.all():
        enough = ~few
        number = np.arange(counts.max(), dtype=np.uint64)
        # With the number of the candidate in its low bits every key is unique: no ties.
        keys = (stream.subset(enough).words(len(number)).astype(np.uint64) << _SHIFT) | number
        keys[number >= counts[enough].astype(np.uint64)[:, None]] = np.iinfo(np.uint64).max
        ranks[enough] = np.argpartition(keys, size - 1, axis=1)[:, :size]
    ranks.sort(axis=1)
    return ranks
