"""Which of a pixel's valid steps the model sees, and in what order (v2 models).

A pixel with n valid steps of a sensor gets a sequence of B steps, B being its *bin*. All
valid steps go in while they fit; the rest of the bin is filled with steps that are
already in the sequence, and where more are valid than the largest bin holds, B of them
are taken at even distances. Everything is computed for many pixels at once.

"Position" below means the place of a step among the pixel's valid steps (0 .. n-1);
"step" means its place on the time axis of the arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BIN_STEP = 8
LARGEST_BIN = 256


def sequence_length(n: NDArray[np.integer]) -> NDArray[np.int64]:
    """The bin of each count: the smallest of 8, 16, ..., 256 not below n; 0 for n = 0.

    Args:
        n: numbers of valid steps, any shape, integer.

    Returns:
        Bins, same shape, int64; 256 where n is larger.
    """
    counts = np.asarray(n, dtype=np.int64)
    return np.minimum(-(-counts // BIN_STEP) * BIN_STEP, LARGEST_BIN)


@lru_cache(maxsize=4096)
def _positions(n: int, length: int) -> NDArray[np.int64]:
    if n >= length:
        # numpy's float64 linspace, truncated: exact integer arithmetic differs from n = 295.
        chosen = np.linspace(0, n - 1, length).astype(np.int64)
    else:
        missing = length - n
        if missing <= n:
            # np.array_split: the first n % missing runs are one element longer.
            short, longer = divmod(n, missing)
            sizes = np.full(missing, short) + (np.arange(missing) < longer)
            extra = np.cumsum(sizes) - sizes + sizes // 2
        else:
            extra = np.arange(missing) % n
        chosen = np.concatenate([np.arange(n), extra])
    chosen.setflags(write=False)
    return chosen


def positions(n: int, length: int) -> NDArray[np.int64]:
    """The positions, among n valid steps, that make a sequence of `length` steps.

    n >= length: `length` positions at even distances, ends included. n < length: all n in
    order, then, with r = length - n, the middle one of each of r nearly equal runs if
    r <= n, else 0, 1, 2, ... modulo n.

    Returns:
        (length,) int64, read-only, values 0 .. n-1.

    Raises:
        ValueError: n or length is below 1.
    """
    if n < 1 or length < 1:
        raise ValueError(f"no sequence of {length} steps can be made from {n} valid ones")
    return _positions(int(n), int(length))


@dataclass(frozen=True)
class Group:
    """Pixels whose sequences have the same length.

    Attributes:
        length: steps of each sequence (the bin).
        pixels: (N,) int64, which rows of the validity array these are.
        steps: (N, length) int64, the steps of each sequence on the time axis.
    """

    length: int
    pixels: NDArray[np.int64]
    steps: NDArray[np.int64]


def group_by_length(valid: NDArray[np.bool_]) -> Iterator[Group]:
    """Group pixels by sequence length and choose their steps.

    Args:
        valid: (P, T) bool, the valid steps of P pixels; T may be 0.

    Yields:
        One `Group` per length that occurs, shortest first; pixels without a valid step
        are in none.
    """
    n = np.count_nonzero(valid, axis=1)
    lengths = sequence_length(n)
    steps_of_valid = np.nonzero(valid)[1]
    first = np.cumsum(n) - n
    for length in np.unique(lengths[lengths > 0]):
        pixels = np.flatnonzero(lengths == length)
        counts, row = np.unique(n[pixels], return_inverse=True)
        pattern = np.stack([positions(int(c), int(length)) for c in counts])
        yield Group(int(length), pixels, steps_of_valid[first[pixels][:, None] + pattern[row]])
