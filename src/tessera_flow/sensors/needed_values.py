"""The values of Sentinel-2 that an embedding can depend on: about half of those of a year.

The others are under clouds, or outside the region. What is kept of a pixel inside the region are
the values of its valid steps, and of all steps if none is valid: v1.0 draws from them. That v1.0
embeds a pixel only if any of its values is not 0, of whatever step, is kept as one bit of a pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEEDED = ("needed_bands", "has_value")
"""Arrays of a patch in a file in place of `bands`: `NeededValues.values` and `has_value`."""


@dataclass(frozen=True)
class NeededValues:
    """Values of T steps of H x W pixels without those that no embedding depends on.

    Attributes:
        values: (N, C), step by step, within a step row by row.
        kept: (T, H, W) bool, N of them True; see `kept_steps`.
        has_value: (H, W) bool, whether any value of a pixel was not 0.
    """

    values: NDArray[Any]
    kept: NDArray[np.bool_]
    has_value: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not self.values.flags.c_contiguous:
            raise ValueError("the values are no array (N, C) in the order of C")
        if not self.values.dtype.isnative:
            raise ValueError(f"the values are {self.values.dtype}, not of this byte order")

    def rows(self, rows: slice) -> NDArray[Any]:
        """Return the values of some rows, (T, h, W, C); 0 where they were not kept."""
        kept = self.kept[:, rows]
        result = np.zeros((*kept.shape, self.values.shape[1]), self.values.dtype)
        _items(result)[kept] = _items(np.concatenate([self.values[:0], *self.parts(rows)]))
        return result

    def at(self, pixels: NDArray[np.int64]) -> NDArray[Any]:
        """Return the values of n pixels, (T, n, C); 0 where they were not kept.

        Args:
            pixels: (n,), numbered row by row.
        """
        return self.of_pixels(pixels).rows(slice(0, 1))[:, 0]

    def of_pixels(self, pixels: NDArray[np.int64]) -> NeededValues:
        """Return n pixels as an image of one row.

        Args:
            pixels: (n,), numbered row by row.
        """
        steps, size = len(self.kept), self.has_value.size
        places = np.arange(steps)[:, np.newaxis] * size + pixels
        kept = self.kept.reshape(-1)[places]
        items = _items(self.values)[self._before(places[kept])]
        values = items.view(self.values.dtype).reshape(-1, self.values.shape[1])
        has_value = self.has_value.reshape(-1)[pixels]
        return NeededValues(values, kept[:, np.newaxis], has_value[np.newaxis])

    def parts(self, rows: slice) -> list[NDArray[Any]]:
        """Return the values of some rows, (n, C) of each step; for all rows in one array (N, C).
        Nothing is copied."""
        steps, height, width = self.kept.shape
        if rows == slice(0, height):
            return [self.values]
        first = np.arange(steps) * height * width
        starts, stops = (self._before(first + row * width) for row in (rows.start, rows.stop))
        return [
            self.values[start:stop]
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]

    def _before(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many values are kept before some places of `kept`, flat."""
        words, until = self._words
        word = places >> 6
        lower = (np.uint64(1) << (places & 63).astype(np.uint64)) - np.uint64(1)
        number: NDArray[np.int64] = until[word] + np.bitwise_count(words[word] & lower)
        return number

    @cached_property
    def _words(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """`kept`, flat, as bits of words, the lowest first, and how many are kept before each."""
        packed = np.packbits(self.kept.reshape(-1), bitorder="little")
        bits = np.zeros((len(packed) // 8 + 1) * 8, np.uint8)
        bits[: len(packed)] = packed
        words = bits.view("<u8")
        until = np.zeros(len(words) + 1, np.int64)
        np.cumsum(np.bitwise_count(words), dtype=np.int64, out=until[1:])
        return words, until


def kept_steps(
    masks: NDArray[Any], inside: NDArray[np.bool_], some: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Return which values are kept, (T, H, W) bool.

    Args:
        masks: (T, H, W), 1 where a step is valid.
        inside: (H, W), the pixels inside the region.
        some: (H, W), the pixels with a valid step; None: with one of `masks`.
    """
    valid = masks.view(np.bool_)
    if some is None:
        some = np.logical_or.reduce(valid, axis=0)
    if not some.all():
        valid = valid | ~some
    return valid if inside.all() else valid & inside


def selected(values: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    """Return those of values (t, h, W, C) that are kept, (n, C)."""
    items: NDArray[Any] = _items(np.ascontiguousarray(values))[kept]
    return items.view(values.dtype).reshape(-1, values.shape[-1])


def pieces(parts: Iterable[NDArray[Any]], size: int) -> Iterator[NDArray[Any]]:
    """Yield the rows of some arrays (n, C) in arrays of `size` rows, and the rest.

    An array is used again once the next one is requested.
    """
    waiting: NDArray[Any] | None = None
    filled = 0
    for part in parts:
        if waiting is None:
            waiting = np.empty((size, *part.shape[1:]), part.dtype)
        start = 0
        while start < len(part):
            number = min(size - filled, len(part) - start)
            waiting[filled : filled + number] = part[start : start + number]
            filled, start = filled + number, start + number
            if filled == size:
                yield waiting
                filled = 0
    if waiting is not None and filled:
        yield waiting[:filled]


def _items(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array (..., C) of numbers as an array (...) of items: NumPy selects them faster."""
    return array.view(np.dtype((np.void, array.shape[-1] * array.itemsize)))[..., 0]
