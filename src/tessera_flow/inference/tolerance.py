"""The tolerances of docs/equivalence.md, and how agreement is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..models.quantize import Quantizer, quantize
from ..models.statistics import Statistics
from ..sensors.sentinel1 import CHANNELS
from ..sensors.sentinel2 import BANDS
from .inputs import SensorSteps

MIN_WIDTH_BF16 = 64
"""Minimum width of an encoder for bfloat16: narrower ones are not faster, and average out less
of the rounding. No published model is narrower."""

SAMPLE_PIXELS = 48


@dataclass(frozen=True)
class Agreement:
    """Agreement of two computations of the same embeddings, measured or required.

    Attributes:
        largest: largest difference of a code (required: at most).
        equal: share of equal codes (at least).
        within_one: share of codes that differ by 1 or less (at least).
        cosine: smallest cosine between embeddings of a pixel, before quantising (at least).
        scale: largest relative difference of a scale (at most).
    """

    largest: int
    equal: float
    within_one: float
    cosine: float
    scale: float

    def violations(self, measured: Agreement) -> list[str]:
        """Return the values of `measured` that violate these requirements, as text."""
        return [
            f"{name} {getattr(measured, name):.7g} instead of {getattr(self, name):.7g}"
            for name, sign in (
                ("largest", 1),
                ("equal", -1),
                ("within_one", -1),
                ("cosine", -1),
                ("scale", 1),
            )
            if not sign * getattr(measured, name) <= sign * getattr(self, name)
        ]


SAME_MACHINE = Agreement(1, 0.9999, 1.0, 0.9999999, 1e-5)
"""float32 on one CPU: other batches, patches, blocks, number of threads or order."""
FLOAT32 = Agreement(1, 0.999, 1.0, 0.999999, 1e-5)
"""float32 on another device, or with repeated steps computed once."""
BF16 = Agreement(4, 0.5, 0.99, 0.9999, 0.02)
"""bfloat16, compared with float32."""


def compare(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], quantizer: Quantizer
) -> Agreement:
    """Compare embeddings (N, K), finite, with reference embeddings (N, K)."""
    codes, scales = quantize(reference, quantizer)
    other_codes, other_scales = quantize(candidate, quantizer)
    difference = np.abs(codes.astype(np.int16) - other_codes)
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.sum(a * b, axis=1) / np.maximum(lengths, np.finfo(float).tiny)
    return Agreement(
        int(difference.max()),
        float(np.mean(difference == 0)),
        float(np.mean(difference <= 1)),
        float(cosines.min()),
        float(np.max(np.abs(other_scales / scales - 1))),
    )


def sample_steps(statistics: Statistics) -> tuple[SensorSteps, SensorSteps]:
    """Return simulated steps of both sensors of `SAMPLE_PIXELS` pixels, always the same ones.

    Each pixel has its own level and season, and from few to all of the dates.
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
