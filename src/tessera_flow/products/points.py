"""Read points from a table or a vector file, and write tables of points."""

from __future__ import annotations

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

from ..atomic import atomic_output
from ..errors import RegionError

_PAIRS = (("lon", "lat"), ("longitude", "latitude"), ("x", "y"))
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


def read_points(
    path: Path, x: str | None = None, y: str | None = None, crs: str | None = None
) -> Points:
    """Read points from a CSV or Parquet table, or from a vector file (GeoPackage, GeoJSON, ...).

    Args:
        path: the file; `.csv` and `.parquet` are tables.
        x, y: columns of a table; `lon` and `lat`, `longitude` and `latitude` or `x` and `y`
            if left out.
        crs: of a table; longitude and latitude (EPSG:4326) if left out. A vector file has
            its own.

    Raises:
        RegionError: the file cannot be read, has no such columns, no points or no CRS.
    """
    if not path.exists():
        raise RegionError(f"The points file {path} does not exist: check the path.")
    if path.suffix.lower() not in (".csv", ".parquet"):
        return _read_vector(path)
    try:
        table = pyarrow.csv.read_csv(path) if path.suffix.lower() == ".csv" else pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RegionError(f"{path} cannot be read as a table ({error}): fix it.") from error
    names = (
        (x, y) if x and y else next((p for p in _PAIRS if set(p) <= set(table.column_names)), None)
    )
    if names is None or not set(names) <= set(table.column_names):
        raise RegionError(
            f"{path} has the columns {', '.join(table.column_names)}: name the "
            "columns of the coordinates with --x and --y."
        )
    if names == ("x", "y") and crs is None:
        raise RegionError(
            f"{path} has columns x and y: give their CRS with --crs, such as EPSG:32631."
        )
    values = []
    for name in names:
        try:
            values.append(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False))
        except pa.ArrowException as error:
            raise RegionError(
                f"{path}: column {name} is not numeric ({error}): correct it, or name the "
                "columns of the coordinates with --x and --y."
            ) from error
    return Points(values[0], values[1], _crs(crs or LONLAT), table)


def _crs(text: str) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_user_input(text)
    except pyproj.exceptions.CRSError as error:
        raise RegionError(f"{text} is no CRS: write it like EPSG:32631.") from error


def _read_vector(path: Path) -> Points:
    try:
        meta, table = pyogrio.read_arrow(path)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise RegionError(f"{path} cannot be read as a vector file ({error}): fix it.") from error
    column = meta["geometry_name"] or "wkb_geometry"
    if column not in table.column_names:
        raise RegionError(f"{path} has no geometry: give a CSV, or a file of points.")
    geometry = shapely.from_wkb(table[column].to_numpy(zero_copy_only=False))
    other = np.flatnonzero(shapely.get_type_id(geometry) != shapely.GeometryType.POINT)
    if other.size:
        raise RegionError(
            f"{path}: feature {other[0] + 1} is not a point: use points, such as the centroids."
        )
    if not meta["crs"]:
        raise RegionError(f"{path} has no CRS: set one in the file.")
    return Points(
        shapely.get_x(geometry), shapely.get_y(geometry), _crs(meta["crs"]), table.drop([column])
    )


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
