"""int8 codes with one float32 scale per pixel, as the v2 models store embeddings.

scale = max(|e|, 1e-12) / 127 over the stored dimensions, code = round(e / scale), half to
even, clipped to [-127, 127]. A Matryoshka prefix is cut before quantising.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_CODE = 127
SMALLEST_MAXIMUM = 1e-12


def quantize(
    embeddings: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise along the last axis.

    Args:
        embeddings: (..., K) float32, finite.

    Returns:
        codes (..., K) int8 in [-127, 127], scales (...) float32.
    """
    values = np.asarray(embeddings, dtype=np.float32)
    largest = np.max(np.abs(values), axis=-1)
    scales = np.maximum(largest, np.float32(SMALLEST_MAXIMUM)) / np.float32(LARGEST_CODE)
    codes = np.rint(values / scales[..., None])
    return np.clip(codes, -LARGEST_CODE, LARGEST_CODE).astype(np.int8), scales


def dequantize(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings from codes and scales: code * scale; NaN where the scale is NaN.

    Args:
        codes: (..., K) int8.
        scales: (...) float32.

    Returns:
        (..., K) float32.
    """
    return codes.astype(np.float32) * np.asarray(scales, dtype=np.float32)[..., None]
