"""Simulate the radar backscatter of the landscape: gamma0 by cover, season and orbit."""

from __future__ import annotations

import datetime as dt
from typing import Literal

import numpy as np

from .landscape import Cover, Crop, Landscape
from .noise import Field
from .phenology import field_shares, grass_green, tree_leaves, wetness

LOOKS = 4.4
"""Equivalent number of looks of a ground-range scene: sets the speckle."""

Orbit = Literal["ascending", "descending"]

# gamma0 in dB, (VV, VH), of closed crop canopies and of bare dry soil.
_CROPS = {
    Crop.WHEAT: (-13.0, -19.5),
    Crop.BARLEY: (-12.0, -18.0),
    Crop.RAPE: (-10.0, -14.5),
    Crop.BEET: (-9.0, -15.0),
    Crop.MAIZE: (-8.8, -14.8),
    Crop.POTATO: (-8.5, -14.0),
    Crop.FALLOW: (-11.5, -18.0),
}
_BARE = (-11.5, -20.5)
_GRASS = (-10.5, -16.8)
_OTHERS = {
    Cover.BROADLEAF: (-8.2, -13.2),
    Cover.CONIFER: (-8.8, -13.8),
    Cover.HEDGE: (-8.8, -14.2),
    Cover.REED: (-8.0, -15.5),
    Cover.RIVER: (-17.5, -24.5),
    Cover.ROOF: (-2.5, -10.0),
    Cover.ASPHALT: (-13.5, -21.0),
    Cover.TRACK: (-11.5, -19.5),
    Cover.GARDEN: (-7.5, -13.5),
}


def gamma0(landscape: Landscape, day: dt.date, orbit: Orbit, rng: np.random.Generator) -> Field:
    """Compute terrain-corrected backscatter with speckle, at 10 m.

    The two orbits have different angles: soils and streets differ by a decibel, and the bright
    edge of a wood is on the side of the sensor (west in ascending passes, east in descending
    ones).

    Args:
        landscape: (2 H, 2 W) cells.
        day: date; weather of the day (rain, wind) is drawn from `rng`.
        orbit: direction of the pass.
        rng: random number generator.

    Returns:
        (2, H, W) float32, linear power, VV and VH.
    """
    height, width = (n // 2 for n in landscape.shape)
    rain, wind = rng.normal(0, 1), rng.gamma(2.0, 0.7)
    facing = 1 if orbit == "ascending" else -1
    pixels = []
    for channel in (0, 1):
        decibels = _decibels(landscape, day, facing, rain, wind, channel)
        power = np.power(np.float32(10), decibels / np.float32(10))
        power = power.reshape(height, 2, width, 2).mean(axis=(1, 3))
        pixels.append(power * rng.gamma(LOOKS, 1 / LOOKS, (height, width)))
    return np.stack(pixels).astype(np.float32)


def _decibels(
    landscape: Landscape, day: dt.date, facing: int, rain: float, wind: float, channel: int
) -> Field:
    """Return (2 H, 2 W) gamma0 in dB before speckle."""
    shares = field_shares(landscape, day)
    wet = 3.0 * (wetness(day) - 0.5) + 0.9 * rain
    bare = _BARE[channel] + wet + 0.5 * facing
    # From this day on, the crop of the second harvest covers more.
    second = day >= dt.date(2021, 10, 1)
    canopy = np.array([_CROPS[Crop(crop)][channel] for crop in range(len(Crop))])
    closed = canopy[landscape.crops[:, int(second)]] + 0.25 * wet
    cover = np.clip(shares.green + shares.blossom + 0.35 * shares.dry, 0, 1)
    rows = 0.7 * np.cos(2 * (landscape.direction - facing * 0.2)) * (1 - cover)
    fields = bare * (1 - cover) + closed * cover + rows

    doy = day.timetuple().tm_yday
    result: Field = fields[landscape.parcel].astype(np.float32)
    grass = _GRASS[channel] + 2.0 * (float(grass_green(doy)) - 0.8) + 0.5 * wet
    result[landscape.is_any(Cover.GRASS)] = grass + 0.2 * facing
    for kind, level in _OTHERS.items():
        result[landscape.is_any(kind)] = level[channel] + 0.1 * rain
    result[landscape.is_any(Cover.BROADLEAF)] += 0.8 * (0.5 - tree_leaves(day)[0])
    lake = (-24.0, -29.0)[channel] + 2.2 * wind
    result[landscape.is_any(Cover.LAKE)] = lake
    roofs = landscape.is_any(Cover.ROOF)
    result[roofs] += 2.5 * landscape.grain[roofs] + 1.2 * facing
    result[landscape.is_any(Cover.ASPHALT)] -= 0.6 * facing

    trees = landscape.is_any(Cover.BROADLEAF, Cover.CONIFER)
    lit = trees & ~np.roll(trees, 2 * facing, axis=1)
    shaded = ~trees & np.roll(trees, 3 * facing, axis=1)
    result[lit] += 2.5
    result[shaded] -= 3.5
    return result
