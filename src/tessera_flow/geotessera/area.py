"""The area of a region in degrees, and which parts of a store overlap it."""

from __future__ import annotations

from pyproj import CRS, Transformer

from ..region.grid import RegionGrid, crop
from .manifest import StoredGrid

_DENSIFY = 21


def lonlat_boxes(grid: RegionGrid) -> list[tuple[float, float, float, float]]:
    """Return (west, south, east, north) in degrees around a region; two boxes if its grid, which is
    snapped outwards, crosses the antimeridian."""
    box = grid.product_geobox
    to_lonlat = Transformer.from_crs(CRS.from_user_input(str(box.crs)), "EPSG:4326", always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(
        *box.boundingbox.bbox, densify_pts=_DENSIFY
    )
    if west <= east:
        return [(west, south, east, north)]
    return [(west, south, 180.0, north), (-180.0, south, east, north)]


def overlaps_any(part: StoredGrid, grid: RegionGrid) -> bool:
    """Return whether a part of a store overlaps a block of a region."""
    left, bottom, right, top = part.bounds_in(grid)
    boxes = (crop(grid.geobox, block.window).boundingbox.bbox for block in grid.blocks)
    return any(left < b[2] and right > b[0] and bottom < b[3] and top > b[1] for b in boxes)
