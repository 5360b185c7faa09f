"""Random draws of time steps that depend on the seed and on a pixel's place alone.

The numbers come from Philox4x32-10, a generator without a state: it turns a counter and a
key into four words of 32 bits. The key is the seed; the counter names the pixel (column,
row), the repeat, the sensor and which four of the pixel's words are wanted. So no number
depends on how many pixels are drawn for, in which order, or on which machine.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox(counters: NDArray[np.integer], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10.

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
            for word, step in zip(key, _KEY_STEPS, strict=True)
        )
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
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
        repeat: which of the draws that are averaged, from 0.
    """

    seed: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    sensor: int = 0
    repeat: int = 0

    def of(self, pixels: NDArray[np.integer] | NDArray[np.bool_]) -> Stream:
        """The stream of some of the pixels."""
        return replace(self, rows=self.rows[pixels], columns=self.columns[pixels])

    def words(self, count: int) -> NDArray[np.uint32]:
        """The first `count` words of every pixel, (N, count) uint32."""
        fours = -(-count // 4)
        counters = np.empty((len(self.rows), fours, 4), np.uint64)
        counters[..., 0] = self.columns[:, None]
        counters[..., 1] = self.rows[:, None]
        counters[..., 2] = np.arange(fours)
        counters[..., 3] = 2 * self.repeat + self.sensor
        key = (self.seed & 0xFFFFFFFF, (self.seed >> 32) & 0xFFFFFFFF)
        return philox(counters, key).reshape(len(self.rows), 4 * fours)[:, :count]


def draw_ranks(n: NDArray[np.integer], size: int, stream: Stream) -> NDArray[np.int64]:
    """Draw `size` of each pixel's n candidates, in rising order.

    Without replacement where n is at least `size`: the candidates with the smallest words,
    the i-th word being the i-th candidate's. With replacement where n is smaller.

    Args:
        n: (N,) how many candidates each pixel has, at least 1.
        size: how many to draw.
        stream: the random words of the N pixels.

    Returns:
        (N, size) int64, values 0 .. n-1.
    """
    counts = np.asarray(n, dtype=np.int64)
    ranks = np.empty((len(counts), size), np.int64)
    few = counts < size
    if few.any():
        words = stream.of(few).words(size).astype(np.uint64)
        ranks[few] = (words * counts[few].astype(np.uint64)[:, None]) >> _SHIFT
    if not few.all():
        enough = ~few
        number = np.arange(counts.max(), dtype=np.uint64)
        # The candidate's number makes every key a different one, so that no tie is left.
        keys = (stream.of(enough).words(len(number)).astype(np.uint64) << _SHIFT) | number
        keys[number >= counts[enough].astype(np.uint64)[:, None]] = np.iinfo(np.uint64).max
        ranks[enough] = np.argpartition(keys, size - 1, axis=1)[:, :size]
    ranks.sort(axis=1)
    return ranks
