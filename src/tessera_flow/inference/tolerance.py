"""The tolerances of docs/equivalence.md, and how agreement is measured."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from ..models.quantize import Quantizer, quantize
from ..models.statistics import Statistics
from ..sensors.sentinel1 import CHANNELS
from ..sensors.sentinel2 import BANDS
from .inputs import SensorSteps

MIN_WIDTH_HALF = 64
"""Minimum width of an encoder for bf16 and fp16: narrower ones are not faster, and average out less
of the rounding. No published model is narrower."""

SAMPLE_PIXELS = 240
"""Simulated pixels: a tenth of each of five kinds, with many steps and with few."""


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
HALF = Agreement(4, 0.5, 0.99, 0.9999, 0.02)
"""bf16 or fp16, compared with float32."""
HALF_SIMULATED = Agreement(3, 0.5, 0.99, 0.99991, 0.018)
"""What bf16 and fp16 must keep on simulated pixels: nine tenths of `HALF`, because a region has
more pixels, and rarer ones."""


@dataclass(frozen=True)
class Comparison:
    """What was measured on some pixels; comparisons of several patches can be added up.

    Attributes:
        pixels: number of pixels.
        largest, cosine, scale: as in `Agreement`, over all pixels.
        codes: number of codes of the typical pixels.
        equal, within_one: number of these codes that are equal, or differ by 1 or less.
    """

    pixels: int = 0
    largest: int = 0
    cosine: float = 1.0
    scale: float = 0.0
    codes: int = 0
    equal: int = 0
    within_one: int = 0

    @classmethod
    def of(
        cls,
        reference: NDArray[np.float32],
        codes: NDArray[np.int8],
        scales: NDArray[np.float32],
        cosines: NDArray[np.float64],
        typical: NDArray[np.bool_],
        quantizer: Quantizer,
    ) -> Comparison:
        """Compare codes (N, K) and scales (N,) with reference embeddings (N, K).

        Args:
            reference: finite.
            codes, scales: of the candidate.
            cosines: (N,) between the embeddings before quantising.
            typical: (N,) the pixels that stand for all; the others were chosen as extremes, and
                do not count for shares.
            quantizer: of the family.
        """
        expected, expected_scales = quantize(reference, quantizer)
        difference = np.abs(codes.astype(np.int16) - expected)
        return cls(
            len(codes),
            int(difference.max(initial=0)),
            float(cosines.min(initial=1.0)),
            float(np.abs(scales / expected_scales - 1).max(initial=0.0)),
            difference[typical].size,
            int(np.count_nonzero(difference[typical] == 0)),
            int(np.count_nonzero(difference[typical] <= 1)),
        )

    @classmethod
    def of_array(cls, values: NDArray[np.float64]) -> Comparison:
        """Return the comparison that `to_array` converted."""
        return cls(*(kind(v) for kind, v in zip(_KINDS, values, strict=True)))

    def to_array(self) -> NDArray[np.float64]:
        """Return the values as an array."""
        return np.array(astuple(self), np.float64)

    def __add__(self, other: Comparison) -> Comparison:
        # Unlike Python's min and max, these keep NaN, which is a violation.
        return Comparison(
            self.pixels + other.pixels,
            max(self.largest, other.largest),
            float(np.minimum(self.cosine, other.cosine)),
            float(np.maximum(self.scale, other.scale)),
            self.codes + other.codes,
            self.equal + other.equal,
            self.within_one + other.within_one,
        )

    @property
    def agreement(self) -> Agreement:
        """The agreement that was measured; shares of no codes are 1."""
        codes = max(1, self.codes)
        equal, within_one = (
            number / codes if self.codes else 1.0 for number in (self.equal, self.within_one)
        )
        return Agreement(self.largest, equal, within_one, self.cosine, self.scale)


_KINDS = (int, int, float, float, int, int, int)


def compare(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], quantizer: Quantizer
) -> Agreement:
    """Compare embeddings (N, K), finite, with reference embeddings (N, K)."""
    with np.errstate(invalid="ignore"):  # NaN is a violation
        codes, scales = quantize(candidate, quantizer)
    typical = np.ones(len(reference), bool)
    similar = cosines(reference, candidate)
    return Comparison.of(reference, codes, scales, similar, typical, quantizer).agreement


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine between each two embeddings of (N, K), (N, K): (N,)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    result: NDArray[np.float64] = np.sum(x * y, axis=1) / np.maximum(lengths, np.finfo(float).tiny)
    return result


def sample_steps(statistics: Statistics) -> tuple[SensorSteps, SensorSteps]:
    """Return simulated steps of both sensors of `SAMPLE_PIXELS` pixels, always the same ones.

    Each pixel has its own level and season. Of five pixels, one is ordinary, one has extreme
    radar values (2 to 5 deviations from the mean, such as cities and calm water), one extreme
    optical values (snow, bright roofs), one both, and one outliers in single steps, which sharpen
    attention. Half of the pixels have few steps, down to one.
    """
    rng = np.random.default_rng(20260101)
    kind = np.arange(SAMPLE_PIXELS) % 5
    few = np.arange(SAMPLE_PIXELS) // 5 % 2 == 1
    optical = _Kinds(extreme=(kind == 2) | (kind == 3), outliers=kind == 4, few=few, bright=True)
    radar = _Kinds(extreme=(kind == 1) | (kind == 3), outliers=kind == 4, few=few, bright=False)
    orbit = statistics.ascending.in_order(CHANNELS)
    return (
        _simulated(rng, 48, optical, *statistics.sentinel2.in_order(BANDS)),
        _simulated(rng, 30, radar, *orbit),
    )


@dataclass(frozen=True)
class _Kinds:
    """Which of the simulated pixels have extreme levels, outliers in single steps, few steps;
    `bright`: extremes are high, and values are not negative."""

    extreme: NDArray[np.bool_]
    outliers: NDArray[np.bool_]
    few: NDArray[np.bool_]
    bright: bool


def _simulated(
    rng: np.random.Generator,
    dates: int,
    kinds: _Kinds,
    mean: NDArray[np.float32],
    divisor: NDArray[np.float32],
) -> SensorSteps:
    pixels, channels = len(kinds.few), len(mean)
    days = np.linspace(3, 361, dates).astype(np.int64)
    season = np.sin(days / 365 * np.pi)[:, None, None] * rng.normal(0, 0.7, (pixels, 1))
    level = rng.normal(0, 0.8, (pixels, channels))
    far = rng.uniform(2, 5, (pixels, 1)) * rng.choice([-1, 1], (pixels, 1))
    far = far + rng.normal(0, 0.5, (pixels, channels))
    level = np.where(kinds.extreme[:, None], np.abs(far) if kinds.bright else far, level)
    z = level + season + rng.normal(0, 0.2, (dates, pixels, channels))
    outliers = (rng.random((dates, pixels)) < 0.15) * rng.uniform(2, 5, (dates, pixels))
    z += np.where(kinds.outliers[:, None], outliers[..., None], 0)
    if kinds.bright:
        z = np.maximum(z, -mean / divisor)
    share = np.where(kinds.few, rng.uniform(0, 0.25, pixels), rng.uniform(0.1, 1, pixels))
    valid = rng.random((pixels, dates)) < share[:, None]
    valid[np.arange(pixels), rng.integers(0, dates, pixels)] = True
    return SensorSteps(
        raw=(mean + divisor * z).astype(np.float32),
        valid=valid,
        days=days,
        mean=np.broadcast_to(mean, (dates, channels)),
        divisor=np.broadcast_to(divisor, (dates, channels)),
    )
