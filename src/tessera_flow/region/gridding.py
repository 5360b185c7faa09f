"""Divide a region's grid into blocks."""

from __future__ import annotations

import logging
from typing import Any

import pyproj
import shapely

from ..config.sections import GridSettings, Region
from ..errors import RegionError
from .crs import WGS84, reproject
from .grid import Block, RegionGrid, Window, block_id
from .mask import mask_reader, no_pixel_error
from .roi import RasterRoi, VectorRoi, region_geobox

log = logging.getLogger(__name__)

MAX_BLOCKS = 1_000_000
"""Blocks of a region, with those outside its polygons. A block is several jobs."""

_FAR_FROM_MERIDIAN = 4.0
"""Degrees: a zone ends at 3, and scenes of a zone reach beyond it."""


def make_grid(
    name: str, roi: VectorRoi | RasterRoi, region: Region, settings: GridSettings
) -> RegionGrid:
    """Divide the grid of a region into the blocks that hold a pixel of it.

    Args:
        name: name of the region.
        roi: its geometry.
        region, settings: its settings and those of the grid.

    Raises:
        RegionError: the region has no grid, too many pixels or blocks, or no pixel is inside.
    """
    geobox = region_geobox(roi, settings.resolution, region.crs, region.align)
    height, width = geobox.shape
    size = settings.block_size
    count = -(-height // size) * -(-width // size)
    if count > MAX_BLOCKS:
        raise RegionError(
            f"Region {name} has {width} x {height} pixels, which are {count} blocks of {size} px, "
            f"more than {MAX_BLOCKS}: set a larger grid.block_size."
        )
    read = mask_reader(roi, geobox)
    certain = _certain_blocks(roi, geobox) if isinstance(roi, VectorRoi) else None
    blocks = []
    for row in range(-(-height // size)):
        for column in range(-(-width // size)):
            y0, x0 = row * size, column * size
            window = Window(y0, x0, min(size, height - y0), min(size, width - x0))
            known = certain(window) if certain else None
            if known if known is not None else _has_pixels(read(window), settings):
                blocks.append(Block(block_id(row, column), window))
    if not blocks:
        raise no_pixel_error(roi)
    _warn_of_width(name, geobox)
    return RegionGrid.of(name, geobox, size, settings.downsample_rate, tuple(blocks))


def _warn_of_width(name: str, geobox: Any) -> None:
    """Warn of a region that reaches far beyond its UTM zone. A region has one grid, so that there
    is no seam between zones, at the price of distorted distances."""
    crs = pyproj.CRS.from_user_input(str(geobox.crs))
    if crs.utm_zone is None:
        return
    # Quicker than `geographic_extent` of the grid; west is the larger one across 180 degrees.
    west, _, east, _ = pyproj.Transformer.from_crs(crs, WGS84, always_xy=True).transform_bounds(
        *geobox.boundingbox.bbox
    )
    middle = 6 * int(crs.utm_zone[:-1]) - 183
    farthest = max(abs((edge - middle + 180) % 360 - 180) for edge in (west, east))
    if farthest > _FAR_FROM_MERIDIAN:
        log.warning(
            "Region %s is wider than one UTM zone: it reaches %.1f degrees from the meridian of "
            "zone %s. All of it is on the grid of %s, in which distances at its far edge are "
            "too large. If that matters, split it into regions of one zone each, or set another "
            "CRS in regions.%s.crs.",
            name,
            farthest,
            crs.utm_zone,
            geobox.crs,
            name,
        )


def _has_pixels(mask: Any, settings: GridSettings) -> bool:
    n = settings.downsample_rate
    return bool(mask[::n, ::n].any())


def _certain_blocks(roi: VectorRoi, geobox: Any) -> Any:
    """Return a function of a window: True if it is inside, False if it is outside, None at the
    border, which must be rasterised: a window can touch the region and hold no pixel centre."""
    geometry = reproject(roi.geometry, roi.crs, pyproj.CRS.from_user_input(str(geobox.crs)))
    shapely.prepare(geometry)

    def certain(window: Window) -> bool | None:
        box = shapely.box(*geobox[window.slices].boundingbox.bbox)
        if not geometry.intersects(box):
            return False
        return True if geometry.contains(box) else None

    return certain
