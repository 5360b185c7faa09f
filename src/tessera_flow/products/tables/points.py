"""Read points from a table or a vector file, and write tables of points."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from ...atomic import atomic_output
from ...errors import RegionError
from ...input_files import check_input, memory_fault
from ...region.vector_file import check_database, edits_read
from .shapefile import shapefile_encoding
from .text_table import check_names, coordinates, read_text_table

TEXT_TABLES, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq", ".geoparquet")
_PAIRS = (
    ("lon", "lat"),
    ("long", "lat"),
    ("lng", "lat"),
    ("longitude", "latitude"),
    ("x", "y"),
    ("easting", "northing"),
)
_PROJECTED = {"x", "y", "easting", "northing"}
LONLAT = "EPSG:4326"


@dataclass(frozen=True)
class Points:
    """Points with their attributes.

    Attributes:
        x, y: (n,) float64 coordinates in `crs`.
        crs: their CRS.
        table: their attributes, n rows, without geometry.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    crs: pyproj.CRS
    table: pa.Table

    def to(self, crs: pyproj.CRS) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (x, y) in another CRS; infinite outside its area."""
        move = pyproj.Transformer.from_crs(self.crs, crs, always_xy=True)
        x, y = move.transform(self.x, self.y)
        return np.asarray(x, np.float64), np.asarray(y, np.float64)


@dataclass(frozen=True)
class Polygons:
    """Polygons with their attributes.

    Attributes:
        geometry: (n,) polygons and multipolygons in `crs`, or None.
        crs: their CRS.
        table: their attributes, n rows, without geometry.
    """

    geometry: NDArray[np.object_]
    crs: pyproj.CRS
    table: pa.Table


def read_points(path: Path, *columns: str | None, **options: str | None) -> Points:
    """Read points; arguments and errors as in `read_features`, and polygons are an error."""
    features = read_features(path, *columns, **options)
    if isinstance(features, Polygons):
        first = next(n for n, item in enumerate(features.geometry, 1) if item is not None)
        raise RegionError(
            f"{path}: feature {first} is not a point: use points, such as the centroids."
        )
    return features


def read_features(
    path: Path,
    x: str | None = None,
    y: str | None = None,
    crs: str | None = None,
    *,
    encoding: str | None = None,
    separator: str | None = None,
    layer: str | None = None,
) -> Points | Polygons:
    """Read points from a CSV or Parquet table, or points or polygons from a vector file
    (GeoPackage, GeoJSON, ...).

    Points without coordinates, or without geometry, have NaN coordinates.

    Args:
        path: the file; `.csv`, `.tsv`, `.txt` and `.parquet` are tables. A GeoParquet file is a
            vector file.
        x, y: columns of a table; `lon` and `lat`, `longitude` and `latitude`, `x` and `y` or
            `easting` and `northing` if left out, each for itself.
        crs: of a table; longitude and latitude (EPSG:4326) if left out. A vector file has
            its own.
        encoding: of the text of a CSV table or shapefile, if the file does not state it.
        separator: of the columns of a CSV table, if its first line leaves it open.
        layer: of a vector file with several layers.

    Raises:
        RegionError: the file cannot be read, has no such columns, no points or no CRS; or it can
            be understood in several ways.
    """
    if not path.exists():
        raise RegionError(f"The points file {path} does not exist: check the path.")
    check_input(path, RegionError)
    suffix = path.suffix.lower()
    _check_encoding(encoding)
    if suffix not in (*TEXT_TABLES, *PARQUET):
        _check_unused(path, {"--x": x, "--y": y, "--separator": separator})
        return _read_vector(path, crs, encoding, layer)
    try:
        if suffix in TEXT_TABLES:
            _check_unused(path, {"--layer": layer})
            table = read_text_table(
                path, encoding, separator, lambda names: _columns(path, names, x, y) is not None
            )
        else:
            _check_unused(
                path, {"--encoding": encoding, "--separator": separator, "--layer": layer}
            )
            _check_table(path)
            table = pq.read_table(path)
            if b"geo" in (table.schema.metadata or {}) and x is None and y is None:
                return read_geoparquet(path, table, crs)
    except (pa.ArrowException, OSError) as error:
        raise RegionError(f"{path} cannot be read as a table ({error}): fix it.") from error
    return _table_points(path, table, x, y, crs)


def _check_table(path: Path) -> None:
    """Refuse a Parquet table that has a column twice, or does not fit into memory."""
    if path.is_file():
        check_names(path, pq.read_schema(path).names)
    if fault := memory_fault(path):
        raise RegionError(f"{fault}: check that it is the right file, or divide it.")


def _table_points(
    path: Path, table: pa.Table, x: str | None, y: str | None, crs: str | None
) -> Points:
    names = _columns(path, table.column_names, x, y)
    if names is None:
        header = ", ".join(table.column_names)
        first = all(_is_number(name) for name in table.column_names if name)
        hint = " Its first line looks like data: add a line with names." if first else ""
        raise RegionError(
            f"{path} has the columns {header}: name the columns of the coordinates with --x and "
            f"--y.{hint}"
        )
    if {name.strip().lower() for name in names} & _PROJECTED and crs is None:
        raise RegionError(
            f"{path} has columns {names[0]} and {names[1]}: give their CRS with --crs, such as "
            "EPSG:32631."
        )
    system = read_crs(crs or LONLAT)
    values = [coordinates(path, name, table[name], degrees=system.is_geographic) for name in names]
    return _checked(path, Points(values[0], values[1], system, table), names)


def _columns(
    path: Path, header: Sequence[str], x: str | None, y: str | None
) -> tuple[str, str] | None:
    """Return the names of the columns of the coordinates, as they are in the header.

    If only one is given, the other is one of its usual names.

    Raises:
        RegionError: several columns can be meant.
    """
    given = x or y
    if given is not None:
        if not {name for name in (x, y) if name is not None} <= set(header):
            return None
        if x is None:
            x = _other_column(path, header, given, 0)
        elif y is None:
            y = _other_column(path, header, given, 1)
        return None if x is None or y is None else (x, y)
    for pair in _PAIRS:
        found = [[name for name in header if name.strip().lower() == one] for one in pair]
        if all(found):
            if len(found[0]) > 1 or len(found[1]) > 1:
                raise RegionError(
                    f"{path} has the columns {', '.join(found[0] + found[1])}: name those of the "
                    "coordinates with --x and --y."
                )
            return found[0][0], found[1][0]
    return None


def _other_column(path: Path, header: Sequence[str], given: str, axis: int) -> str | None:
    """Return the column of the other coordinate, by its usual names: that which belongs to the
    given one, if it is a usual name, too.

    Raises:
        RegionError: there are several.
    """
    partners = [pair[axis] for pair in _PAIRS if pair[1 - axis] == given.strip().lower()]
    usual = partners or [pair[axis] for pair in _PAIRS]
    found = [name for name in header if name.strip().lower() in usual and name != given]
    if len(found) > 1:
        raise RegionError(
            f"{path} has the columns {', '.join(found)}: name that of the coordinate with "
            f"{('--x', '--y')[axis]}."
        )
    return found[0] if found else None


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _checked(path: Path, points: Points, names: tuple[str, str]) -> Points:
    """Return the points if those in degrees are on the globe.

    Raises:
        RegionError: one is not.
    """
    if not points.crs.is_geographic:
        return points
    bad = np.flatnonzero((np.abs(points.x) > 360) | (np.abs(points.y) > 90))
    if bad.size:
        row = int(bad[0])
        raise RegionError(
            f"{path}: {bad.size} points are not on the globe, the first one in row {row + 1} with "
            f"{names[0]} {points.x[row]:.10g} and {names[1]} {points.y[row]:.10g} in degrees: give "
            "the CRS of the coordinates with --crs, or exchange longitude and latitude."
        )
    return points


def _check_unused(path: Path, options: Mapping[str, str | None]) -> None:
    for option, value in options.items():
        if value is not None:
            raise RegionError(f"{option} has no meaning for {path}: leave it out.")


def _check_encoding(encoding: str | None) -> None:
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError as error:
        raise RegionError(
            f"{encoding} is not a known encoding: write it like utf-8, cp1252 or utf-16."
        ) from error


def read_crs(text: object) -> pyproj.CRS:
    """Return a CRS from text or PROJJSON.

    Raises:
        RegionError: it is none.
    """
    try:
        return pyproj.CRS.from_user_input(text)
    except pyproj.exceptions.CRSError as error:
        raise RegionError(f"{text} is no CRS: write it like EPSG:32631.") from error


def _read_vector(
    path: Path, crs: str | None, encoding: str | None, layer: str | None
) -> Points | Polygons:
    check_database(path)
    try:
        with edits_read(path):
            layer = _layer(path, layer)
            encoding = encoding or shapefile_encoding(path)
            meta, table = pyogrio.read_arrow(path, layer=layer, encoding=encoding)
    except UnboundLocalError as error:  # in pyogrio
        raise RegionError(
            f"{path}: its coordinate reference system (.prj) is not UTF-8 text: write it again."
        ) from error
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError) as error:
        raise RegionError(f"{path} cannot be read as a vector file ({error}): fix it.") from error
    except (UnicodeDecodeError, pa.ArrowException) as error:
        raise RegionError(
            f"{path}: its text is in another encoding than {encoding or 'UTF-8'} ({error}): name "
            "it with --encoding, such as cp1252."
        ) from error
    column = meta["geometry_name"] or "wkb_geometry"
    if column not in table.column_names:
        raise RegionError(f"{path} has no geometry: give a CSV, or a file of points.")
    system = _own_crs(path, read_crs(meta["crs"]) if meta["crs"] else None, crs)
    return _features_of(path, table, column, system)


def read_geoparquet(path: Path, table: pa.Table, crs: str | None) -> Points | Polygons:
    """Return the points or polygons of a GeoParquet file.

    Raises:
        RegionError: its geometry is not WKB, or it has no CRS.
    """
    try:
        meta = json.loads(table.schema.metadata[b"geo"])
        name = meta["primary_column"]
        column = meta["columns"][name]
        form, declared = column["encoding"], column.get("crs", LONLAT)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RegionError(f"{path}: its GeoParquet metadata is damaged: write it again.") from error
    if form != "WKB" or name not in table.column_names:
        raise RegionError(
            f"{path}: its geometry {name} is stored as {form}: write it as WKB, or use a "
            "GeoPackage."
        )
    return _features_of(
        path, table, name, _own_crs(path, read_crs(declared) if declared else None, crs)
    )


def _own_crs(path: Path, own: pyproj.CRS | None, given: str | None) -> pyproj.CRS:
    """Return the CRS of a vector file, or the given one if it has none.

    Raises:
        RegionError: there is none, or the given one is another.
    """
    if own is None:
        if given is None:
            raise RegionError(f"{path} has no CRS: set one in the file, or give it with --crs.")
        return read_crs(given)
    if given is not None and not own.equals(read_crs(given), ignore_axis_order=True):
        raise RegionError(
            f"{path} is in {own.name}, but --crs is {given}: leave out --crs, or correct the file."
        )
    return own


def _features_of(path: Path, table: pa.Table, column: str, crs: pyproj.CRS) -> Points | Polygons:
    """Return the points of a column of WKB geometries, NaN where there is none, or the polygons.

    Raises:
        RegionError: a geometry is neither, or both occur.
    """
    geometry = shapely.from_wkb(table[column].to_numpy(zero_copy_only=False))
    kinds = shapely.get_type_id(geometry)
    polygonal = np.isin(kinds, (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON))
    if polygonal.any() and (polygonal | (kinds < 0)).all():
        return Polygons(geometry, crs, table.drop([column]))
    single = (kinds == shapely.GeometryType.MULTIPOINT) & (shapely.get_num_geometries(geometry) < 2)
    other = np.flatnonzero((kinds >= 0) & (kinds != shapely.GeometryType.POINT) & ~single)
    if other.size:
        several = kinds[other[0]] == shapely.GeometryType.MULTIPOINT
        raise RegionError(
            f"{path}: feature {other[0] + 1} is not a point"
            + (" but several: divide it into single points." if several else
               ": use points or polygons only, such as the centroids.")
        )  # fmt: skip
    geometry = np.where(single, shapely.get_geometry(geometry, 0), geometry)
    geometry = np.where(shapely.is_empty(geometry), None, geometry)
    points = Points(shapely.get_x(geometry), shapely.get_y(geometry), crs, table.drop([column]))
    return _checked(path, points, ("x", "y"))


def _layer(path: Path, layer: str | None) -> str | None:
    """Return the layer to read.

    Raises:
        RegionError: there are several with geometry and none is given, or no such layer.
    """
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    listed = ", ".join(layers)
    if layer is not None and layer not in layers:
        raise RegionError(f"{path} has no layer {layer}: its layers are {listed}.")
    if layer is None and len(layers) > 1:
        raise RegionError(f"{path} has several layers ({listed}): name one with --layer.")
    return layer or (layers[0] if layers else None)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet, or as CSV if the name ends in .csv.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_output(path) as temporary:
        if path.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(table, temporary)
        else:
            pq.write_table(table, temporary)
