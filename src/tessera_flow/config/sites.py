"""The keys of the section `sites`: a table of points or small polygons."""

from __future__ import annotations

from typing import Literal

from .types import PathText, Section, key

MAX_SIZE = 256
"""Largest edge of the squares around points, in pixels."""


class Sites(Section):
    """A table of points or small polygons, which are computed without their surroundings."""

    table: PathText | None = key(
        None,
        "Path of a table of points or small polygons. CSV, Parquet, GeoPackage or another vector "
        "file; each row has an id. Default: no sites.",
        min_length=1,
    )
    layer: str | None = key(None, "Layer of a vector file that has several.", min_length=1)
    id: str = key("id", "Column with the id of each site.", min_length=1)
    year: str | None = key(
        None,
        "Column with the calendar year of each site. Default: `year`, if there is such a column; "
        "a table without years and days is computed for every entry of `periods`.",
        min_length=1,
    )
    start: str | None = key(
        None,
        "Column with the first day (UTC) of each site, such as 2021-07-01. Used with `end`. "
        "Default: `start`, if there are columns `start` and `end`.",
        min_length=1,
    )
    end: str | None = key(
        None,
        "Column with the last day (UTC), inclusive. Default: `end`, as for `start`.",
        min_length=1,
    )
    x: str | None = key(
        None,
        "Column with the x coordinates of a table. Default: `lon`, `longitude`, `x`, ...",
        min_length=1,
    )
    y: str | None = key(
        None,
        "Column with the y coordinates of a table. Default: `lat`, `latitude`, `y`, ...",
        min_length=1,
    )
    crs: str | None = key(
        None, "CRS of the coordinates of a table. Default: EPSG:4326.", min_length=1
    )
    encoding: str | None = key(
        None, "Encoding of the text of a CSV table. Default: as it states, UTF-8.", min_length=1
    )
    separator: str | None = key(
        None, "Separator of the columns of a CSV table. Default: as in its header.", min_length=1
    )
    size: int = key(
        1,
        "Edge of the square of pixels around each point. With 1, a point is the pixel that "
        "contains it; with n, it has n x n rows in the result.",
        "px",
        ge=1,
        le=MAX_SIZE,
    )
    polygons: Literal["mean", "pixels"] = key(
        "mean",
        "Rows of a polygon in the result. `mean`: one row, with the mean over the pixels whose "
        "centres are inside. `pixels`: a row for each of these pixels.",
    )
    values: Literal["float32", "codes"] = key(
        "float32",
        "Embeddings in the result. `float32`: numbers. `codes`: int8 codes and a scale, a quarter "
        "of the size; not for means.",
    )
