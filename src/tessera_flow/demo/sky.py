"""Simulate clouds, their shadows and snow over the landscape, and the scene classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .landscape import Mask
from .noise import Field, rough_noise, smooth_noise
from .phenology import BANDS, SPECTRA

CLOUD_HEIGHT = 420.0
"""Metres; low, so that shadows fall inside a region of two kilometres."""

# Brightness of cloud tops by band, in the order of BANDS.
_CLOUD = np.array([0.72, 0.70, 0.69, 0.70, 0.71, 0.72, 0.72, 0.72, 0.55, 0.45], np.float32)


@dataclass(frozen=True)
class Sky:
    """Clouds, shadows, cirrus and snow, per pixel.

    Attributes:
        cloud: (H, W) float32, opacity 0..1.
        shadow: (H, W) float32, 0 = in the sun, 1 = in the shadow of an opaque cloud.
        cirrus: (H, W) float32, opacity 0..1 of thin high clouds.
        snow: (H, W) float32, share of the ground under snow.
    """

    cloud: Field
    shadow: Field
    cirrus: Field
    snow: Field


def make_sky(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    cover: float,
    sun_elevation: float,
    cirrus: bool = False,
    snow: bool = False,
    pixel: float = 10.0,
) -> Sky:
    """Generate clouds over about the share `cover` of the pixels, with shadows, cirrus and snow.

    Args:
        rng: random number generator.
        shape: (H, W) in pixels.
        cover: 0 = no cloud .. 1 = overcast.
        sun_elevation: degrees; shadows are further away when the sun is low.
        cirrus: add thin high clouds.
        snow: add patches of snow.
        pixel: edge of a pixel in metres.
    """
    reach = CLOUD_HEIGHT / np.tan(np.radians(max(sun_elevation, 12.0))) / pixel
    up, left = int(reach * 0.94), int(reach * 0.34)
    padded = (shape[0] + up, shape[1] + left)
    field = rough_noise(rng, padded, (62.0, 30.0, 14.0, 6.0))
    opacity = np.zeros(padded, dtype=np.float32)
    if cover >= 1:
        opacity = np.clip(0.9 + 0.08 * field, 0.7, 1.0).astype(np.float32)
    elif cover > 0:
        threshold = np.quantile(field[: shape[0], : shape[1]], 1 - cover)
        t = np.clip((field - threshold + 0.12) / 0.55, 0, 1)
        opacity = (t * t * (3 - 2 * t)).astype(np.float32)
    # The sun is in the south-south-east, so shadows are north-north-west of their clouds.
    zeros = np.zeros(shape, dtype=np.float32)
    thin = np.clip(0.16 + 0.1 * smooth_noise(rng, shape, 70.0), 0, 0.3) if cirrus else zeros
    white = np.clip(0.2 + 0.55 * rough_noise(rng, shape, (40.0, 9.0)), 0, 0.95) if snow else zeros
    return Sky(
        cloud=opacity[: shape[0], : shape[1]],
        shadow=opacity[up:, left:],
        cirrus=thin.astype(np.float32),
        snow=white.astype(np.float32),
    )


def look_through(ground: Field, sky: Sky, ground_holds_snow: Field) -> Field:
    """Compute the reflectance at the satellite.

    Args:
        ground: (10, H, W) float32 reflectance on a clear day.
        sky: of the same (H, W).
        ground_holds_snow: (H, W) share on which snow can lie (not on water or streets).

    Returns:
        (10, H, W) float32.
    """
    snow = sky.snow * ground_holds_snow
    below = ground * (1 - snow) + SPECTRA["snow"][:, None, None] * snow
    below = below * (1 - np.float32(0.68) * sky.shadow)
    seen = below * (1 - sky.cloud) + _CLOUD[:, None, None] * sky.cloud
    through: Field = seen * (1 - sky.cirrus) + np.float32(0.35) * sky.cirrus
    return through


def classify(seen: Field, sky: Sky, has_data: Mask) -> NDArray[np.uint8]:
    """Return scene classes like those of Sen2Cor, from the reflectance and the sky.

    0 no data, 2 dark, 3 cloud shadow, 4 vegetation, 5 bare, 6 water, 7 unclassified (thin
    cloud edges), 8 and 9 cloud of medium and high probability, 10 thin cirrus, 11 snow.

    Args:
        seen: (10, H, W) float32 reflectance, at the pixels of the result.
        sky: of the same (H, W).
        has_data: (H, W).
    """
    band = dict(zip(BANDS, seen, strict=True))
    ndvi = _ratio(band["B08"], band["B04"])
    scl = np.where(ndvi > 0.4, 4, 5).astype(np.uint8)
    dark = band["B08"] < 0.12
    scl[dark] = 2
    scl[dark & ((_ratio(band["B03"], band["B08"]) > 0.0) | (band["B11"] < 0.035))] = 6
    scl[(_ratio(band["B03"], band["B11"]) > 0.4) & (band["B03"] > 0.25)] = 11
    scl[sky.cirrus > 0.12] = 10
    scl[sky.shadow > 0.3] = 3
    scl[sky.cloud > 0.06] = 7
    scl[sky.cloud > 0.2] = 8
    scl[sky.cloud > 0.55] = 9
    scl[~has_data] = 0
    return scl


def _ratio(a: Field, b: Field) -> Field:
    return np.asarray((a - b) / (a + b), dtype=np.float32)
