"""Simulate the reflectance of the landscape on a day.

Fields are mixtures of bare soil, green leaves, dry matter and blossom; the shares follow the
calendar of each crop. Spectra are round numbers typical of temperate farmland, not
measurements.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .landscape import Cover, Crop, Landscape
from .noise import Field

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Order of the reflectance axis, by wavelength."""

FIRST_YEAR = 2021
"""Year of the first harvest; days are counted from its first of January."""

# Reflectance by band, in the order of BANDS.
_SPECTRA: dict[str, tuple[float, ...]] = {
    "leaf": (0.028, 0.062, 0.030, 0.098, 0.300, 0.385, 0.415, 0.435, 0.190, 0.088),
    "dry": (0.060, 0.095, 0.135, 0.170, 0.215, 0.245, 0.275, 0.305, 0.330, 0.225),
    "blossom": (0.045, 0.190, 0.165, 0.205, 0.320, 0.375, 0.400, 0.415, 0.200, 0.100),
    "peat": (0.038, 0.050, 0.062, 0.076, 0.092, 0.106, 0.120, 0.135, 0.190, 0.165),
    "silt": (0.085, 0.120, 0.155, 0.180, 0.200, 0.220, 0.240, 0.260, 0.340, 0.290),
    "canopy": (0.020, 0.044, 0.022, 0.070, 0.250, 0.335, 0.365, 0.385, 0.155, 0.066),
    "twigs": (0.036, 0.048, 0.055, 0.078, 0.112, 0.130, 0.148, 0.168, 0.165, 0.108),
    "autumn": (0.032, 0.068, 0.095, 0.130, 0.210, 0.250, 0.280, 0.300, 0.200, 0.105),
    "needles": (0.016, 0.028, 0.019, 0.043, 0.125, 0.165, 0.185, 0.200, 0.085, 0.040),
    "lake": (0.042, 0.046, 0.028, 0.024, 0.018, 0.016, 0.014, 0.012, 0.007, 0.005),
    "river": (0.050, 0.066, 0.054, 0.048, 0.034, 0.030, 0.027, 0.023, 0.012, 0.009),
    "tile": (0.070, 0.092, 0.160, 0.180, 0.195, 0.208, 0.220, 0.235, 0.265, 0.235),
    "slate": (0.120, 0.126, 0.130, 0.134, 0.140, 0.144, 0.150, 0.156, 0.180, 0.170),
    "metal": (0.300, 0.320, 0.330, 0.335, 0.340, 0.345, 0.350, 0.350, 0.340, 0.310),
    "asphalt": (0.085, 0.095, 0.104, 0.110, 0.116, 0.121, 0.127, 0.133, 0.150, 0.140),
    "snow": (0.780, 0.770, 0.760, 0.750, 0.730, 0.710, 0.690, 0.670, 0.090, 0.070),
}
SPECTRA: dict[str, Field] = {
    name: np.array(values, dtype=np.float32) for name, values in _SPECTRA.items()
}

# Calendar of a crop: (day of the harvest year, green, dry, blossom), straight lines between.
_CALENDARS: dict[Crop, tuple[tuple[float, ...], ...]] = {
    Crop.WHEAT: (
        (-85, 0, 0, 0), (-60, 0.2, 0, 0), (-15, 0.32, 0, 0), (50, 0.42, 0, 0), (100, 0.82, 0, 0),
        (130, 0.95, 0, 0), (165, 0.88, 0.07, 0), (185, 0.35, 0.6, 0), (205, 0.05, 0.9, 0),
        (214, 0.02, 0.9, 0), (216, 0.02, 0.45, 0), (250, 0.08, 0.35, 0), (264, 0, 0, 0),
    ),
    Crop.BARLEY: (
        (-95, 0, 0, 0), (-70, 0.25, 0, 0), (-15, 0.38, 0, 0), (50, 0.48, 0, 0), (90, 0.85, 0, 0),
        (120, 0.95, 0, 0), (145, 0.85, 0.1, 0), (165, 0.3, 0.65, 0), (185, 0.03, 0.92, 0),
        (194, 0.02, 0.92, 0), (196, 0.02, 0.45, 0), (225, 0.1, 0.32, 0), (240, 0, 0, 0),
    ),
    Crop.RAPE: (
        (-125, 0, 0, 0), (-105, 0.2, 0, 0), (-75, 0.65, 0, 0), (-20, 0.58, 0, 0), (50, 0.62, 0, 0),
        (90, 0.82, 0, 0.02), (105, 0.7, 0, 0.2), (118, 0.35, 0, 0.6), (132, 0.5, 0, 0.4),
        (142, 0.9, 0, 0), (165, 0.8, 0.12, 0), (185, 0.4, 0.5, 0), (200, 0.1, 0.82, 0),
        (204, 0.05, 0.42, 0), (232, 0.1, 0.3, 0), (246, 0, 0, 0),
    ),
    Crop.BEET: (
        (105, 0, 0, 0), (125, 0.1, 0, 0), (150, 0.5, 0, 0), (180, 0.93, 0, 0), (240, 0.94, 0, 0),
        (285, 0.82, 0.05, 0), (303, 0.75, 0.08, 0), (307, 0.08, 0.1, 0), (325, 0, 0, 0),
    ),
    Crop.MAIZE: (
        (125, 0, 0, 0), (145, 0.1, 0, 0), (175, 0.5, 0, 0), (205, 0.9, 0, 0), (240, 0.9, 0.02, 0),
        (262, 0.55, 0.35, 0), (274, 0.3, 0.6, 0), (278, 0.03, 0.4, 0), (430, 0.06, 0.25, 0),
        (440, 0, 0, 0),
    ),
    Crop.POTATO: (
        (120, 0, 0, 0), (140, 0.2, 0, 0), (165, 0.75, 0, 0), (185, 0.93, 0, 0), (225, 0.85, 0, 0),
        (243, 0.35, 0.4, 0), (258, 0.05, 0.42, 0), (268, 0, 0.05, 0), (276, 0, 0, 0),
    ),
    Crop.FALLOW: (
        (60, 0, 0, 0), (120, 0.25, 0.05, 0), (170, 0.3, 0.1, 0), (230, 0.18, 0.3, 0),
        (320, 0.1, 0.15, 0), (360, 0, 0, 0),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Shares:
    """(parcels,) shares of a field's surface; the remainder is bare soil."""

    green: Field
    dry: Field
    blossom: Field


def day_number(day: dt.date) -> int:
    """Return the number of a day: 1 is the first of January of the first harvest year."""
    return (day - dt.date(FIRST_YEAR, 1, 1)).days + 1


def field_shares(landscape: Landscape, day: dt.date) -> Shares:
    """Return the cover of every parcel on a day: the first harvest's crop, then the second's."""
    when = day_number(day) - landscape.delay
    total = np.zeros((3, len(when)), dtype=np.float32)
    for harvest in (0, 1):
        for crop, calendar in _CALENDARS.items():
            table = np.array(calendar)
            here = landscape.crops[:, harvest] == crop
            for index in range(3):
                values = np.interp(
                    when[here] - 365 * harvest, table[:, 0], table[:, index + 1], left=0, right=0
                )
                total[index, here] = np.maximum(total[index, here], values)
    green, dry, blossom = total
    return Shares(green, np.minimum(dry, 1 - green - blossom), blossom)


def tree_leaves(day: dt.date) -> tuple[float, float]:
    """Return (green, autumn-coloured) shares of broadleaf crowns; the remainder is twigs."""
    doy = day.timetuple().tm_yday
    green = float(np.interp(doy, (98, 130, 272, 300), (0.0, 1.0, 1.0, 0.0)))
    autumn = float(np.interp(doy, (272, 298, 322), (0.0, 0.75, 0.0)))
    return green, min(autumn, 1 - green)


def grass_green(doy: int | Field) -> Field:
    """Return the green share of meadows: little growth in winter, mown in June and in August."""
    days = (1, 70, 115, 150, 156, 190, 212, 218, 260, 310, 366)
    green = (0.58, 0.6, 0.85, 0.93, 0.5, 0.78, 0.72, 0.45, 0.78, 0.66, 0.58)
    return np.asarray(np.interp(doy, days, green), dtype=np.float32)


def wetness(day: dt.date) -> float:
    """Return the mean soil wetness, 0 (late summer) .. 1 (midwinter)."""
    return float(0.5 + 0.4 * np.cos(2 * np.pi * (day.timetuple().tm_yday - 20) / 365))


def reflectance(landscape: Landscape, day: dt.date, *, sun_elevation: float) -> Field:
    """Compute the surface reflectance on a clear day.

    Args:
        landscape: see `build_landscape`.
        day: date.
        sun_elevation: degrees; trees have longer shadows when the sun is low.

    Returns:
        (10, H, W) float32, bands in the order of `BANDS`.
    """
    scene = np.empty((len(BANDS), *landscape.shape), dtype=np.float32)
    soil = _soil_spectra(landscape, day)
    grain = landscape.grain
    shares = field_shares(landscape, day)
    parcel = landscape.parcel

    def fill(where: NDArray[np.bool_], values: NDArray[np.float32], contrast: float) -> None:
        scene[:, where] = values * (1 + np.float32(contrast) * grain[where])

    fields = landscape.is_any(Cover.FIELD)
    index = parcel[fields]
    green = np.clip(shares.green[index] * landscape.vigour[fields], 0, 1)
    dry, blossom = shares.dry[index], shares.blossom[index]
    bare = np.clip(1 - green - dry - blossom, 0, 1)
    fill(fields, _mix(leaf=green, dry=dry, blossom=blossom) + bare * soil[:, fields], 0.025)

    doy = day.timetuple().tm_yday
    meadows = landscape.is_any(Cover.GRASS)
    grass = grass_green(doy - landscape.delay[parcel[meadows]]) * landscape.vigour[meadows]
    straw = np.clip(0.85 - grass, 0, 0.35)
    bare = np.clip(1 - grass - straw, 0, 1)
    fill(meadows, _mix(leaf=grass, dry=straw) + bare * soil[:, meadows], 0.03)

    leaves, autumn = tree_leaves(day)
    crowns = _mix_one(canopy=leaves, autumn=autumn, twigs=1 - leaves - autumn)
    for cover, spectrum, contrast in (
        (Cover.BROADLEAF, crowns, 0.16),
        (Cover.HEDGE, 0.7 * crowns + 0.3 * _mix_one(leaf=float(grass_green(doy))), 0.1),
        (Cover.CONIFER, SPECTRA["needles"], 0.2),
        (Cover.REED, _mix_one(canopy=0.85 * leaves, dry=0.95 - 0.85 * leaves), 0.08),
        (Cover.LAKE, SPECTRA["lake"] * (1 + 0.25 * np.sin(doy / 58.0)), 0.03),
        (Cover.RIVER, SPECTRA["river"] * (0.85 + 0.5 * wetness(day)), 0.03),
        (Cover.ASPHALT, SPECTRA["asphalt"], 0.05),
        (Cover.TRACK, 0.45 * SPECTRA["silt"] + 0.4 * _mix_one(leaf=float(grass_green(doy))), 0.06),
        (Cover.GARDEN, 0.45 * crowns + 0.5 * _mix_one(leaf=float(grass_green(doy))), 0.2),
    ):
        fill(landscape.is_any(cover), np.asarray(spectrum, np.float32)[:, None], contrast)
    for kind, name in enumerate(("tile", "slate", "metal")):
        fill(landscape.is_any(Cover.ROOF) & (landscape.roof == kind), SPECTRA[name][:, None], 0.12)
    return scene * _shade(landscape, sun_elevation)


def _soil_spectra(landscape: Landscape, day: dt.date) -> Field:
    light = landscape.soil
    spectra = SPECTRA["peat"][:, None, None] * (1 - light) + SPECTRA["silt"][:, None, None] * light
    return np.asarray(spectra * np.float32(1.12 - 0.3 * wetness(day)), dtype=np.float32)


def _mix(**shares: Field) -> Field:
    """Return (10, n) spectra from (n,) shares of the named spectra."""
    return sum(SPECTRA[name][:, None] * share for name, share in shares.items())  # type: ignore[return-value]


def _mix_one(**shares: float) -> Field:
    """Return a (10,) spectrum from shares of the named spectra."""
    return sum(SPECTRA[name] * np.float32(share) for name, share in shares.items())  # type: ignore[return-value]


def _shade(landscape: Landscape, sun_elevation: float) -> Field:
    """Return 1 in the sun, less in the shadow of trees 14 m high, to the north-north-west."""
    trees = landscape.is_any(Cover.BROADLEAF, Cover.CONIFER)
    length = round(float(14.0 / np.tan(np.radians(max(sun_elevation, 8.0))) / 5.0))
    shadow = np.zeros_like(trees)
    for step in range(1, length + 1):
        shadow |= np.roll(trees, (-step, -int(step * 0.35)), axis=(0, 1))
    return np.where(shadow & ~trees, np.float32(0.72), np.float32(1.0))
