"""The contract of docs/equivalence.md: how far a faster way may stray, and what measures it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..models.quantize import Quantizer, quantize
from ..models.statistics import Statistics
from ..sensors.sentinel1 import CHANNELS
from ..sensors.sentinel2 import BANDS
from .inputs import SensorSteps

NARROWEST_BF16 = 64
"""Least width of an encoder for bfloat16: narrower ones gain nothing, and average away less
of the rounding. No published model is narrower."""

SAMPLE_PIXELS = 48


@dataclass(frozen=True)
class Agreement:
    """How alike two computations of the same embeddings are, or have to be.

    Attributes:
        largest: largest difference of a code; at most so much.
        equal: share of equal codes; at least.
        within_one: share of codes that differ by 1 or less; at least.
        cosine: smallest cosine between embeddings of a pixel, before quantising; at least.
        scale: largest relative difference of a scale; at most.
    """

    largest: int
    equal: float
    within_one: float
    cosine: float
    scale: float

    def broken(self, found: Agreement) -> list[str]:
        """What of this bound `found` does not keep, in words; empty if it keeps all."""
        return [
            f"{name} {getattr(found, name):.7g} instead of {getattr(self, name):.7g}"
            for name, sign in (
                ("largest", 1),
                ("equal", -1),
                ("within_one", -1),
                ("cosine", -1),
                ("scale", 1),
            )
            if not sign * getattr(found, name) <= sign * getattr(self, name)
        ]


SAME_MACHINE = Agreement(1, 0.9999, 1.0, 0.9999999, 1e-5)
"""float32 on one CPU: another batch, patch, block, number of threads, order."""
FLOAT32 = Agreement(1, 0.999, 1.0, 0.999999, 1e-5)
"""float32 elsewhere, or with repeated steps computed once."""
BF16 = Agreement(4, 0.5, 0.99, 0.9999, 0.02)


def agreement(
    measure: NDArray[np.float32], candidate: NDArray[np.float32], rule: Quantizer
) -> Agreement:
    """Compare embeddings (N, K), finite, with those that are the measure."""
    codes, scales = quantize(measure, rule)
    others, other_scales = quantize(candidate, rule)
    off = np.abs(codes.astype(np.int16) - others)
    a, b = measure.astype(np.float64), candidate.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.sum(a * b, axis=1) / np.maximum(lengths, np.finfo(float).tiny)
    return Agreement(
        int(off.max()),
        float(np.mean(off == 0)),
        float(np.mean(off <= 1)),
        float(cosines.min()),
        float(np.max(np.abs(other_scales / scales - 1))),
    )


def sample_steps(statistics: Statistics) -> tuple[SensorSteps, SensorSteps]:
    """Simulated steps of both sensors of `SAMPLE_PIXELS` pixels, always the same.

    Each pixel has a level and a season of its own, and from few to all of its dates.
    """
    rng = np.random.default_rng(20260101)
    orbit = statistics.ascending.in_order(CHANNELS)
    return (
        _simulated(rng, 48, *statistics.sentinel2.in_order(BANDS)),
        _simulated(rng, 30, *orbit),
    )


def _simulated(
    rng: np.random.Generator,
    dates: int,
    mean: NDArray[np.float32],
    divisor: NDArray[np.float32],
) -> SensorSteps:
    channels = len(mean)
    days = np.linspace(3, 361, dates).astype(np.int64)
    season = np.sin(days / 365 * np.pi)[:, None, None] * rng.normal(0, 0.7, (SAMPLE_PIXELS, 1))
    level = rng.normal(0, 0.8, (SAMPLE_PIXELS, channels))
    z = level + season + rng.normal(0, 0.2, (dates, SAMPLE_PIXELS, channels))
    valid = rng.random((SAMPLE_PIXELS, dates)) < rng.uniform(0.1, 1.0, (SAMPLE_PIXELS, 1))
    valid[:, 0] = True
    return SensorSteps(
        raw=(mean + divisor * z).astype(np.float32),
        valid=valid,
        days=days,
        mean=np.broadcast_to(mean, (dates, channels)),
        divisor=np.broadcast_to(divisor, (dates, channels)),
    )
