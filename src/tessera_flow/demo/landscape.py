"""Simulate the land cover of a landscape at 5 m.

Blocks of fields with lanes between them, a wood of two kinds of trees, a river with meadows, a
lake with reeds, a town with streets, houses and gardens, roads and hedges. The landscape is
determined by one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .noise import Field, rough_noise, smooth_noise

CELL = 5.0
"""Edge of a landscape cell in metres: four make a 10 m pixel."""

Mask = NDArray[np.bool_]


class Cover(IntEnum):
    """Land cover of a cell."""

    FIELD = 0
    GRASS = 1
    BROADLEAF = 2
    CONIFER = 3
    HEDGE = 4
    REED = 5
    LAKE = 6
    RIVER = 7
    ROOF = 8
    ASPHALT = 9
    TRACK = 10
    GARDEN = 11


class Crop(IntEnum):
    """Crop of a field for one harvest."""

    WHEAT = 0
    BARLEY = 1
    RAPE = 2
    BEET = 3
    MAIZE = 4
    POTATO = 5
    FALLOW = 6


@dataclass(frozen=True)
class Landscape:
    """Land cover and its local variations.

    Attributes:
        cover: (H, W) uint8, values of `Cover`.
        parcel: (H, W) int32, index of the field a cell belongs to.
        crops: (parcels, 2) uint8, values of `Crop`: harvest of the first and second year.
        delay: (parcels,) float32, delay of a parcel's season in days.
        direction: (parcels,) float32, direction of the rows, radians.
        soil: (H, W) float32, 0 = dark peat .. 1 = light silt.
        vigour: (H, W) float32 about 1, growth relative to the parcel.
        grain: (H, W) float32 about 0, standard deviation 1, from cell to cell.
        roof: (H, W) float32, 0 = red tile, 1 = grey, 2 = bright metal (where cover is ROOF).
    """

    cover: NDArray[np.uint8]
    parcel: NDArray[np.int32]
    crops: NDArray[np.uint8]
    delay: Field
    direction: Field
    soil: Field
    vigour: Field
    grain: Field
    roof: Field

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in cells."""
        return self.cover.shape[0], self.cover.shape[1]

    def is_any(self, *covers: Cover) -> Mask:
        """Return (H, W): True in cells of one of these covers."""
        return np.isin(self.cover, covers)


def build_landscape(height: int, width: int, seed: int) -> Landscape:
    """Generate a landscape of (height, width) cells; the same seed gives the same one.

    Positions scale with the extent; sizes of fields, streets and houses do not.
    """
    rng = np.random.default_rng([seed, 1])
    shape = (height, width)
    y, x = (np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)) * np.float32(CELL)
    extent = (height * CELL, width * CELL)

    parcel, direction, lanes, borders = _fields(rng, y, x, extent)
    crops, delay, meadow = _sow(rng, len(direction))
    cover = np.where(meadow[parcel], Cover.GRASS, Cover.FIELD).astype(np.uint8)
    cover[borders & (smooth_noise(rng, shape, 60) > 0.1)] = Cover.HEDGE
    cover[lanes] = Cover.TRACK

    river = _river(extent)
    to_river = _distance(y, x, river)
    banks = to_river < 65 + 18 * smooth_noise(rng, shape, 40)
    cover[banks & (cover == Cover.FIELD)] = Cover.GRASS
    _plant_woods(rng, cover, y, x, extent)
    _fill_lake(rng, cover, y, x, extent)
    roof = _build_town(rng, cover, y, x, extent, to_river)
    cover[to_river < 17 + 4 * smooth_noise(rng, shape, 24)] = Cover.RIVER
    for road in _roads(extent):
        cover[_distance(y, x, road) < 6.5] = Cover.ASPHALT

    # Silt of old river arms appears as light bands in dark peat.
    arms = np.exp(-((rough_noise(rng, shape, (90, 40)) / 0.22) ** 2))
    soil = 0.25 + 0.3 * rng.random(len(direction), dtype=np.float32)[parcel] + 0.45 * arms
    return Landscape(
        cover=cover,
        parcel=parcel,
        crops=crops,
        delay=delay,
        direction=direction,
        soil=np.clip(soil, 0, 1).astype(np.float32),
        vigour=1 + np.float32(0.06) * rough_noise(rng, shape, (50, 14)),
        grain=_grain(rng, shape),
        roof=roof,
    )


def _grain(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    cells = rng.standard_normal(shape).astype(np.float32)
    blurred = cells + np.roll(cells, 1, 0) + np.roll(cells, 1, 1) + np.roll(cells, (1, 1), (0, 1))
    return blurred / np.float32(2)


def _fields(
    rng: np.random.Generator, y: Field, x: Field, extent: tuple[float, float]
) -> tuple[NDArray[np.int32], Field, Mask, Mask]:
    """Lay out blocks of parallel strips; return (parcel, row direction, lanes, parcel borders)."""
    step = 480.0
    across, down = (int(np.ceil(length / step)) + 1 for length in (extent[1], extent[0]))
    lattice = np.mgrid[:down, :across].reshape(2, -1).T * step
    seeds = lattice + rng.uniform(-0.36, 0.36, lattice.shape) * step
    distances = np.stack([np.hypot(y - sy, x - sx) for sy, sx in seeds])
    nearest = np.partition(distances, 1, axis=0)
    block = distances.argmin(axis=0)
    lanes = (nearest[1] - nearest[0]) < 9.0

    code = np.zeros(y.shape, dtype=np.int64)
    angles = rng.uniform(-0.35, 0.35, len(seeds)) + rng.choice([0.3, 0.3, -0.55, 1.1], len(seeds))
    for index, (sy, sx) in enumerate(seeds):
        inside = block == index
        cosine, sine = np.cos(angles[index]), np.sin(angles[index])
        u = (x[inside] - sx) * cosine + (y[inside] - sy) * sine
        v = (y[inside] - sy) * cosine - (x[inside] - sx) * sine
        strips = np.cumsum(rng.uniform(75, 170, 16)) - 950
        strip = np.searchsorted(strips, v)
        starts = rng.uniform(0, 300, 17)
        lengths = rng.uniform(190, 420, 17)
        segment = np.floor((u + starts[strip]) / lengths[strip]).astype(np.int64) + 20
        code[inside] = (index * 20 + strip) * 50 + segment
    parcels, inverse = np.unique(code, return_inverse=True)
    parcel: NDArray[np.int32] = inverse.reshape(y.shape).astype(np.int32)
    borders = (parcel != np.roll(parcel, 1, 0)) | (parcel != np.roll(parcel, 1, 1))
    direction = angles[parcels // 1000].astype(np.float32)
    return parcel, direction, lanes, borders


def _sow(rng: np.random.Generator, parcels: int) -> tuple[NDArray[np.uint8], Field, Mask]:
    """Return crops of two harvests per parcel (never the same twice), its delay, and meadows."""
    shares = [0.3, 0.12, 0.14, 0.18, 0.1, 0.1, 0.06]
    first = rng.choice(len(Crop), parcels, p=shares)
    second = rng.choice(len(Crop), parcels, p=shares)
    again = first == second
    second[again] = np.where(first[again] == Crop.WHEAT, Crop.BEET, Crop.WHEAT)
    # Winter rape is sown in August, so not after a crop that is harvested in autumn.
    late = np.isin(first, (Crop.BEET, Crop.MAIZE, Crop.POTATO)) & (second == Crop.RAPE)
    second[late] = Crop.WHEAT
    delay = np.clip(rng.normal(0, 6, parcels), -12, 12).astype(np.float32)
    return np.stack([first, second], axis=1).astype(np.uint8), delay, rng.random(parcels) < 0.12


def _river(extent: tuple[float, float]) -> NDArray[np.float64]:
    """Return a line from the northern to the southern edge, as (y, x)."""
    t = np.linspace(-0.05, 1.05, 60)
    bends = 0.055 * np.sin(9.5 * t + 0.4) + 0.02 * np.sin(23 * t + 1.0)
    return np.column_stack([t * extent[0], (0.66 - 0.24 * t + bends) * extent[1]])


def _roads(extent: tuple[float, float]) -> list[NDArray[np.float64]]:
    scale = np.array(extent)
    lines = [
        [(0.68, -0.02), (0.64, 0.16), (0.655, 0.3), (0.60, 0.52), (0.62, 0.75), (0.55, 1.02)],
        [(0.655, 0.3), (0.42, 0.33), (0.22, 0.26), (-0.02, 0.3)],
        [(0.655, 0.3), (0.82, 0.27), (1.02, 0.34)],
    ]
    return [np.array(line) * scale for line in lines]


def _distance(y: Field, x: Field, line: NDArray[np.float64]) -> Field:
    """Return the distance of every cell to a line of (y, x) points, in metres."""
    best = np.full(y.shape, np.inf, dtype=np.float32)
    for (y0, x0), (y1, x1) in pairwise(line):
        dy, dx = y1 - y0, x1 - x0
        along = np.clip(((y - y0) * dy + (x - x0) * dx) / (dy * dy + dx * dx), 0, 1)
        best = np.minimum(best, np.hypot(y - y0 - along * dy, x - x0 - along * dx))
    return best.astype(np.float32)


def _blob(
    y: Field,
    x: Field,
    extent: tuple[float, float],
    centre: tuple[float, float],
    radii: tuple[float, float],
    wobble: Field,
) -> Field:
    """Return values below 1 in an irregular ellipse around `centre` (fractions of the extent)."""
    distance = np.hypot(
        (y - centre[0] * extent[0]) / radii[0], (x - centre[1] * extent[1]) / radii[1]
    )
    return np.asarray(distance + np.float32(0.16) * wobble, dtype=np.float32)


def _plant_woods(
    rng: np.random.Generator,
    cover: NDArray[np.uint8],
    y: Field,
    x: Field,
    extent: tuple[float, float],
) -> None:
    """Add a broadleaf wood with a conifer plantation cut by rides, and two copses."""
    wobble = rough_noise(rng, cover.shape, (45, 16))
    wood = _blob(y, x, extent, (0.2, 0.84), (330, 400), wobble) < 1
    cover[wood] = Cover.BROADLEAF
    u, v = x * 0.94 + y * 0.34, y * 0.94 - x * 0.34
    conifer = wood & (u > 0.88 * extent[1]) & (v < 0.02 * extent[0])
    cover[conifer] = Cover.CONIFER
    cover[conifer & ((u % 190 < 9) | (v % 150 < 9))] = Cover.GRASS
    glade = _blob(y, x, extent, (0.25, 0.79), (60, 80), wobble) < 1
    cover[glade] = Cover.GRASS
    for centre, radii in (((0.1, 0.13), (90, 150)), ((0.88, 0.78), (80, 120))):
        cover[_blob(y, x, extent, centre, radii, wobble) < 1] = Cover.BROADLEAF


def _fill_lake(
    rng: np.random.Generator,
    cover: NDArray[np.uint8],
    y: Field,
    x: Field,
    extent: tuple[float, float],
) -> None:
    """Add a lake with an island, and reeds around it."""
    wobble = rough_noise(rng, cover.shape, (40, 18))
    depth = _blob(y, x, extent, (0.8, 0.66), (150, 215), wobble)
    cover[depth < 1.22] = Cover.REED
    cover[depth < 1.0] = Cover.LAKE
    cover[_blob(y, x, extent, (0.81, 0.64), (26, 40), wobble) < 1] = Cover.BROADLEAF


def _build_town(
    rng: np.random.Generator,
    cover: NDArray[np.uint8],
    y: Field,
    x: Field,
    extent: tuple[float, float],
    to_river: Field,
) -> Field:
    """Add streets in a grid, houses, gardens, halls and a park; return the roofs."""
    wobble = rough_noise(rng, cover.shape, (40, 20))
    inside = _blob(y, x, extent, (0.64, 0.29), (330, 380), wobble) < 1
    inside &= to_river > 45
    angle = 0.32
    u = x * np.cos(angle) + y * np.sin(angle) + 6 * smooth_noise(rng, cover.shape, 80)
    v = y * np.cos(angle) - x * np.sin(angle) + 6 * smooth_noise(rng, cover.shape, 80)
    pitch_u, pitch_v, street = 128.0, 74.0, 9.0
    block_u, block_v = np.floor(u / pitch_u).astype(int), np.floor(v / pitch_v).astype(int)
    in_u, in_v = u - block_u * pitch_u, v - block_v * pitch_v
    kind = rng.random((64, 64))[block_v % 64, block_u % 64]

    roof = np.zeros(cover.shape, dtype=np.float32)
    front = np.minimum(in_v - street, pitch_v - in_v)
    plot = np.floor(in_u / 20.0).astype(int)
    house = (front > 4) & (front < 17) & (in_u % 20 > 6) & (in_u > street)
    side = (in_v > pitch_v / 2).astype(int)
    number = ((block_u * 31 + block_v * 57 + plot * 7 + side * 3) % 997).astype(int)
    grey = rng.random(997)[number] < 0.4

    cover[inside] = Cover.GARDEN
    cover[inside & house] = Cover.ROOF
    roof[inside & house & grey] = 1
    hall = inside & (kind > 0.84) & (in_u > 22) & (in_u < 112) & (in_v > 20) & (in_v < 64)
    cover[inside & (kind > 0.84)] = Cover.ASPHALT
    cover[hall], roof[hall] = Cover.ROOF, 2
    park = inside & (kind < 0.1)
    cover[park] = np.where(wobble[park] > 0.5, Cover.BROADLEAF, Cover.GRASS)
    cover[inside & ((in_u < street) | (in_v < street))] = Cover.ASPHALT
    return roof
