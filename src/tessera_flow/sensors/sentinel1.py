"""Sentinel-1 RTC preprocessing: scaled decibels and the mosaic of one day and direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("vv", "vh")
"""The two polarisations in the order of the last axis of S1 arrays."""

ORBITS = ("ascending", "descending")

_PIECE = 2**16


def power_to_scaled_decibels(power: NDArray[np.floating]) -> NDArray[np.int16]:
    """gamma0 linear power to the int16 numbers the models were trained on.

    dn = trunc(clip((20 log10(x) + 50) * 200, 0, 32767)) where x is finite and positive,
    else 0 (no data). The factor 20, not 10, treats power as an amplitude: that is what the
    published pipeline does, and what the models saw. Computed in float64, since float32
    changes one value in 3,500.

    Args:
        power: any shape, float.
    """
    result = np.empty(power.shape, np.int16)
    # In pieces: the whole in float64, several times over, would not fit the cache.
    flat, scaled_flat = np.ravel(power), result.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = slice(start, start + _PIECE)
        x = flat[piece].astype(np.float64)
        usable = np.isfinite(x) & (x > 0)
        decibels = 20.0 * np.log10(np.where(usable, x, 1.0))
        scaled = np.clip((decibels + 50.0) * 200.0, 0.0, 32767.0)
        scaled_flat[piece] = np.where(usable, scaled, 0.0)
    return result


def add_to_mosaic(mosaic: NDArray[np.int16], image: NDArray[np.int16]) -> None:
    """Fill what is still 0 in `mosaic` from `image`, each channel for itself, in place.

    Called with a day's images in their stated order, the first non-zero value wins.

    Args:
        mosaic: (H, W, 2) int16, changed.
        image: (H, W, 2) int16.
    """
    np.copyto(mosaic, image, where=mosaic == 0)
