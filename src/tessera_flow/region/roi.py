"""Read regions of interest (vector files and raster masks) and derive their grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyproj
import rasterio
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..errors import RegionError
from .roi_files import RASTER_SUFFIXES

SNAP_TOLERANCE = 1e-6
"""Fraction of a pixel within which a bound counts as aligned with the grid."""

Align = Literal["grid", "roi"]


@dataclass(frozen=True)
class VectorRoi:
    """Region from polygons.

    Attributes:
        path: path of the file, for messages.
        geometry: union of the polygons in `crs`.
        crs: CRS of the file.
    """

    path: Path
    geometry: shapely.Geometry
    crs: pyproj.CRS


@dataclass(frozen=True)
class RasterRoi:
    """Region from a raster mask: values > 0 are inside; NaN and no data are outside."""

    path: Path
    shape: tuple[int, int]
    transform: Affine
    crs: pyproj.CRS


def read_roi(path: str | Path, layer: str | None = None) -> VectorRoi | RasterRoi:
    """Read a region of interest.

    Raises:
        RegionError: the file is missing, unreadable or empty, has no CRS, has no valid polygon, or
            crosses the antimeridian.
    """
    path = Path(path)
    if not path.exists():
        raise RegionError(
            f"The region file {path} does not exist: check `roi` (a relative path is relative to "
            f"{Path.cwd()})."
        )
    if path.suffix.lower() in RASTER_SUFFIXES:
        return _read_raster(path)
    return _read_vector(path, layer)


def _read_vector(path: Path, layer: str | None) -> VectorRoi:
    # Imported here: it imports pandas, and only the rule `roi` and a new region read a file.
    import pyogrio

    try:
        layers = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
        if layer is None and len(layers) > 1:
            raise RegionError(
                f"{path} has {len(layers)} layers ({', '.join(layers)}): name one with `layer`."
            )
        if layer is not None and layer not in layers:
            raise RegionError(
                f"{path} has no layer {layer!r}; it has {', '.join(layers)}: correct `layer`."
            )
        meta, _, wkb, _ = pyogrio.raw.read(path, layer=layer, columns=[])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise RegionError(
            f"{path} cannot be read as a vector file ({error}): use a GeoJSON, GeoPackage, "
            "shapefile or FlatGeobuf, or a GeoTIFF mask (.tif)."
        ) from error
    geometries = [] if wkb is None else [g for g in shapely.from_wkb(wkb) if g is not None]
    geometries = [g for g in geometries if not g.is_empty]
    if not geometries:
        raise RegionError(f"{path} contains no geometry: draw at least one polygon in it.")
    if not meta["crs"]:
        raise RegionError(
            f"{path} has no coordinate reference system: assign one (in QGIS: Layer > Layer CRS, "
            "then export; a shapefile needs its .prj file)."
        )
    for number, geometry in enumerate(geometries, start=1):
        if geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise RegionError(
                f"{path}: feature {number} is a {geometry.geom_type}, but regions must be "
                "polygons: buffer it, or remove it."
            )
        if not np.isfinite(shapely.get_coordinates(geometry)).all():
            raise RegionError(
                f"{path}: feature {number} has a coordinate that is not a number: draw it again, "
                "or remove it."
            )
        if not geometry.is_valid:
            raise RegionError(
                f"{path}: feature {number} is not a valid polygon "
                f"({shapely.is_valid_reason(geometry)}): repair it (in QGIS: Fix geometries)."
            )
    roi = VectorRoi(path, shapely.union_all(geometries), pyproj.CRS.from_user_input(meta["crs"]))
    if roi.geometry.area == 0:
        raise RegionError(
            f"{path}: the polygons have no area: draw a region of at least one pixel."
        )
    _check_antimeridian(path, _to_lonlat(roi.geometry, roi.crs))
    return roi


def _read_raster(path: Path) -> RasterRoi:
    try:
        with rasterio.open(path) as dataset:
            crs, transform, shape = dataset.crs, dataset.transform, dataset.shape
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
    return RasterRoi(path, shape, transform, pyproj.CRS.from_user_input(crs))


def _to_lonlat(geometry: shapely.Geometry, crs: pyproj.CRS) -> shapely.Geometry:
    return reproject(geometry, crs, pyproj.CRS.from_epsg(4326))


def reproject(
    geometry: shapely.Geometry, source: pyproj.CRS, target: pyproj.CRS
) -> shapely.Geometry:
    """Return a geometry in another CRS.

    Long edges are divided first, so that an edge that is straight in `source` stays on its line
    (within centimetres) in `target`.
    """
    if source.equals(target):
        return geometry
    longest = 0.005 if source.is_geographic else 500.0
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)

    def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    return shapely.transform(shapely.segmentize(geometry, longest), project)


def _check_antimeridian(path: Path, lonlat: shapely.Geometry) -> None:
    west, south, east, north = lonlat.bounds
    degrees = max(abs(west), abs(east)) <= 360 and max(abs(south), abs(north)) <= 90
    if not degrees:  # also where a bound is not finite
        raise RegionError(
            f"{path}: its coordinates ({west:.10g} to {east:.10g}, {south:.10g} to {north:.10g}) "
            "are not degrees in its coordinate reference system: assign the correct one, or "
            "reproject the file (GeoJSON has longitude and latitude)."
        )
    if west < -180 or east > 180 or east - west > 180:
        raise RegionError(
            f"{path} crosses the antimeridian (longitudes {west:.2f} to {east:.2f}): split it at "
            "180 degrees into two regions."
        )


def utm_crs(longitude: float, latitude: float) -> pyproj.CRS:
    """Return the UTM zone (WGS 84) of a point in degrees.

    Includes the exceptions for Norway (32V) and Svalbard (31X, 33X, 35X, 37X).

    Raises:
        RegionError: the point is north of 84 N or south of 80 S, outside UTM.
    """
    if not -80 <= latitude <= 84:
        raise RegionError(
            f"The centre of the region ({longitude:.3f}, {latitude:.3f}) is outside UTM (80 S to "
            "84 N): set `crs` to a polar CRS, such as EPSG:3413 or EPSG:3031."
        )
    zone = min(60, int((longitude + 180) // 6) + 1)
    if 56 <= latitude < 64 and 3 <= longitude < 12:
        zone = 32
    elif latitude >= 72:
        for west, east, wide in ((0, 9, 31), (9, 21, 33), (21, 33, 35), (33, 42, 37)):
            if west <= longitude < east:
                zone = wide
    return pyproj.CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def _grid_crs(roi: VectorRoi | RasterRoi, crs: str) -> pyproj.CRS:
    if crs == "auto" and isinstance(roi, VectorRoi):
        centre = _to_lonlat(roi.geometry, roi.crs).centroid
        return utm_crs(centre.x, centre.y)
    if crs == "auto":
        if roi.crs.is_geographic:
            raise RegionError(
                f"The mask {roi.path} is in degrees ({_crs_name(roi.crs)}), but products have "
                "square pixels in metres: set `crs` to a projected CRS, such as the UTM zone of "
                "the region, EPSG:326xx."
            )
        return roi.crs
    try:
        target = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise RegionError(
            f"`crs` {crs!r} is not a coordinate reference system: write it as EPSG:32631, or auto."
        ) from error
    if not target.is_projected:
        raise RegionError(
            f"`crs` {crs} is not a projected CRS, but products have square pixels: choose one in "
            "metres, such as the UTM zone of the region."
        )
    return target


def _crs_name(crs: pyproj.CRS) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority else crs.name


def region_geobox(
    roi: VectorRoi | RasterRoi, resolution: float, crs: str = "auto", align: Align = "grid"
) -> GeoBox:
    """Return the output grid of a region.

    With `crs='auto'` the CRS is the UTM zone of the centroid (vector) or the CRS of the file
    (raster). Bounds are extended to multiples of the resolution, so that a 10 m grid coincides
    with Sentinel-2 pixels. With `align='roi'` the upper left corner of the region is kept.

    Args:
        roi: the region.
        resolution: pixel size in units of the CRS.
        crs: CRS of the grid, or `auto`.
        align: `grid` or `roi`.

    Raises:
        RegionError: the CRS is unknown, not projected, or not defined for the region.
    """
    target = _grid_crs(roi, crs)
    if isinstance(roi, VectorRoi):
        left, bottom, right, top = reproject(roi.geometry, roi.crs, target).bounds
    else:
        height, width = roi.shape
        left, top = roi.transform @ (0, 0)
        right, bottom = roi.transform @ (width, height)
        if not roi.crs.equals(target):
            extent = shapely.box(left, bottom, right, top)
            left, bottom, right, top = reproject(extent, roi.crs, target).bounds
    if not all(math.isfinite(v) for v in (left, bottom, right, top)):
        raise RegionError(f"{roi.path} is outside the area of {_crs_name(target)}: check `crs`.")
    if align == "grid":
        left = math.floor(left / resolution + SNAP_TOLERANCE) * resolution
        top = math.ceil(top / resolution - SNAP_TOLERANCE) * resolution
    width = math.ceil((right - left) / resolution - SNAP_TOLERANCE)
    height = math.ceil((top - bottom) / resolution - SNAP_TOLERANCE)
    transform = Affine(resolution, 0, left, 0, -resolution, top)
    return GeoBox((max(height, 1), max(width, 1)), transform, _crs_name_or_wkt(target))


def _crs_name_or_wkt(crs: pyproj.CRS) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority else crs.to_wkt()


def convex_hull(roi: VectorRoi) -> VectorRoi:
    """Return the convex hull of the region, in the CRS of the region."""
    return VectorRoi(roi.path, roi.geometry.convex_hull, roi.crs)
