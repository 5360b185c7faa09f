"""Select the time steps of each pixel that the model receives, and their order.

Three rules, one per group of families. In v2 and v1.1 a pixel with n valid steps of a sensor
has a sequence of B steps, where B is its *bin*: all valid steps if they fit, and the bin is
filled with repeated steps; if more steps are valid than the largest bin contains, B of them
are selected. v1.0 draws 40 steps at random. Everything is computed for many pixels at once.

"Position" below is the index of a step among the valid steps of the pixel (0 .. n-1);
"step" is its index on the time axis of the arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .philox import Stream, draw_ranks

BIN_STEP = 8
LARGEST_BIN = 256


@dataclass(frozen=True)
class Group:
    """Pixels whose sequences have the same length L and the same number U of distinct steps.

    Attributes:
        pixels: (N,) int64, rows of the validity array.
        steps: (N, U) int64, the distinct steps of each sequence, on the time axis.
        inverse: (L,) for all pixels or (N, L) for each, int64: index into the distinct steps of
            each step of the sequence, like `return_inverse` of `numpy.unique`; None if each
            step occurs once, in this order.
    """

    pixels: NDArray[np.int64]
    steps: NDArray[np.int64]
    inverse: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, pixels: slice) -> Group:
        """Return a subset of the pixels."""
        inverse = self.inverse
        if inverse is not None and inverse.ndim == 2:
            inverse = inverse[pixels]
        return Group(self.pixels[pixels], self.steps[pixels], inverse)

    def sequences(self) -> NDArray[np.int64]:
        """Return the steps of each sequence, with repetitions, (N, L) int64."""
        if self.inverse is None:
            return self.steps
        inverse = np.broadcast_to(self.inverse, (len(self.pixels), self.inverse.shape[-1]))
        sequences: NDArray[np.int64] = np.take_along_axis(self.steps, inverse, axis=1)
        return sequences


def sequence_length(n: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the bin of each count: the smallest of 8, 16, ..., 256 not below n; 0 for n = 0.

    Args:
        n: numbers of valid steps, any shape, integer.

    Returns:
        Bins, same shape, int64; 256 where n is larger.
    """
    counts = np.asarray(n, dtype=np.int64)
    return np.minimum(-(-counts // BIN_STEP) * BIN_STEP, LARGEST_BIN)


def _middles(n: int, chunks: int) -> NDArray[np.int64]:
    """Split 0 .. n-1 like np.array_split; return the element at length // 2 of each chunk."""
    short, longer = divmod(n, chunks)
    sizes = np.full(chunks, short) + (np.arange(chunks) < longer)
    middles: NDArray[np.int64] = np.cumsum(sizes) - sizes + sizes // 2
    return middles


@lru_cache(maxsize=4096)
def _positions(n: int, length: int) -> NDArray[np.int64]:
    if n >= length:
        # numpy's float64 linspace, truncated: exact integer arithmetic differs from n = 295.
        result = np.linspace(0, n - 1, length).astype(np.int64)
    else:
        missing = length - n
        extra = _middles(n, missing) if missing <= n else np.arange(missing) % n
        result = np.concatenate([np.arange(n), extra])
    result.setflags(write=False)
    return result


@lru_cache(maxsize=4096)
def _positions_v1_1(n: int, length: int) -> NDArray[np.int64]:
    if n >= length:
        result = _middles(n, length)
    else:
        # numpy's float64 linspace and its rounding, half to even.
        between = np.linspace(0, n - 1, length - n + 2)[1:-1]
        result = np.concatenate([np.arange(n), np.rint(between).astype(np.int64)])
    result.setflags(write=False)
    return result


def positions(n: int, length: int) -> NDArray[np.int64]:
    """Return the positions, among n valid steps, of a v2 sequence of `length` steps.

    n >= length: `length` equally spaced positions, ends included. n < length: all n in
    order, then, with r = length - n, the middle one of each of r nearly equal chunks if
    r <= n, else 0, 1, 2, ... modulo n.

    Returns:
        (length,) int64, read-only, values 0 .. n-1.

    Raises:
        ValueError: n or length is below 1.
    """
    return _positions(*_checked(n, length))


def positions_v1_1(n: int, length: int) -> NDArray[np.int64]:
    """Return the positions, among n valid steps, of a v1.1 sequence of `length` steps.

    n >= length: the middle one of each of `length` nearly equal chunks. n < length: all n in
    order, then length - n more, equally spaced between the ends and rounded.

    Returns:
        (length,) int64, read-only, values 0 .. n-1.

    Raises:
        ValueError: n or length is below 1.
    """
    return _positions_v1_1(*_checked(n, length))


def _checked(n: int, length: int) -> tuple[int, int]:
    if n < 1 or length < 1:
        raise ValueError(f"no sequence of {length} steps can be made from {n} valid ones")
    return int(n), int(length)


def group_by_count(
    valid: NDArray[np.bool_],
    select: Callable[[int, int], NDArray[np.int64]] = positions,
) -> Iterator[Group]:
    """Group pixels by the number of distinct steps in their bins.

    That is the number of valid steps, up to the largest bin: bins are filled with repetitions.

    Args:
        valid: (P, T) bool, the valid steps of P pixels; T may be 0.
        select: returns the positions for a count and a bin.

    Yields:
        One `Group` per number that occurs, in ascending order; pixels without a valid step
        are in none.
    """
    n = np.count_nonzero(valid, axis=1)
    distinct = np.minimum(n, LARGEST_BIN)
    steps_of_valid = np.nonzero(valid)[1]
    first = np.cumsum(n) - n
    for number in np.unique(distinct[distinct > 0]):
        pixels = np.flatnonzero(distinct == number)
        length = int(sequence_length(number))
        if number < length:
            # All valid steps in order: positions are indices into the distinct steps.
            steps = first[pixels][:, None] + np.arange(number)
            inverse = select(int(number), length)
        else:
            counts, row = np.unique(n[pixels], return_inverse=True)
            pattern = np.stack([select(int(c), length) for c in counts])
            steps, inverse = first[pixels][:, None] + pattern[row], None
        yield Group(pixels, steps_of_valid[steps], inverse)


def candidates(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the steps that v1.0 draws from: the valid ones, or all if none is valid. (P, T)"""
    none = ~np.asarray(valid.any(axis=1))
    return valid | none[:, None]


def draw_steps(valid: NDArray[np.bool_], size: int, stream: Stream) -> NDArray[np.int64]:
    """Draw `size` steps of each pixel, in order of the time axis; see `philox.draw_ranks`.

    A step is identified by its rank among the candidates, not by its index on the time axis:
    dates without a valid pixel in the entire block are dropped from the axis, and that depends
    on the block.

    Args:
        valid: (P, T) bool, T at least 1.
        size: number of draws.
        stream: the random words of the P pixels.

    Returns:
        (P, size) int64.
    """
    drawn_from = candidates(valid)
    n: NDArray[np.int64] = np.asarray(np.count_nonzero(drawn_from, axis=1))
    first = np.cumsum(n) - n
    steps: NDArray[np.int64] = np.nonzero(drawn_from)[1][
        first[:, None] + draw_ranks(n, size, stream)
    ]
    return steps


def group_by_distinct_steps(steps: NDArray[np.int64]) -> Iterator[Group]:
    """Group sequences in order of time by their number of distinct steps.

    Args:
        steps: (P, L) int64, sorted along each row.

    Yields:
        One `Group` per number that occurs, in ascending order.
    """
    new = np.ones(steps.shape, bool)
    new[:, 1:] = steps[:, 1:] != steps[:, :-1]
    inverse = np.cumsum(new, axis=1) - 1
    distinct = inverse[:, -1] + 1
    for number in np.unique(distinct):
        pixels = np.flatnonzero(distinct == number)
        once = steps[pixels][new[pixels]].reshape(len(pixels), number)
        yield Group(pixels, once, None if number == steps.shape[1] else inverse[pixels])


class ObservationRule(ABC):
    """The rule by which a family makes sequences from the steps of a pixel.

    Attributes:
        random: whether the sequences depend on a seed, so that several can be averaged.
        size: length of a random sequence; 0 if the length is the bin of the valid steps.
        absent_length: number of rows of zeros, day 0, in place of a sensor without a valid
            step.
        empty_orbit_day: day of the one invalid row of zeros of an orbit direction without any
            date, or None for no such row.
    """

    random: bool = False
    size: int = 0
    absent_length: int = 1
    empty_orbit_day: int | None = None

    @abstractmethod
    def groups(self, valid: NDArray[np.bool_], stream: Stream) -> Iterator[Group]:
        """Group P pixels by the number of distinct steps in their sequences.

        Args:
            valid: (P, T) bool.
            stream: the random words of the P pixels; used by random rules only.

        Yields:
            Groups of pixels; pixels without a valid step may be in none.
        """

    def positions(self, n: int, length: int) -> NDArray[np.int64]:
        """Return the positions, among n valid steps, of a sequence of `length` steps, (length,).

        Raises:
            NotImplementedError: the rule is random.
        """
        raise NotImplementedError

    @abstractmethod
    def can_embed(self, s2: Any, s1: Any, has_value: Callable[[], Any], s1_dates: int) -> Any:
        """Return the pixels that can have an embedding in this family, whatever the minimum counts.

        Args:
            s2, s1: (P,) numbers of valid steps, both arrays or both tensors.
            has_value: returns (P,) bool, whether any Sentinel-2 value is not 0.
            s1_dates: number of Sentinel-1 steps, rows of empty orbits included.

        Returns:
            (P,) bool, of the kind of `s2`.
        """

    def embeddable(
        self,
        s2_valid: NDArray[np.bool_],
        s1_valid: NDArray[np.bool_],
        has_value: Callable[[], NDArray[np.bool_]],
    ) -> NDArray[np.bool_]:
        """See `can_embed`.

        Args:
            s2_valid: (P, T2) bool.
            s1_valid: (P, T1) bool, rows of empty orbits included.
            has_value: returns (P,) bool, whether any Sentinel-2 value is not 0.

        Returns:
            (P,) bool.
        """
        s2, s1 = (np.count_nonzero(valid, axis=1) for valid in (s2_valid, s1_valid))
        result: NDArray[np.bool_] = self.can_embed(s2, s1, has_value, s1_valid.shape[1])
        return result


class BinsV2(ObservationRule):
    """v2: bins; an absent sensor is one row; a pixel needs a valid step of any sensor."""

    def positions(self, n: int, length: int) -> NDArray[np.int64]:
        """See `positions`."""
        return positions(n, length)

    def groups(self, valid: NDArray[np.bool_], stream: Stream) -> Iterator[Group]:
        """See `group_by_count`."""
        yield from group_by_count(valid, positions)

    def can_embed(self, s2: Any, s1: Any, has_value: Callable[[], Any], s1_dates: int) -> Any:
        """Return the pixels with a valid step of either sensor."""
        return (s2 > 0) | (s1 > 0)


class BinsV11(ObservationRule):
    """v1.1: bins; an absent sensor is the smallest bin, filled with zeros."""

    absent_length = BIN_STEP

    def positions(self, n: int, length: int) -> NDArray[np.int64]:
        """See `positions_v1_1`."""
        return positions_v1_1(n, length)

    def groups(self, valid: NDArray[np.bool_], stream: Stream) -> Iterator[Group]:
        """See `group_by_count`."""
        yield from group_by_count(valid, positions_v1_1)

    def can_embed(self, s2: Any, s1: Any, has_value: Callable[[], Any], s1_dates: int) -> Any:
        """Return all pixels."""
        return s2 >= 0


class Draws(ObservationRule):
    """v1.0: 40 steps of each sensor, drawn at random."""

    random = True
    size = 40

    def __init__(self, empty_orbit_day: int | None = None) -> None:
        self.empty_orbit_day = empty_orbit_day

    def groups(self, valid: NDArray[np.bool_], stream: Stream) -> Iterator[Group]:
        """See `group_by_distinct_steps`; no group if the time axis is empty."""
        if valid.size:
            yield from group_by_distinct_steps(draw_steps(valid, self.size, stream))

    def can_embed(self, s2: Any, s1: Any, has_value: Callable[[], Any], s1_dates: int) -> Any:
        """Return the pixels with a non-zero Sentinel-2 value, if there is any Sentinel-1 step."""
        return has_value() & (s1_dates > 0)
