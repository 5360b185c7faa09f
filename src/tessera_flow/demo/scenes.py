"""Write the scenes of the demo: one or more for each pass of the schedule."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.warp import transform as transform_points

from . import schedule
from .archive import PIXEL_SIZES, cloud_percentage, write_sentinel1_scene, write_sentinel2_scene
from .documents import S1_NODATA, sun_angles
from .landscape import Cover, Landscape, Mask, build_landscape
from .noise import Field
from .phenology import BANDS, reflectance
from .radar import gamma0
from .schedule import NORTH, SOUTH, OpticalPass, RadarPass
from .sky import Sky, classify, look_through, make_sky

CRS = "EPSG:32631"
LEFT = 318000.0
SOUTH_TILE_TOP = 5800020.0
"""Northern edge of tile 31UCT, in metres of its zone."""

MARGIN = 16
"""Pixels of 10 m by which scenes extend beyond the region on every side."""

SIMULATED = {"tessera_flow:simulated": True}
BLOCKSIZE = 128

# Centres of the bands in micrometres: haze is stronger in the blue.
_WAVELENGTHS = np.array([0.49, 0.56, 0.665, 0.704, 0.74, 0.783, 0.842, 0.865, 1.61, 2.19])
_TILE_GAIN = {NORTH: 1.006, SOUTH: 1.0}
"""Tiles are corrected for the atmosphere independently."""


@dataclass(frozen=True)
class Region:
    """The demo region, with the position of the simulated scenes.

    Attributes:
        height: of the region in pixels of 10 m.
        width: the same.
        seed: of all random numbers.
    """

    height: int
    width: int
    seed: int

    @property
    def scene_shape(self) -> tuple[int, int]:
        """Rows and columns that all scenes together cover, even numbers."""
        return self.height + 2 * MARGIN, self.width + 2 * MARGIN

    @property
    def tile_rows(self) -> dict[str, slice]:
        """Rows of `scene_shape` in each tile; a quarter of them are in both."""
        rows = self.scene_shape[0]
        return {NORTH: slice(0, _even(0.63 * rows)), SOUTH: slice(_even(0.38 * rows), rows)}

    @property
    def origin(self) -> tuple[float, float]:
        """(left, top) of `scene_shape` in `CRS`."""
        return LEFT, SOUTH_TILE_TOP + 10 * self.tile_rows[SOUTH].start

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of the region in `CRS`."""
        left, top = self.origin[0] + 10 * MARGIN, self.origin[1] - 10 * MARGIN
        return left, top - 10 * self.height, left + 10 * self.width, top

    def sun_elevation(self, when: dt.datetime) -> float:
        """Return the elevation of the sun in degrees above the horizon."""
        longitude, latitude = transform_points(CRS, "EPSG:4326", [LEFT], [SOUTH_TILE_TOP])
        spot = shapely.Point(longitude[0], latitude[0]).buffer(0.01)
        return 90.0 - sun_angles(when, spot)["s2:mean_solar_zenith"]


def _even(value: float) -> int:
    return 2 * round(value / 2)


def write_scenes(region: Region, folder: Path) -> Iterator[dict[str, Any]]:
    """Write every scene of the schedule below `folder`; yield the items in time order."""
    rows, columns = region.scene_shape
    landscape = build_landscape(2 * rows, 2 * columns, region.seed)
    for optical in schedule.OPTICAL:
        yield from _write_optical(region, landscape, optical, folder)
    for radar in schedule.RADAR:
        yield from _write_radar(region, landscape, radar, folder)


def _write_optical(
    region: Region, landscape: Landscape, one: OpticalPass, folder: Path
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng([region.seed, 2, one.day.toordinal()])
    elevation = region.sun_elevation(one.sensed)
    ground = _at_10m(reflectance(landscape, one.day, sun_elevation=elevation))
    sky = make_sky(
        rng, region.scene_shape, cover=one.cover, sun_elevation=elevation, cirrus=one.cirrus,
        snow=one.snow,
    )  # fmt: skip
    dry = ~landscape.is_any(Cover.LAKE, Cover.RIVER, Cover.ASPHALT)
    seen = look_through(ground, sky, _at_10m(dry.astype(np.float32)[None])[0])
    seen += (rng.gamma(2.0, 0.002) * (0.49 / _WAVELENGTHS) ** 2).astype(np.float32)[:, None, None]
    numbers = _digital_numbers(rng, seen)
    has_data = _swath(rng, region.scene_shape) if one.relative_orbit == 137 else None
    coarse_sky = _at_20m(sky)

    for tile in one.tiles:
        versions = [(one.baseline, one.sensed + dt.timedelta(hours=3, minutes=7), 1.0)]
        day, reprocessed_tile, baseline, made = schedule.REPROCESSED
        if (one.day, tile) == (day, reprocessed_tile):
            versions.append((baseline, made, 1.004))
        for baseline, made, gain in versions:
            yield _write_tile(
                region, folder, one, tile, numbers, coarse_sky, seen, has_data, baseline, made,
                gain * _TILE_GAIN[tile],
            )  # fmt: skip


def _write_tile(
    region: Region, folder: Path, one: OpticalPass, tile: str, numbers: dict[str, Field],
    sky: Sky, seen: Field, has_data: Mask | None, baseline: str, made: dt.datetime, gain: float,
) -> dict[str, Any]:  # fmt: skip
    """Crop one tile from a pass and write it with the given processing baseline."""
    rows = region.tile_rows[tile]
    coarse = slice(rows.start // 2, rows.stop // 2)
    offset = 1000 if baseline >= "04.00" else 0
    data = np.ones(sky.cloud.shape, dtype=bool) if has_data is None else has_data
    bands = {}
    for key, values in numbers.items():
        fine = PIXEL_SIZES[key] == 10
        inside = (data.repeat(2, 0).repeat(2, 1) if fine else data)[rows if fine else coarse]
        stored = np.rint(np.maximum(values[rows if fine else coarse] * gain, 1)) + offset
        bands[key] = np.where(inside, stored, 0).astype(np.uint16)
    # Sen2Cor classifies tile by tile; the northern one finds a little more cloud.
    factor = np.float32(1.2 if tile == NORTH else 1.0)
    local = Sky(
        np.minimum(sky.cloud * factor, 1)[coarse], sky.shadow[coarse], sky.cirrus[coarse],
        sky.snow[coarse],
    )  # fmt: skip
    scl = classify(_mean(seen, 2)[:, coarse], local, data[coarse])
    return write_sentinel2_scene(
        folder,
        bands=bands,
        scl=scl,
        crs=CRS,
        origin=(region.origin[0], region.origin[1] - 10 * rows.start),
        datetime=one.sensed,
        mgrs_tile=tile,
        baseline=baseline,
        cloud_cover=cloud_percentage(scl),
        platform=one.platform,
        relative_orbit=one.relative_orbit,
        generation=made,
        blocksize=BLOCKSIZE,
        extra_properties=SIMULATED,
    )


def _write_radar(
    region: Region, landscape: Landscape, one: RadarPass, folder: Path
) -> Iterator[dict[str, Any]]:
    ascending = one.orbit == "ascending"
    rng = np.random.default_rng([region.seed, 3, one.day.toordinal(), int(ascending)])
    power = gamma0(landscape, one.day, "ascending" if ascending else "descending", rng)
    if one.gap:
        rows, columns = np.indices(power.shape[1:])
        power[:, columns < 0.18 * power.shape[2] + 0.2 * rows] = S1_NODATA
    middle = dt.datetime(one.day.year, one.day.month, one.day.day, tzinfo=dt.UTC) + (
        dt.timedelta(hours=17, minutes=41, seconds=13, microseconds=402113)
        if ascending
        else dt.timedelta(hours=6, minutes=8, seconds=47, microseconds=719834)
    )
    # Scenes are aligned to 10 m, not to the 20 m of Sentinel-2: they start one pixel inside.
    height = power.shape[1]
    cuts = [(1, height - 1)]
    if one.slices == 2:
        cuts = [(1, _even(0.55 * height)), (_even(0.45 * height), height - 1)]
    for index, (first, last) in enumerate(cuts):
        scene = power[:, first:last, 1:-1]
        yield write_sentinel1_scene(
            folder,
            vv=np.ascontiguousarray(scene[0]),
            vh=np.ascontiguousarray(scene[1]) if one.vh else None,
            crs=CRS,
            origin=(region.origin[0] + 10, region.origin[1] - 10 * first),
            datetime=middle + dt.timedelta(seconds=25 * index),
            orbit_state=one.orbit,
            platform=one.platform,
            relative_orbit=132 if ascending else 81,
            blocksize=BLOCKSIZE,
            extra_properties=SIMULATED,
        )


def _digital_numbers(rng: np.random.Generator, seen: Field) -> dict[str, Field]:
    """Return reflectance x 10000 with sensor noise, each band at its own pixel size."""
    numbers = {}
    coarse = _mean(seen, 2)
    for index, key in enumerate(BANDS):
        values = seen[index] if PIXEL_SIZES[key] == 10 else coarse[index]
        noise = rng.standard_normal(values.shape).astype(np.float32)
        numbers[key] = values * 10000 * (1 + np.float32(0.006) * noise) + 8 * noise
    return numbers


def _swath(rng: np.random.Generator, shape: tuple[int, int]) -> Mask:
    """Return (H / 2, W / 2): True in the swath, whose edge is oblique."""
    rows, columns = np.indices((shape[0] // 2, shape[1] // 2))
    edge = shape[1] / 2 * rng.uniform(0.55, 0.85)
    return np.asarray(columns < edge - 0.21 * (rows - shape[0] / 4), dtype=np.bool_)


def _at_10m(cells: Field) -> Field:
    return _mean(cells, 2)


def _at_20m(sky: Sky) -> Sky:
    layers = _mean(np.stack([sky.cloud, sky.shadow, sky.cirrus, sky.snow]), 2)
    return Sky(*layers)


def _mean(stack: NDArray[np.float32], n: int) -> Field:
    """Average n x n cells of a (bands, H, W) stack."""
    bands, height, width = stack.shape
    mean: Field = stack.reshape(bands, height // n, n, width // n, n).mean(axis=(2, 4))
    return mean
