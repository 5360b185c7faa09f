"""Selection of time steps and quantisation with PyTorch, on the device of the model.

The numbers are those of `sampling`, `philox` and `quantize`, which work with NumPy. Nothing
here waits for the device: no operation has a result whose shape depends on the data.

Shapes in the comments: P pixels, N of them, T dates, L steps of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .philox import KEY_STEPS, MULTIPLIERS, ROUNDS
from .quantize import LARGEST_CODE, Quantizer
from .sampling import BIN_STEP, LARGEST_BIN, ObservationRule, sequence_length

_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Choices:
    """The steps that sequences are made from, of one sensor of P pixels.

    Attributes:
        cumulative: (T, P) int16, number of these steps up to each date.
        counts: (P,) int64, number of these steps.
    """

    cumulative: Tensor
    counts: Tensor

    @classmethod
    def of(cls, valid: Tensor, rule: ObservationRule) -> Choices:
        """Count the steps: the valid ones, (T, P) bool; for a random rule all, if none is valid."""
        if rule.random:
            valid = valid | ~valid.any(dim=0)
        cumulative = torch.cumsum(valid, dim=0, dtype=torch.int16)
        counts = cumulative[-1] if len(cumulative) else valid.new_zeros(valid.shape[1])
        return cls(cumulative, counts.to(torch.int64))

    def lengths(self, rule: ObservationRule) -> Tensor:
        """Return the sequence length of each pixel, (P,) int64; 0 for a pixel without a step."""
        if rule.random:
            return torch.where(self.counts > 0, rule.size, 0)
        return sequence_lengths(self.counts)

    def steps(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """Return the dates of positions among the steps: (N,), (N, L) -> (N, L) int64."""
        cumulative = self.cumulative.index_select(1, pixels).T.contiguous()
        return torch.searchsorted(cumulative, (positions + 1).to(torch.int16))


def sequence_lengths(counts: Tensor) -> Tensor:
    """See `sampling.sequence_length`."""
    bins = torch.div(counts + (BIN_STEP - 1), BIN_STEP, rounding_mode="floor") * BIN_STEP
    return bins.clamp_(max=LARGEST_BIN)


def position_table(rule: ObservationRule, dates: int) -> NDArray[np.int16]:
    """Return the positions of a sequence for every number n of valid steps, up to `dates`.

    Returns:
        (dates + 1, L) int16: `rule.positions(n, bin)` in row n, then zeros; L is the largest bin.
    """
    lengths = sequence_length(np.arange(dates + 1))
    table = np.zeros((dates + 1, lengths[-1]), np.int16)
    for n, length in enumerate(lengths[1:], start=1):
        table[n, :length] = rule.positions(n, int(length))
    return table


@dataclass(frozen=True)
class DeviceStream:
    """`philox.Stream` of P pixels on a device.

    Attributes:
        seed, sensor, repeat: as in `philox.Stream`.
        rows, columns: (P,) int64.
    """

    seed: int
    rows: Tensor
    columns: Tensor
    sensor: int = 0
    repeat: int = 0

    def words(self, pixels: Tensor, count: int) -> Tensor:
        """Return the first `count` random words of N pixels, (N, count) int64."""
        fours = torch.arange(-(-count // 4), device=pixels.device)
        shape = (len(pixels), len(fours))
        words = [
            word.expand(shape)
            for word in (
                self.columns[pixels][:, None],
                self.rows[pixels][:, None],
                fours[None],
                torch.full_like(fours, 2 * self.repeat + self.sensor)[None],
            )
        ]
        keys = (self.seed & _LOW, (self.seed >> 32) & _LOW)
        for number in range(ROUNDS):
            low, high = (
                (word + number * step) & _LOW for word, step in zip(keys, KEY_STEPS, strict=True)
            )
            first_high, first_low = _product(words[0], MULTIPLIERS[0])
            second_high, second_low = _product(words[2], MULTIPLIERS[1])
            words = [second_high ^ words[1] ^ low, second_low, first_high ^ words[3] ^ high]
            words.append(first_low)
        return torch.stack(words, dim=-1).flatten(1)[:, :count]


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Return the upper and lower 32 bits of a product of numbers of 32 bits; no step exceeds 63."""
    upper, lower = a * (b >> 16), a * (b & 0xFFFF)
    return (upper + (lower >> 16)) >> 16, (((upper & 0xFFFF) << 16) + lower) & _LOW


def draw_positions(counts: Tensor, dates: int, size: int, words: Tensor) -> Tensor:
    """Draw `size` positions among the steps of each pixel; see `philox.draw_ranks`.

    Args:
        counts: (N,) int64, at least 1, at most `dates`.
        dates: T.
        size: number of draws.
        words: (N, max(T, size)) int64, random words.

    Returns:
        (N, size) int64 in ascending order.
    """
    n = counts[:, None]
    result = (words[:, :size] * n) >> 32
    if dates >= size:
        number = torch.arange(dates, device=counts.device)
        # With the number of the candidate in its low bits every key is unique: no ties.
        keys = (words[:, :dates] << 16) | number
        keys = torch.where(number < n, keys, torch.iinfo(torch.int64).max)
        smallest = torch.topk(keys, size, dim=1, largest=False, sorted=False).values & 0xFFFF
        result = torch.where(n < size, result, smallest)
    return result.sort(dim=1).values


def quantize_on_device(embeddings: Tensor, rule: Quantizer) -> tuple[Tensor, Tensor]:
    """Quantise along the last axis; see `quantize.quantize`.

    Args:
        embeddings: (N, K) float32, finite.
        rule: the generation's rule.

    Returns:
        codes (N, K) int8, scales (N,) float32.
    """
    largest = embeddings.abs().amax(dim=-1, keepdim=True).clamp_(min=rule.smallest_maximum)
    # A tensor: on a GPU PyTorch multiplies by the reciprocal of a number, which rounds differently.
    scales = (largest / torch.full_like(largest, LARGEST_CODE)).clamp_(min=rule.smallest_scale)
    codes = (embeddings / scales).round_().clamp_(rule.smallest_code, LARGEST_CODE)
    return codes.to(torch.int8), scales[:, 0]
