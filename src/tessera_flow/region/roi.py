"""Read regions of interest (vector files and raster masks) and derive their grid."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyproj
import rasterio
import rasterio.features
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterioWindow

from ..errors import RegionError
from ..input_files import check_input
from .crs import (
    WGS84,
    check_datum,
    check_file_crs,
    check_grid_crs,
    crs_name,
    crs_name_or_wkt,
    given_crs,
    horizontal,
    reproject,
    to_lonlat,
    utm_crs,
    warn_of_scale,
)
from .roi_files import RASTER_SUFFIXES
from .vector_file import read_polygons

log = logging.getLogger(__name__)

SNAP_TOLERANCE = 1e-6
"""Fraction of a pixel within which a bound counts as aligned with the grid."""

MAX_EDGE = 2_000_000
MAX_PIXELS = 2**38
"""Pixels of a grid: 27 million km2 at 10 m, more than the box around Brazil or Canada."""

FINGERPRINT_PIXELS = 2**22
"""Pixels of a raster mask that are read at once for its fingerprint."""

Align = Literal["grid", "roi"]


@dataclass(frozen=True)
class VectorRoi:
    """Region from polygons.

    Attributes:
        path: path of the file, for messages.
        geometry: union of the polygons in `crs`.
        crs: horizontal CRS of the file.
    """

    path: Path
    geometry: shapely.Geometry
    crs: pyproj.CRS

    def fingerprint(self) -> str:
        """Return the SHA-256 of the geometry and its CRS.

        A program that changes other bytes of the file, such as QGIS when it shows a GeoPackage,
        does not change it.
        """
        digest = hashlib.sha256(crs_name_or_wkt(self.crs).encode())
        digest.update(shapely.to_wkb(shapely.normalize(self.geometry), byte_order=1))
        return digest.hexdigest()


@dataclass(frozen=True)
class RasterRoi:
    """Region from a raster mask: values > 0 are inside; NaN and no data are outside."""

    path: Path
    shape: tuple[int, int]
    transform: Affine
    crs: pyproj.CRS

    def fingerprint(self) -> str:
        """Return the SHA-256 of the pixels inside, the georeferencing and the CRS."""
        height, width = self.shape
        position = (crs_name_or_wkt(self.crs), self.shape, tuple(self.transform)[:6])
        digest = hashlib.sha256(repr(position).encode())
        rows = max(1, FINGERPRINT_PIXELS // width)
        with rasterio.open(self.path) as dataset:
            for row in range(0, height, rows):
                window = RasterioWindow(0, row, width, min(rows, height - row))
                try:
                    inside = (dataset.read(1, window=window) > 0) & (
                        dataset.read_masks(1, window=window) > 0
                    )
                except rasterio.errors.RasterioError as error:
                    raise RegionError(
                        f"{self.path} is damaged (row {row}: {error.__cause__ or error}): get or "
                        "write it again."
                    ) from error
                digest.update(np.packbits(inside).tobytes())
        return digest.hexdigest()


def read_roi(
    source: str | Path | Sequence[float], layer: str | None = None
) -> VectorRoi | RasterRoi:
    """Read a region of interest.

    Args:
        source: a file, or a box: west, south, east, north in degrees.
        layer: layer to read, if a vector file has several.

    Raises:
        RegionError: the file is missing, unreadable or empty, has no CRS or one without a known
            relation to WGS 84, has no valid polygon, crosses the antimeridian, or contains
            a pole.
    """
    if not isinstance(source, str | Path):
        box = shapely.box(*source)
        return VectorRoi(Path(f"box {', '.join(f'{n:g}' for n in source)}"), box, WGS84)
    path = Path(source)
    if not path.exists():
        raise RegionError(
            f"The region file {path} does not exist: check `roi` (a relative path is relative to "
            f"{Path.cwd()})."
        )
    check_input(path, RegionError)
    if path.suffix.lower() in RASTER_SUFFIXES:
        if layer is not None:
            raise RegionError(
                f"`layer` is {layer!r}, but {path} is a raster mask, which has no layers: remove "
                "`layer`."
            )
        return _read_raster(path)
    return _read_vector(path, layer)


def _read_vector(path: Path, layer: str | None) -> VectorRoi:
    geometry, crs = read_polygons(path, layer)
    check_file_crs(str(path), crs)
    lonlat = to_lonlat(geometry, crs)
    _check_longitudes(path, geometry, crs, lonlat)
    check_datum(str(path), crs, lonlat.bounds)
    return VectorRoi(path, geometry, crs)


def _read_raster(path: Path) -> RasterRoi:
    try:
        with rasterio.open(path) as dataset:
            crs, transform, shape = dataset.crs, dataset.transform, dataset.shape
            bands = [c for c in dataset.colorinterp if c != ColorInterp.alpha]
    except rasterio.errors.RasterioIOError as error:
        raise RegionError(
            f"{path} cannot be read as a raster mask ({error}): use a GeoTIFF that opens in QGIS."
        ) from error
    if crs is None:
        raise RegionError(
            f"{path} has no coordinate reference system: assign one (gdal_edit.py -a_srs, or in "
            "QGIS: Assign projection)."
        )
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise RegionError(
            f"{path} is rotated or flipped (transform {tuple(transform)[:6]}): warp it to a "
            "north-up grid first."
        )
    if len(bands) > 1:
        log.warning("%s has %d bands: only the first is the mask of the region.", path, len(bands))
    parsed = horizontal(_parsed(crs))
    check_file_crs(str(path), parsed)
    height, width = shape
    left, top = transform @ (0, 0)
    right, bottom = transform @ (width, height)
    bounds = to_lonlat(shapely.box(left, bottom, right, top), parsed).bounds
    if np.isfinite(bounds).all():
        check_datum(str(path), parsed, bounds)
    return RasterRoi(path, shape, transform, parsed)


def _parsed(crs: rasterio.crs.CRS) -> pyproj.CRS:
    """Return the CRS of a raster; by its code if it has one, since the EPSG tables of rasterio and
    pyproj can differ in the names of datums."""
    parsed = pyproj.CRS.from_user_input(crs)
    code = None if parsed.is_bound else crs.to_epsg()
    if code is not None:
        with contextlib.suppress(pyproj.exceptions.CRSError):
            return pyproj.CRS.from_epsg(code)
    return parsed


def _check_longitudes(
    path: Path, geometry: shapely.Geometry, crs: pyproj.CRS, lonlat: shapely.Geometry
) -> None:
    west, south, east, north = lonlat.bounds
    degrees = max(abs(west), abs(east)) <= 360 and max(abs(south), abs(north)) <= 90
    if not degrees:  # also where a bound is not finite
        raise RegionError(
            f"{path}: its coordinates ({west:.10g} to {east:.10g}, {south:.10g} to {north:.10g}) "
            "are not degrees in its coordinate reference system: assign the correct one, or "
            "reproject the file (GeoJSON has longitude and latitude)."
        )
    if not (west < -180 or east > 180 or east - west > 180):
        return
    pole = _enclosed_pole(geometry, crs, lonlat)
    if pole:
        raise RegionError(
            f"{path} contains or surrounds the {pole} pole, which is not supported: use regions "
            "that do neither, and that do not cross 180 degrees of longitude."
        )
    raise RegionError(
        f"{path} crosses the antimeridian, or is wider than 180 degrees (longitudes {west:.2f} to "
        f"{east:.2f}): split it at 180 degrees into two regions, each narrower than that."
    )


def _enclosed_pole(
    geometry: shapely.Geometry, crs: pyproj.CRS, lonlat: shapely.Geometry
) -> str | None:
    """Return `north` or `south` if polygons that span all longitudes contain or surround it."""
    _, south, _, north = lonlat.bounds
    for name, latitude, reached in (("south", -90.0, south), ("north", 90.0, north)):
        if crs.is_geographic:
            if abs(reached - latitude) < 1e-6:
                return name
            continue
        point = pyproj.Transformer.from_crs(WGS84, crs, always_xy=True).transform(0.0, latitude)
        filled = [shapely.Polygon(part.exterior) for part in shapely.get_parts(geometry)]
        # Projections of the equator have another point, or none, for a pole.
        shown = abs(reached) > 60 and np.isfinite(point).all()
        if shown and any(part.intersects(shapely.Point(point)) for part in filled):
            return name
    return None


def _grid_crs(roi: VectorRoi | RasterRoi, crs: str) -> pyproj.CRS:
    if crs == "auto" and isinstance(roi, VectorRoi):
        centre = to_lonlat(roi.geometry, roi.crs).centroid
        return utm_crs(centre.x, centre.y)
    if crs == "auto":
        check_grid_crs(f"The mask {roi.path}", roi.crs)
        return roi.crs
    target = given_crs(crs)
    check_grid_crs(f"`crs` {crs}", target)
    return target


def region_geobox(
    roi: VectorRoi | RasterRoi, resolution: float, crs: str = "auto", align: Align = "grid"
) -> GeoBox:
    """Return the output grid of a region.

    With `crs='auto'` the CRS is the UTM zone of the centroid (vector) or the CRS of the file
    (raster). Bounds are extended to multiples of the resolution, so that a 10 m grid coincides
    with Sentinel-2 pixels. With `align='roi'` the upper left corner of the region is kept. A
    warning is logged if pixels have another size on the ground.

    Args:
        roi: the region.
        resolution: pixel size in metres of the CRS.
        crs: CRS of the grid, or `auto`.
        align: `grid` or `roi`.

    Raises:
        RegionError: the CRS is unknown, not projected, not in metres, or not defined for the
            region; or the grid has too many pixels.
    """
    target = _grid_crs(roi, crs)
    if isinstance(roi, VectorRoi):
        extent = roi.geometry
    else:
        height, width = roi.shape
        left, top = roi.transform @ (0, 0)
        right, bottom = roi.transform @ (width, height)
        extent = shapely.box(left, bottom, right, top)
    left, bottom, right, top = reproject(extent, roi.crs, target).bounds
    if not all(math.isfinite(v) for v in (left, bottom, right, top)):
        raise RegionError(f"{roi.path} is outside the area of {crs_name(target)}: check `crs`.")
    if not roi.crs.equals(target):
        check_datum(f"`crs` {crs}", target, to_lonlat(extent, roi.crs).bounds)
    warn_of_scale(str(roi.path), target, (left + right) / 2, (bottom + top) / 2, resolution)
    if align == "grid":
        left = math.floor(left / resolution + SNAP_TOLERANCE) * resolution
        top = math.ceil(top / resolution - SNAP_TOLERANCE) * resolution
    width = math.ceil((right - left) / resolution - SNAP_TOLERANCE)
    height = math.ceil((top - bottom) / resolution - SNAP_TOLERANCE)
    _check_size(roi.path, width, height, resolution)
    transform = Affine(resolution, 0, left, 0, -resolution, top)
    return GeoBox((max(height, 1), max(width, 1)), transform, crs_name_or_wkt(target))


def _check_size(path: Path, width: int, height: int, resolution: float) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_EDGE:
        raise RegionError(
            f"{path} has {width} x {height} pixels of {resolution:g} m, more than a grid can have "
            f"({MAX_PIXELS}, and {MAX_EDGE} in a row): check the coordinates of the region, set a "
            "coarser resolution (in metres, not degrees), or divide it into several regions."
        )


def on_multiples(roi: VectorRoi | RasterRoi, resolution: float) -> VectorRoi | RasterRoi:
    """Return a raster mask whose pixels have the size of the grid, moved onto its multiples.

    The upper left corner is extended, by less than a pixel. Tile folders of the published pipeline
    have their pixels there, whatever position the mask of their region states. Other regions are
    returned unchanged.
    """
    if not isinstance(roi, RasterRoi):
        return roi
    a, b, c, d, e, f = tuple(roi.transform)[:6]
    if b or d or max(abs(a - resolution), abs(e + resolution)) > SNAP_TOLERANCE * resolution:
        return roi
    left = math.floor(c / resolution + SNAP_TOLERANCE) * resolution
    top = math.ceil(f / resolution - SNAP_TOLERANCE) * resolution
    if (left, top) != (c, f):
        log.warning(
            "%s: the mask starts at %s, %s, but the pixels of its tile folders are on multiples of "
            "%g: the products start at %s, %s.",
            roi.path, c, f, resolution, left, top,
        )  # fmt: skip
    return replace(roi, transform=Affine(resolution, 0, left, 0, -resolution, top))


def convex_hull(roi: VectorRoi) -> VectorRoi:
    """Return the convex hull of the region, in the CRS of the region."""
    return VectorRoi(roi.path, roi.geometry.convex_hull, roi.crs)
