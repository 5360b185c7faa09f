"""Write a table with points or polygons as a GeoPackage."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from ...atomic import atomic_output
from ...errors import OutputError
from .points import Points, Polygons


def geometries(features: Points | Polygons) -> NDArray[np.object_]:
    """Return the geometries, None where there are no coordinates."""
    if isinstance(features, Polygons):
        return features.geometry
    known = np.isfinite(features.x) & np.isfinite(features.y)
    points = np.full(len(known), None, object)
    points[known] = shapely.points(features.x[known], features.y[known])
    return points


def write_geopackage(
    path: Path, table: pa.Table, geometry: NDArray[np.object_], crs: pyproj.CRS
) -> None:
    """Write a table as the layer `embeddings` of a GeoPackage.

    Args:
        path: the file; an existing one is replaced.
        table: n rows of attributes.
        geometry: (n,) points or polygons, or None.
        crs: of the geometry.

    Raises:
        OutputError: the file cannot be written, or cannot hold a column of the table.
    """
    names = [name.lower() for name in table.column_names]
    column, key = _free("geom", names), _free("fid", names)
    polygons = any(item is not None and item.geom_type != "Point" for item in geometry)
    if polygons:
        geometry = np.array(
            [item if item is None else shapely.multipolygons(shapely.get_parts(item))
             for item in geometry], object)  # fmt: skip
    table = table.append_column(column, pa.array(shapely.to_wkb(geometry), pa.binary()))
    with atomic_output(path) as temporary, warnings.catch_warnings():
        # About the name of the temporary file.
        warnings.filterwarnings("ignore", message=".*extension should be 'gpkg'.*")
        try:
            pyogrio.write_arrow(
                table,
                temporary,
                layer="embeddings",
                driver="GPKG",
                geometry_name=column,
                geometry_type="MultiPolygon" if polygons else "Point",
                crs=crs.to_wkt(),
                layer_options={"FID": key, "GEOMETRY_NAME": column},
            )
        except (RuntimeError, ValueError, pa.ArrowException) as error:
            raise OutputError(
                f"{path} cannot be written as a GeoPackage ({error}): write .parquet."
            ) from error


def _free(name: str, taken: Iterable[str]) -> str:
    return name if name not in taken else _free(f"{name}_", taken)
