"""The keys of `maps`: a map of a class or a number from labels and embeddings."""

from __future__ import annotations

from typing import Literal

from .types import NameReference, PathText, Section, key

OF_METHODS = {"linear": "penalty", "nearest": "neighbours", "random_forest": "trees"}
"""The key that only one method uses."""


class Map(Section):
    """Map of a class or a number, learned from labelled points or polygons."""

    labels: PathText = key(
        ...,
        "Path of the labels: points or polygons. A table (CSV, Parquet) of points, or a vector "
        "file (GeoPackage, GeoJSON, shapefile and other GDAL formats), as `tessera-flow sample` "
        "reads them.",
        min_length=1,
    )
    column: str = key(..., "Column of the labels with the class or the number.", min_length=1)
    predict: Literal["class", "number"] = key(
        "class",
        "What the column contains. `class`: names or whole numbers. `number`: a quantity, such as "
        "biomass.",
    )
    method: Literal["linear", "nearest", "random_forest"] = key(
        "linear",
        "Method. `linear`: logistic regression of classes, ridge regression of numbers, both of "
        "standardised dimensions. `nearest`: nearest neighbours, weighted by their distance. "
        "`random_forest`: random forest; slow on large regions.",
    )
    penalty: float = key(
        1.0,
        "Strength of the L2 penalty of `linear`. Higher values give smoother maps.",
        gt=0,
    )
    neighbours: int = key(5, "Number of neighbours of `nearest`.", ge=1)
    trees: int = key(200, "Number of trees of `random_forest`.", ge=1)
    folds: int = key(
        5,
        "Number of folds of the cross-validation. Each is predicted by a model of the others.",
        ge=2,
    )
    fold_block: float = key(
        1000.0,
        "Edge of the square blocks of the cross-validation. The labels of a block are in one fold, "
        "because neighbouring pixels are alike and would make the accuracy too high. A polygon is "
        "in the block of its centre, as a whole.",
        "m",
        gt=0,
    )
    pixels_per_polygon: int = key(
        100,
        "Largest number of pixels that are used of a polygon, selected by their position.",
        "px",
        ge=1,
    )
    seed: int = key(
        0,
        "Seed of the random draws: folds, learning curve, random forest.",
        ge=0,
        le=2**31 - 1,
    )
    layer: str | None = key(None, "Layer of a vector file that has several.", min_length=1)
    x: str | None = key(
        None, "Column of the x coordinate of a table. Default: lon, longitude, x, ...", min_length=1
    )
    y: str | None = key(
        None, "Column of the y coordinate of a table. Default: lat, latitude, y, ...", min_length=1
    )
    crs: str | None = key(
        None, "CRS of the coordinates of a table. Default: EPSG:4326.", min_length=1
    )
    encoding: str | None = key(
        None,
        "Encoding of the text of a CSV or shapefile. Default: as it states, or UTF-8.",
        min_length=1,
    )
    separator: str | None = key(
        None, "Character between the columns of a CSV. Default: as in its header.", min_length=1
    )
    regions: NameReference | None = key(None, "Names of the regions to map. Default: all regions.")
    periods: NameReference | None = key(
        None, "Names of the periods to map. Default: all periods of each region."
    )
