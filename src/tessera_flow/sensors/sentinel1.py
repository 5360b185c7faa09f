"""Preprocess Sentinel-1 RTC: scaled decibels and the mosaic of one day and direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("vv", "vh")
"""Polarisations in the order of the last axis of Sentinel-1 arrays."""

ORBITS = ("ascending", "descending")

_CHUNK = 2**16


def power_to_scaled_decibels(power: NDArray[np.floating]) -> NDArray[np.int16]:
    """Convert gamma0 linear power to the int16 numbers that the models were trained on.

    dn = trunc(clip((20 log10(x) + 50) * 200, 0, 32767)) where x is finite and positive,
    else 0 (no data). The factor 20 instead of 10 treats power as an amplitude, as in the
    published pipeline and in the training data. Computed in float64: float32 changes one value
    in 3,500.

    Args:
        power: float array of any shape.

    Returns:
        int16 array of the same shape.
    """
    result = np.empty(power.shape, np.int16)
    # In chunks: several float64 copies of the full array would not fit the cache.
    flat, scaled_flat = np.ravel(power), result.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        x = flat[chunk].astype(np.float64)
        usable = np.isfinite(x) & (x > 0)
        decibels = 20.0 * np.log10(np.where(usable, x, 1.0))
        scaled = np.clip((decibels + 50.0) * 200.0, 0.0, 32767.0)
        scaled_flat[chunk] = np.where(usable, scaled, 0.0)
    return result


def add_to_mosaic(mosaic: NDArray[np.int16], image: NDArray[np.int16]) -> None:
    """Fill zeros of `mosaic` from `image`, in place and separately for each channel.

    If called with the images of a day in manifest order, the first non-zero value is used.

    Args:
        mosaic: (H, W, 2) int16, modified.
        image: (H, W, 2) int16.
    """
    np.copyto(mosaic, image, where=mosaic == 0)
