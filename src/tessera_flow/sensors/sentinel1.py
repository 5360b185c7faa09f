"""Preprocess Sentinel-1 RTC: scaled decibels and the mosaic of one day and direction."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("vv", "vh")
"""Polarisations in the order of the last axis of Sentinel-1 arrays."""

ORBITS = ("ascending", "descending")

MAX_NEGATIVE_SHARE = 0.9
"""Largest share of the values of an image that may be negative if they are larger than noise."""

NOISE_LEVEL = 0.1
"""Noise subtraction makes power negative over calm water, by at most the noise, which is below 0.02
(-17 dB). Numbers whose median is further below zero are not power."""

NEGATIVE_WARNING_SHARE = 0.05
"""Share of negative values of an image from which on they are a warning. They become no data."""

DECIBEL_LEVEL = -1.0
MAX_DECIBEL_SHARE = 0.01
MAX_DECIBEL_COUNT = 10
"""An image with a larger share and number of values at or below `DECIBEL_LEVEL` is not power: noise
subtraction makes no value so low, and most values in decibels are lower."""

_DECIBELS = re.compile(r"(?<![a-z0-9])d[bB](?![a-z0-9])|\bdecibels?\b|\bDB\b|\bDecibels?\b")
_AMPLITUDE = re.compile(r"(?<![a-z])amplitudes?(?![a-z])", re.I)
_OTHER_COEFFICIENT = re.compile(
    r"(?<![a-z])(sigma|beta)[\s_-]*(0|nought|naught|zero)(?![a-z0-9])|[\u03c3\u03b2][\s_-]*[0\u2070\u2080\u00b0]",
    re.I,
)
_GAMMA = re.compile(r"(?<![a-z])gamma|\u03b3", re.I)

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


def not_linear_gamma0(text: str) -> str | None:
    """Return the words of a text by which radar is not gamma0 in linear power; None if there are
    none.

    Args:
        text: unit, title, description or type of a product.
    """
    if (match := _DECIBELS.search(text)) and not re.search(r"linear", text, re.I):
        return f"{match[0]!r} (decibels)"
    if (match := _AMPLITUDE.search(text)) and not re.search(r"power|intensity", text, re.I):
        return repr(match[0])
    if (match := _OTHER_COEFFICIENT.search(text)) and not _GAMMA.search(text):
        return repr(match[0])
    return None


def not_power(values: NDArray[np.floating]) -> str | None:
    """Return why the values of an image cannot be linear power; None if they can.

    Args:
        values: float array of any shape; 0 and values that are not finite are no data.
    """
    finite = values[np.isfinite(values) & (values != 0)]
    negative = finite[finite < 0]
    if negative.size == 0:
        return None
    share = negative.size / finite.size
    low = np.count_nonzero(finite <= DECIBEL_LEVEL)
    decibels = low > max(MAX_DECIBEL_COUNT, MAX_DECIBEL_SHARE * finite.size)
    if not decibels and (share <= MAX_NEGATIVE_SHARE or np.median(negative) > -NOISE_LEVEL):
        return None
    return (
        f"{100 * share:.0f} % of its values are negative (median {np.median(finite):.4g}, minimum "
        f"{finite.min():.4g})"
    )


def negative_values(values: NDArray[np.floating]) -> tuple[int, int]:
    """Return the number of negative values of an image of power, and of all that are not no data.

    Args:
        values: as in `not_power`.
    """
    finite = np.isfinite(values)
    return int(np.sum(finite & (values < 0))), int(np.sum(finite & (values != 0)))
