"""Regions of interest: vector files and raster masks, and the grid that follows from them."""

from __future__ import annotations

import hashlib
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

RASTER_SUFFIXES = {".tif", ".tiff", ".vrt", ".img"}
SNAP_TOLERANCE = 1e-6
"""Part of a pixel within which a bound counts as lying on the lattice."""

Align = Literal["grid", "roi"]


@dataclass(frozen=True)
class VectorRoi:
    """A region given by polygons.

    Attributes:
        path: the file, for messages.
        geometry: union of its polygons in `crs`.
        crs: as in the file.
    """

    path: Path
    geometry: shapely.Geometry
    crs: pyproj.CRS


@dataclass(frozen=True)
class RasterRoi:
    """A region given by a mask: value > 0 is inside; NaN and no data are outside."""

    path: Path
    shape: tuple[int, int]
    transform: Affine
    crs: pyproj.CRS


def roi_files(path: str | Path) -> list[Path]:
    """The file, and the files that belong to it: sidecars, sources of a virtual raster."""
    path = Path(path)
    if path.suffix.lower() in RASTER_SUFFIXES and path.exists():
        try:
            with rasterio.open(path) as dataset:  # a .vrt has sources, a .tif may have a .msk
                return sorted({path, *(Path(f) for f in dataset.files if Path(f).exists())})
        except rasterio.errors.RasterioIOError:
            return [path]
    if path.suffix.lower() != ".shp":
        return [path]
    suffixes = (".shp", ".shx", ".dbf", ".prj", ".cpg")
    return [p for s in suffixes if (p := path.with_suffix(s)).exists()] or [path]


def roi_digest(path: str | Path) -> str:
    """SHA-256 of the content of all files of the region."""
    digest = hashlib.sha256()
    for file in roi_files(path):
        digest.update(file.suffix.encode())
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def read_roi(path: str | Path, layer: str | None = None) -> VectorRoi | RasterRoi:
    """Read a region of interest.

    Raises:
        RegionError: the file is missing, unreadable, empty, has no CRS, holds no polygon,
            an invalid polygon, or crosses the antimeridian.
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
            f"{path} cannot be read as a vector file ({error}): give a GeoJSON, GeoPackage, "
            "shapefile or FlatGeobuf, or a GeoTIFF mask (.tif)."
        ) from error
    geometries = [] if wkb is None else [g for g in shapely.from_wkb(wkb) if g is not None]
    geometries = [g for g in geometries if not g.is_empty]
    if not geometries:
        raise RegionError(f"{path} holds no geometry: draw at least one polygon in it.")
    if not meta["crs"]:
        raise RegionError(
            f"{path} has no coordinate reference system: assign one (in QGIS: Layer > Layer CRS, "
            "then export; a shapefile needs its .prj file)."
        )
    for number, geometry in enumerate(geometries, start=1):
        if geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise RegionError(
                f"{path}: feature {number} is a {geometry.geom_type}, and a region is made of "
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
        raise RegionError(f"{path}: the polygons have no area: draw a region that holds a pixel.")
    _refuse_antimeridian(path, _to_lonlat(roi.geometry, roi.crs))
    return roi


def _read_raster(path: Path) -> RasterRoi:
    try:
        with rasterio.open(path) as dataset:
            crs, transform, shape = dataset.crs, dataset.transform, dataset.shape
    except rasterio.errors.RasterioIOError as error:
        raise RegionError(
            f"{path} cannot be read as a raster mask ({error}): give a GeoTIFF that opens in QGIS."
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
    """Bring a geometry to another CRS; long edges are cut first, so that an edge that is
    straight in `source` stays on its line (within centimetres) in `target`."""
    if source.equals(target):
        return geometry
    longest = 0.005 if source.is_geographic else 500.0
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)

    def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    return shapely.transform(shapely.segmentize(geometry, longest), project)


def _refuse_antimeridian(path: Path, lonlat: shapely.Geometry) -> None:
    west, south, east, north = lonlat.bounds
    degrees = max(abs(west), abs(east)) <= 360 and max(abs(south), abs(north)) <= 90
    if not degrees:  # also where a bound is not finite
        raise RegionError(
            f"{path}: its coordinates ({west:.10g} to {east:.10g}, {south:.10g} to {north:.10g}) "
            "are not degrees in its coordinate reference system: assign the right one, or "
            "reproject (a GeoJSON file holds longitude and latitude)."
        )
    if west < -180 or east > 180 or east - west > 180:
        raise RegionError(
            f"{path} crosses the antimeridian (longitudes {west:.2f} to {east:.2f}): split it at "
            "180 degrees into two regions."
        )


def utm_crs(longitude: float, latitude: float) -> pyproj.CRS:
    """The UTM zone (WGS 84) of a place, with the exceptions for Norway (32V) and Svalbard
    (31X, 33X, 35X, 37X).

    Raises:
        RegionError: beyond 84 N or 80 S, where UTM ends.
    """
    if not -80 <= latitude <= 84:
        raise RegionError(
            f"The region's centre ({longitude:.3f}, {latitude:.3f}) lies beyond UTM (80 S to "
            "84 N): name a polar CRS with `crs`, such as EPSG:3413 or EPSG:3031."
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
        chosen = roi.crs
        if chosen.is_geographic:
            raise RegionError(
                f"The mask {roi.path} is in degrees ({_crs_name(chosen)}), and products have "
                "square pixels in metres: name a projected CRS with `crs`, such as the region's "
                "UTM zone EPSG:326xx."
            )
        return chosen
    try:
        chosen = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise RegionError(
            f"`crs` {crs!r} is not a coordinate reference system: write it as EPSG:32631, or auto."
        ) from error
    if not chosen.is_projected:
        raise RegionError(
            f"`crs` {crs} is not a projected system, and products have square pixels: choose one "
            "in metres, such as the UTM zone of the region."
        )
    return chosen


def _crs_name(crs: pyproj.CRS) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority else crs.name


def region_geobox(
    roi: VectorRoi | RasterRoi, resolution: float, crs: str = "auto", align: Align = "grid"
) -> GeoBox:
    """The output grid of a region.

    Vector: the UTM zone of the centroid; raster: its own CRS; or the one named. Bounds are
    snapped outwards to multiples of the resolution, so that a 10 m grid coincides with
    Sentinel-2's own pixels; with `align='roi'` the ROI's own upper left corner is kept.

    Raises:
        RegionError: the CRS is unknown or not projected, or cannot hold the region.
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
        raise RegionError(f"{roi.path} lies outside the area of {_crs_name(target)}: check `crs`.")
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
    """The region's convex hull, in the region's own CRS."""
    return VectorRoi(roi.path, roi.geometry.convex_hull, roi.crs)
