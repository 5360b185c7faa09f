"""Quantise embeddings to int8 codes with one float32 scale per pixel.

scale = max|e| / 127 over the stored dimensions, code = round(e / scale), half to even,
clipped. The two generations differ in how a scale of 0 is avoided and in the smallest code.
A Matryoshka prefix is cut before quantising.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST_CODE = 127


@dataclass(frozen=True)
class Quantizer:
    """The rule of one generation.

    Attributes:
        smallest_maximum: lower limit of max|e|.
        smallest_scale: lower limit of the scale.
        smallest_code: lower end of the clip range.
    """

    smallest_maximum: float
    smallest_scale: float
    smallest_code: int


V1 = Quantizer(smallest_maximum=0.0, smallest_scale=1e-8, smallest_code=-128)
V2 = Quantizer(smallest_maximum=1e-12, smallest_scale=0.0, smallest_code=-127)


def quantize(
    embeddings: NDArray[np.float32], rule: Quantizer = V2
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise along the last axis.

    Args:
        embeddings: (..., K) float32, finite.
        rule: the generation's rule.

    Returns:
        codes (..., K) int8, scales (...) float32.
    """
    values = np.asarray(embeddings, dtype=np.float32)
    largest = np.maximum(np.max(np.abs(values), axis=-1), np.float32(rule.smallest_maximum))
    scales = np.maximum(largest / np.float32(LARGEST_CODE), np.float32(rule.smallest_scale))
    codes = np.rint(values / scales[..., None])
    return np.clip(codes, rule.smallest_code, LARGEST_CODE).astype(np.int8), scales


def dequantize(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return embeddings from codes and scales: code * scale; NaN where the scale is NaN.

    Args:
        codes: (..., K) int8.
        scales: (...) float32.

    Returns:
        (..., K) float32.
    """
    return codes.astype(np.float32) * np.asarray(scales, dtype=np.float32)[..., None]
