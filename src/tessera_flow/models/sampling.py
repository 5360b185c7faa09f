"""Which of a pixel's time steps the model sees, and in what order.

Three rules, one per group of families. v2 and v1.1 give a pixel with n valid steps of a
sensor a sequence of B steps, B being its *bin*: all valid steps go in while they fit; the
rest of the bin is filled with steps that are already in the sequence, and where more are
valid than the largest bin holds, B of them are taken. v1.0 draws 40 steps at random.
Everything is computed for many pixels at once.

"Position" below means the place of a step among the pixel's valid steps (0 .. n-1);
"step" means its place on the time axis of the arrays.
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
    """Pixels whose sequences have the same length and the same number of different steps.

    Attributes:
        pixels: (N,) int64, which rows of the validity array these are.
        steps: (N, U) int64, the different steps of each sequence on the time axis.
        places: (L,) for all pixels or (N, L) for each, int64: which of the different steps
            is at each place of the sequence; None if each occurs once, in this order.
    """

    pixels: NDArray[np.int64]
    steps: NDArray[np.int64]
    places: NDArray[np.int64] | None = None

    def some(self, part: slice) -> Group:
        """A part of the pixels."""
        own = self.places is not None and self.places.ndim == 2
        places = self.places[part] if own and self.places is not None else self.places
        return Group(self.pixels[part], self.steps[part], places)

    def sequences(self) -> NDArray[np.int64]:
        """(N, L) int64, the steps of each sequence, with copies."""
        if self.places is None:
            return self.steps
        places = np.broadcast_to(self.places, (len(self.pixels), self.places.shape[-1]))
        sequences: NDArray[np.int64] = np.take_along_axis(self.steps, places, axis=1)
        return sequences


def sequence_length(n: NDArray[np.integer]) -> NDArray[np.int64]:
    """The bin of each count: the smallest of 8, 16, ..., 256 not below n; 0 for n = 0.

    Args:
        n: numbers of valid steps, any shape, integer.

    Returns:
        Bins, same shape, int64; 256 where n is larger.
    """
    counts = np.asarray(n, dtype=np.int64)
    return np.minimum(-(-counts // BIN_STEP) * BIN_STEP, LARGEST_BIN)


def _middles(n: int, runs: int) -> NDArray[np.int64]:
    """The element at length // 2 of each of the runs that np.array_split makes of 0 .. n-1."""
    short, longer = divmod(n, runs)
    sizes = np.full(runs, short) + (np.arange(runs) < longer)
    middles: NDArray[np.int64] = np.cumsum(sizes) - sizes + sizes // 2
    return middles


@lru_cache(maxsize=4096)
def _positions(n: int, length: int) -> NDArray[np.int64]:
    if n >= length:
        # numpy's float64 linspace, truncated: exact integer arithmetic differs from n = 295.
        chosen = np.linspace(0, n - 1, length).astype(np.int64)
    else:
        missing = length - n
        extra = _middles(n, missing) if missing <= n else np.arange(missing) % n
        chosen = np.concatenate([np.arange(n), extra])
    chosen.setflags(write=False)
    return chosen


@lru_cache(maxsize=4096)
def _positions_v1_1(n: int, length: int) -> NDArray[np.int64]:
    if n >= length:
        chosen = _middles(n, length)
    else:
        # numpy's float64 linspace and its rounding, half to even.
        between = np.linspace(0, n - 1, length - n + 2)[1:-1]
        chosen = np.concatenate([np.arange(n), np.rint(between).astype(np.int64)])
    chosen.setflags(write=False)
    return chosen


def positions(n: int, length: int) -> NDArray[np.int64]:
    """The positions, among n valid steps, of a v2 sequence of `length` steps.

    n >= length: `length` positions at even distances, ends included. n < length: all n in
    order, then, with r = length - n, the middle one of each of r nearly equal runs if
    r <= n, else 0, 1, 2, ... modulo n.

    Returns:
        (length,) int64, read-only, values 0 .. n-1.

    Raises:
        ValueError: n or length is below 1.
    """
    return _positions(*_checked(n, length))


def positions_v1_1(n: int, length: int) -> NDArray[np.int64]:
    """The positions, among n valid steps, of a v1.1 sequence of `length` steps.

    n >= length: the middle one of each of `length` nearly equal runs. n < length: all n in
    order, then length - n more at even distances between the ends, rounded.

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


def group_by_length(
    valid: NDArray[np.bool_],
    choose: Callable[[int, int], NDArray[np.int64]] = positions,
) -> Iterator[Group]:
    """Group pixels by how many different steps their bins hold.

    That is the number of valid steps, up to the largest bin: what fills a bin are copies.

    Args:
        valid: (P, T) bool, the valid steps of P pixels; T may be 0.
        choose: the positions for a count and a bin.

    Yields:
        One `Group` per number that occurs, smallest first; pixels without a valid step are
        in none.
    """
    n = np.count_nonzero(valid, axis=1)
    different = np.minimum(n, LARGEST_BIN)
    steps_of_valid = np.nonzero(valid)[1]
    first = np.cumsum(n) - n
    for number in np.unique(different[different > 0]):
        pixels = np.flatnonzero(different == number)
        length = int(sequence_length(number))
        if number < length:
            # All are taken, in order, so that positions are places among them.
            steps = first[pixels][:, None] + np.arange(number)
            places = choose(int(number), length)
        else:
            counts, row = np.unique(n[pixels], return_inverse=True)
            pattern = np.stack([choose(int(c), length) for c in counts])
            steps, places = first[pixels][:, None] + pattern[row], None
        yield Group(pixels, steps_of_valid[steps], places)


def candidates(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The steps that v1.0 draws from: the valid ones, or all where none is valid. (P, T)"""
    none = ~np.asarray(valid.any(axis=1))
    return valid | none[:, None]


def draw_steps(valid: NDArray[np.bool_], size: int, stream: Stream) -> NDArray[np.int64]:
    """Draw `size` steps of each pixel, in order of the time axis; see `draws.draw_ranks`.

    A step is known by its rank among the candidates, not by its place on the time axis:
    dates on which a whole block saw nothing are dropped from the axis, and which these are
    depends on the block.

    Args:
        valid: (P, T) bool, T at least 1.
        size: how many to draw.
        stream: the random words of the P pixels.

    Returns:
        (P, size) int64.
    """
    able = candidates(valid)
    n: NDArray[np.int64] = np.asarray(np.count_nonzero(able, axis=1))
    first = np.cumsum(n) - n
    steps: NDArray[np.int64] = np.nonzero(able)[1][first[:, None] + draw_ranks(n, size, stream)]
    return steps


def group_by_copies(steps: NDArray[np.int64]) -> Iterator[Group]:
    """Group sequences in order of time by how many different steps they hold.

    Args:
        steps: (P, L) int64, not falling along a row.

    Yields:
        One `Group` per number that occurs, smallest first.
    """
    new = np.ones(steps.shape, bool)
    new[:, 1:] = steps[:, 1:] != steps[:, :-1]
    places = np.cumsum(new, axis=1) - 1
    different = places[:, -1] + 1
    for number in np.unique(different):
        pixels = np.flatnonzero(different == number)
        once = steps[pixels][new[pixels]].reshape(len(pixels), number)
        yield Group(pixels, once, None if number == steps.shape[1] else places[pixels])


class ObservationRule(ABC):
    """How a family makes sequences of a pixel's steps.

    Attributes:
        random: the sequences depend on a seed, and averaging over several makes sense.
        absent_length: rows of zeros, day 0, that stand for a sensor without a valid step.
        empty_orbit_day: day of the one invalid row of zeros that an orbit direction without
            any date gets, or None for no such row.
    """

    random: bool = False
    absent_length: int = 1
    empty_orbit_day: int | None = None

    @abstractmethod
    def groups(self, valid: NDArray[np.bool_], stream: Stream) -> Iterator[Group]:
        """The sequences of P pixels, copies of a step apart.

        Args:
            valid: (P, T) bool.
            stream: the random words of the P pixels; looked at by random rules only.

        Yields:
            Pixels by numbers of steps; those without a valid step may be in none.
        """

    @abstractmethod
    def embeddable(
        self, s2_raw: NDArray[Any], s2_valid: NDArray[np.bool_], s1_valid: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """The pixels that the family gives an embedding, however few steps are asked for.

        Args:
            s2_raw: (T2, P, 10) stored values.
            s2_valid: (P, T2) bool.
            s1_valid: (P, T1) bool, rows of empty orbits included.

        Returns:
            (P,) bool.
        """


class BinsV2(ObservationRule):
    """v2: bins; an absent sensor is one row; nothing without a valid step of any sensor."""

    def groups(self, valid: NDArray[np.bool_], stream: Stream) -> Iterator[Group]:
        """See `group_by_length`."""
        yield from group_by_length(valid, positions)

    def embeddable(
        self, s2_raw: NDArray[Any], s2_valid: NDArray[np.bool_], s1_valid: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Pixels with a valid step of either sensor."""
        return np.asarray(s2_valid.any(axis=1) | s1_valid.any(axis=1))


class BinsV11(ObservationRule):
    """v1.1: bins; an absent sensor is the smallest bin full of zeros."""

    absent_length = BIN_STEP

    def groups(self, valid: NDArray[np.bool_], stream: Stream) -> Iterator[Group]:
        """See `group_by_length`."""
        yield from group_by_length(valid, positions_v1_1)

    def embeddable(
        self, s2_raw: NDArray[Any], s2_valid: NDArray[np.bool_], s1_valid: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Every pixel."""
        return np.ones(len(s2_valid), bool)


class Draws(ObservationRule):
    """v1.0: 40 steps of each sensor, drawn at random."""

    random = True
    size = 40

    def __init__(self, empty_orbit_day: int | None = None) -> None:
        self.empty_orbit_day = empty_orbit_day

    def groups(self, valid: NDArray[np.bool_], stream: Stream) -> Iterator[Group]:
        """See `group_by_copies`; none where the time axis is empty."""
        if valid.size:
            yield from group_by_copies(draw_steps(valid, self.size, stream))

    def embeddable(
        self, s2_raw: NDArray[Any], s2_valid: NDArray[np.bool_], s1_valid: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Pixels with a Sentinel-2 value that is not 0, if there is a Sentinel-1 step to draw."""
        return np.asarray((s2_raw != 0).any(axis=(0, 2)) & (s1_valid.shape[1] > 0))
