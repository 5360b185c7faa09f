"""Read the polygons of a vector file, whatever its format."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import pyproj
import shapely

from ..errors import RegionError
from ..input_files import memory_fault
from .crs import horizontal

log = logging.getLogger(__name__)

_PARQUET = {".parquet", ".geoparquet"}
_GEOJSON = {".geojson", ".json"}
_IN_ZIP = {".shp", ".gdb", ".gpkg", ".geojson", ".fgb", ".kml", ".gml", ".tab"}
_MAX_JSON = 2**26
"""Bytes up to which the `crs` member of a GeoJSON file is checked."""

_DAMAGE = (LookupError, TypeError, AttributeError, RecursionError)
"""Errors of metadata that are JSON, but not those of GeoParquet."""

_SQLITE = b"SQLite format 3\0"
_LOCK_SECONDS = 3.0
"""Time for another program to finish writing to a GeoPackage."""


def read_polygons(path: Path, layer: str | None) -> tuple[shapely.Geometry, pyproj.CRS]:
    """Return the union of the polygons of a vector file (two dimensions) and its horizontal CRS.

    Args:
        path: any format of GDAL, also a folder (file geodatabase) or a .zip; GeoParquet.
        layer: layer to read; None if there is one only.

    Raises:
        RegionError: it cannot be read, has no CRS, several layers, or anything but valid polygons.
    """
    check_database(path)
    if path.suffix.lower() in _PARQUET:
        geometries, crs = _read_geoparquet(path, layer)
    else:
        geometries, crs = _read_with_gdal(path, layer)
    polygons = list(_polygons(path, geometries))
    if not polygons:
        raise RegionError(f"{path} contains no geometry: draw at least one polygon in it.")
    if not crs:
        raise RegionError(
            f"{path} has no coordinate reference system: assign one (in QGIS: Layer > Layer CRS, "
            "then export; a shapefile needs its .prj file)."
        )
    try:
        parsed = horizontal(pyproj.CRS.from_user_input(crs))
    except pyproj.exceptions.CRSError as error:
        raise RegionError(
            f"{path} has a coordinate reference system that PROJ does not know "
            f"({str(error).splitlines()[0][:200]}): assign one by its EPSG code."
        ) from error
    union = shapely.union_all(polygons)
    if union.area == 0:
        raise RegionError(
            f"{path}: the polygons have no area: draw a region of at least one pixel."
        )
    return union, parsed


def check_database(path: Path) -> None:
    """Check that the saved edits of a GeoPackage can be read.

    They can be in its write-ahead log, and GDAL ignores that log, or the lock of another program,
    if it cannot open it. Files of other formats are not checked.

    Raises:
        RegionError: another program has locked the file, or its log cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_SQLITE)) != _SQLITE:
                return
    except OSError:
        return
    log_file = Path(f"{path}-wal")
    logged = _size(log_file) > 0
    if logged and not os.access(path.parent, os.W_OK):
        raise RegionError(
            f"{path} is open in another program (QGIS), and its saved edits are in {log_file}, "
            "which cannot be read in a folder without write permission: close the program, or "
            "copy the file to a folder of your own."
        )
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        database = sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS)
        with contextlib.closing(database):
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # In a folder without write permission GDAL can read more than SQLite: a file without edits
        # that are not in it yet.
        if logged or "locked" in str(error) or _size(Path(f"{path}-journal")) > 0:
            raise _locked_error(path, str(error)) from error
    if logged:
        log.warning(
            "%s is open in another program (QGIS): its saved edits, in %s, are used.",
            path,
            log_file,
            extra={"of_state": True},  # not of the geometry
        )


def _size(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _locked_error(path: Path, reason: str) -> RegionError:
    return RegionError(
        f"{path} is open in another program (QGIS) and locked, so that its saved edits cannot be "
        f"read ({reason[:200]}): save them and close the file there, and run again."
    )


@contextlib.contextmanager
def edits_read(path: Path) -> Iterator[None]:
    """Refuse a file that GDAL opens in this context without its lock and log, although they exist.

    Raises:
        RegionError: GDAL did so.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = str(warning.message)
        if "IMMUTABLE" in text and (
            os.access(path.parent, os.W_OK)
            or any(_size(Path(f"{path}-{kind}")) for kind in ("wal", "journal"))
        ):
            raise _locked_error(path, text)
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _read_with_gdal(path: Path, layer: str | None) -> tuple[list[Any], Any]:
    # Imported here: it imports pandas, and only the rule `roi` and a new region read a file.
    import pyogrio

    source = _in_zip(path) if path.suffix.lower() == ".zip" else str(path)
    try:
        with edits_read(path):
            listed = [(str(name), kind) for name, kind in pyogrio.list_layers(source)]
            layer = _chosen_layer(path, listed, layer)
            meta, _, wkb, _ = pyogrio.raw.read(source, layer=layer, columns=[])
    except (UnicodeDecodeError, UnboundLocalError) as error:
        # pyogrio raises the latter for a coordinate reference system that is not UTF-8.
        raise RegionError(
            f"{path} or a file beside it (.prj) has text that is not UTF-8: write it again, as "
            "GeoPackage."
        ) from error
    except pyogrio.errors.GeometryError as error:
        raise RegionError(
            f"{path} has curves or surfaces, which are not supported ({error}): convert them to "
            "polygons (ogr2ogr -nlt CONVERT_TO_LINEAR, or in QGIS: Export, geometry type Polygon)."
        ) from error
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise RegionError(
            f"{path} cannot be read as a vector file ({error}): use a GeoJSON, GeoPackage, "
            "shapefile, FlatGeobuf, GeoParquet or file geodatabase, or a GeoTIFF mask (.tif)."
        ) from error
    if path.suffix.lower() in _GEOJSON:
        _check_crs_member(path)
    return _from_wkb(path, wkb), meta["crs"]


def _chosen_layer(path: Path, listed: list[tuple[str, Any]], layer: str | None) -> str:
    """Return the layer to read. Tables without geometry, such as the styles of QGIS, are none."""
    names = [name for name, kind in listed if kind is not None]
    if not names:
        raise RegionError(f"{path} has no layer with geometries: draw at least one polygon in it.")
    if layer is None and len(names) > 1:
        raise RegionError(
            f"{path} has {len(names)} layers ({', '.join(names)}): name one with `layer`."
        )
    if layer is not None and layer not in names:
        raise RegionError(
            f"{path} has no layer {layer!r}; it has {', '.join(names)}: correct `layer`."
        )
    return layer or names[0]


def _in_zip(path: Path) -> str:
    """Return GDAL's name of the one vector file in a .zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [PurePosixPath(name) for name in archive.namelist()]
            logs = {member.filename for member in archive.infolist() if member.file_size}
    except (OSError, zipfile.BadZipFile) as error:
        raise RegionError(f"{path} cannot be read as a .zip ({error}): pack it again.") from error
    found: dict[str, None] = {}
    for member in members:
        if "__MACOSX" in member.parts:
            continue
        for part in (member, *member.parents):
            folder_only = part.suffix.lower() == ".gdb"
            if part.suffix.lower() in _IN_ZIP and (folder_only or part == member):
                found[str(part)] = None
                break
    if len(found) != 1:
        contents = f"{len(found)} ({', '.join(found)})" if found else "none"
        raise RegionError(
            f"{path} must contain one vector file, but has {contents}: unpack it and name the file."
        )
    (name,) = found
    if f"{name}-wal" in logs:
        raise RegionError(
            f"{path} has edits of {name} that are not in it, but in {name}-wal: close the file in "
            "the other program (QGIS), and pack it again."
        )
    return f"/vsizip/{path}/{name}"


def _check_crs_member(path: Path) -> None:
    """Check that GDAL understood the `crs` member, which GeoJSON had before 2016."""
    try:
        if path.stat().st_size > _MAX_JSON:
            return
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return
    member = document.get("crs") if isinstance(document, dict) else None
    if member is None or "coordinates" in document or document.get("type") == "Topology":
        return
    kind = member.get("type") if isinstance(member, dict) else None
    properties = member.get("properties") if isinstance(member, dict) else None
    properties = properties if isinstance(properties, dict) else {}
    try:
        if kind == "name":
            pyproj.CRS.from_user_input(properties["name"])
            return
        if kind == "EPSG":
            pyproj.CRS.from_epsg(properties["code"])
            return
    except (pyproj.exceptions.CRSError, KeyError, TypeError):
        pass
    raise RegionError(
        f"{path} has a `crs` member that is not understood ({json.dumps(member)[:120]}): write it "
        "as a name such as urn:ogc:def:crs:EPSG::32631, or remove it if the coordinates are "
        "longitude and latitude."
    )


def _read_geoparquet(path: Path, layer: str | None) -> tuple[list[Any], Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        if path.is_dir():
            raise RegionError(f"{path} is a folder: name one GeoParquet file.")
        file = pyarrow.parquet.ParquetFile(path)
        text = (file.schema_arrow.metadata or {}).get(b"geo")
        if text is None:
            raise RegionError(
                f"{path} is a Parquet file without the metadata of GeoParquet: write it as "
                "GeoParquet (GeoDataFrame.to_parquet), or as GeoPackage."
            )
        if layer not in (None, path.stem):
            raise RegionError(f"{path} has no layer {layer!r}: remove `layer`.")
        geo = json.loads(text)
        name = geo["primary_column"]
        column = geo["columns"][name]
        if column.get("encoding") != "WKB":
            raise RegionError(
                f"{path} has geometries encoded as {column.get('encoding')}: write them as WKB."
            )
        if fault := memory_fault(path, [name]):
            raise RegionError(f"{fault}: keep the geometry of the region only.")
        wkb = file.read(columns=[name]).column(name).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, *_DAMAGE) as error:
        raise RegionError(
            f"{path} cannot be read as GeoParquet ({str(error).splitlines()[0][:200]}): write it "
            "again, or as GeoPackage."
        ) from error
    if column.get("edges") == "spherical":
        log.warning("%s has spherical edges; they are taken as straight lines.", path)
    # Without the key it is longitude and latitude; null is unknown.
    crs = column.get("crs", "OGC:CRS84")
    return _from_wkb(path, wkb), crs


def _from_wkb(path: Path, wkb: Any) -> list[Any]:
    try:
        return [] if wkb is None else list(shapely.from_wkb(np.asarray(wkb, dtype=object)))
    except shapely.errors.GEOSException as error:
        raise RegionError(
            f"{path} has a geometry that is not supported ({str(error).splitlines()[0][:200]}): "
            "convert it to polygons."
        ) from error


def _polygons(path: Path, geometries: list[Any]) -> Iterator[shapely.Geometry]:
    """Yield the polygons of features, also those in geometry collections, after checking them."""
    empty = 0
    for number, geometry in enumerate(geometries, start=1):
        if geometry is None or geometry.is_empty:
            empty += 1
            continue
        for part in _parts(shapely.force_2d(geometry)):
            _check_polygon(path, number, geometry.geom_type, part)
            yield part
    if 0 < empty < len(geometries):
        log.warning(
            "%s: %d of %d features have no geometry and are ignored.", path, empty, len(geometries)
        )


def _parts(geometry: shapely.Geometry) -> Iterator[shapely.Geometry]:
    if geometry.geom_type != "GeometryCollection":
        yield geometry
        return
    for part in geometry.geoms:
        if not part.is_empty:
            yield from _parts(part)


def _check_polygon(path: Path, number: int, kind: str, part: shapely.Geometry) -> None:
    if part.geom_type not in ("Polygon", "MultiPolygon"):
        what = part.geom_type if part.geom_type == kind else f"{kind} with a {part.geom_type}"
        raise RegionError(
            f"{path}: feature {number} is a {what}, but regions must be polygons: buffer it, or "
            "remove it."
        )
    if not np.isfinite(shapely.get_coordinates(part)).all():
        raise RegionError(
            f"{path}: feature {number} has a coordinate that is not a number: draw it again, or "
            "remove it."
        )
    if not part.is_valid:
        raise RegionError(
            f"{path}: feature {number} is not a valid polygon "
            f"({shapely.is_valid_reason(part)}): repair it (in QGIS: Fix geometries)."
        )
