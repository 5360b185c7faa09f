"""Transform coordinates between the CRS of rasters and of grids.

Making a transformer takes longer than a small read, so those that were used last are kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyproj
import rasterio
from odc.geo.geobox import GeoBox


def crs_text(crs: Any) -> str:
    """Return a CRS of odc-geo or rasterio as text."""
    return str(crs.to_wkt() if isinstance(crs, rasterio.CRS) else crs)


@lru_cache(maxsize=64)
def transformer(source: str, target: str) -> pyproj.Transformer | None:
    """Return a transformer, x first, between two CRS as text; None if they are equal.

    It can be used by several threads (pyproj makes a context for each).
    """
    if same_crs(source, target):
        return None
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


@lru_cache(maxsize=64)
def same_crs(first: str, second: str) -> bool:
    """Return whether two CRS as text are equal."""
    return bool(pyproj.CRS.from_user_input(first).equals(pyproj.CRS.from_user_input(second)))


def from_grid(geobox: GeoBox, dataset: rasterio.DatasetReader) -> pyproj.Transformer | None:
    """Return the transformer from a grid to a dataset, None between equal CRS."""
    return transformer(crs_text(geobox.crs), crs_text(dataset.crs))


def to_grid(dataset: rasterio.DatasetReader, geobox: GeoBox) -> pyproj.Transformer | None:
    """Return the transformer from a dataset to a grid, None between equal CRS."""
    return transformer(crs_text(dataset.crs), crs_text(geobox.crs))
