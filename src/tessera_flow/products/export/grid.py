"""Define the grid of an export: a CRS with a pixel size, or the grid of another raster."""

from __future__ import annotations

import math
from pathlib import Path

import pyproj
from affine import Affine
from rasterio.errors import RasterioError

from ...errors import RegionError
from ..geotiff.writer import open_raster
from ..provenance import pixel_text
from .view import View

Grid = tuple[tuple[int, int], Affine, pyproj.CRS]

_METRES_PER_DEGREE = 111_319.49
_MAX_RATIO = 2.0
_MAX_EDGE = 2**20


def grid_of_crs(view: View, text: str, pixel: float | None) -> Grid:
    """Return the grid of square pixels, at multiples of their size, that covers a product.

    Args:
        view: the product.
        text: the CRS.
        pixel: edge in units of the CRS; default: about that of the product.

    Raises:
        RegionError: the CRS is none, or does not cover the product.
    """
    try:
        crs = pyproj.CRS.from_user_input(text)
    except pyproj.exceptions.CRSError as error:
        raise RegionError(f"--crs {text}: write it as EPSG:4326.") from error
    _check_flat(crs, f"--crs {text}")
    if pixel is None:
        pixel = abs(view.transform.a) * _unit(view.crs) / _unit(crs)
    return _covering(view, crs, pixel, (0.0, 0.0))


def grid_like(view: View, path: Path) -> Grid:
    """Return the grid with the pixels of a raster that covers a product, rows from the north.

    Raises:
        RegionError: the raster cannot be read, or has no grid of square pixels.
    """
    try:
        with open_raster(path) as file:
            transform, crs = file.transform, file.crs
    except RasterioError as error:
        raise RegionError(f"--like {path}: it cannot be read as a raster ({error}).") from error
    square = math.isclose(abs(transform.a), abs(transform.e), rel_tol=1e-9)
    if crs is None or transform.b or transform.d or not square:
        raise RegionError(f"--like {path}: it has no CRS, or no upright square pixels.")
    target = pyproj.CRS.from_wkt(crs.to_wkt())
    _check_flat(target, f"--like {path}")
    return _covering(view, target, abs(transform.a), (transform.c, transform.f))


def _check_flat(crs: pyproj.CRS, option: str) -> None:
    """Refuse a CRS without two horizontal axes."""
    if not (crs.is_projected or crs.is_geographic) or len(crs.axis_info) != 2:
        raise RegionError(
            f"{option}: {crs.name} is no CRS of a map: give a projected or a geographic one with "
            "two axes, without heights."
        )


def _unit(crs: pyproj.CRS) -> float:
    """Return the metres of a unit of a CRS."""
    return _METRES_PER_DEGREE if crs.is_geographic else crs.axis_info[0].unit_conversion_factor


def _covering(view: View, crs: pyproj.CRS, pixel: float, corner: tuple[float, float]) -> Grid:
    if not (math.isfinite(pixel) and pixel > 0):
        raise RegionError(f"--pixel {pixel}: give a number greater than 0.")
    height, width = view.shape
    left, top = view.transform @ (0, 0)
    right, bottom = view.transform @ (width, height)
    try:
        transformer = pyproj.Transformer.from_crs(view.crs, crs, always_xy=True)
        bounds = transformer.transform_bounds(left, bottom, right, top, densify_pts=51)
    except pyproj.exceptions.ProjError as error:
        raise RegionError(f"{crs.name} cannot be transformed to {view.crs.name}.") from error
    if not all(map(math.isfinite, bounds)) or bounds[0] > bounds[2]:
        raise RegionError(f"The product is not inside {crs.name}, or crosses its edge.")
    # A rounding error must not add a row or a column.
    x0, y0 = (math.floor((bounds[n] - corner[n]) / pixel + 1e-6) for n in (0, 1))
    x1, y1 = (math.ceil((bounds[n + 2] - corner[n]) / pixel - 1e-6) for n in (0, 1))
    if max(x1 - x0, y1 - y0) > _MAX_EDGE:
        raise RegionError(
            f"Pixels of {pixel_text(crs.to_wkt(), pixel)} make {x1 - x0} x {y1 - y0} pixels: give "
            "another size (--pixel, in units of the CRS)."
        )
    if pixel * _unit(crs) > _MAX_RATIO * abs(view.transform.a) * _unit(view.crs):
        raise RegionError(
            f"Pixels of {pixel_text(crs.to_wkt(), pixel)} are more than twice as large as those of "
            "the product, and nearest neighbours would skip most of them: add --coarser N, which "
            "averages N x N pixels before."
        )
    transform = Affine(pixel, 0, corner[0] + x0 * pixel, 0, -pixel, corner[1] + y1 * pixel)
    return (y1 - y0, x1 - x0), transform, crs
