"""Compare positions in degrees with the grid of a region, also at 180 degrees and the poles."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyproj
from odc.geo.geobox import GeoBox

from ..archives.query import Box, dateline_free

SEARCH_MARGIN = 0.01
"""Degrees added around the region in a search, because footprints of items are approximate."""

_EDGE_POINTS = 201

_MAX_LONGITUDE, _MAX_LATITUDE = 540.0, 91.0
"""Of footprints, which can be approximate, and extend beyond 180 degrees."""

NOWHERE = (math.inf, math.inf, -math.inf, -math.inf)
"""Bounds that overlap no grid."""


@functools.cache
def transformer(source: str, target: str) -> pyproj.Transformer:
    """Return a cached transformer: a search has thousands of items in two or three zones."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


@functools.lru_cache(maxsize=64)
def search_boxes(geobox: GeoBox) -> tuple[Box, ...]:
    """Return (west, south, east, north) of a grid in degrees, with a margin.

    There are two boxes if the grid crosses the antimeridian: west <= east in each. Around a pole,
    all longitudes are included.
    """
    left, bottom, right, top = geobox.boundingbox
    to_degrees = transformer(str(geobox.crs), "EPSG:4326")
    x = np.linspace(left, right, _EDGE_POINTS)
    y = np.linspace(bottom, top, _EDGE_POINTS)
    outline_x = np.concatenate([x, np.full_like(y, right), x[::-1], np.full_like(y, left)])
    outline_y = np.concatenate([np.full_like(x, bottom), y, np.full_like(x, top), y[::-1]])
    longitude, latitude = map(np.asarray, to_degrees.transform(outline_x, outline_y))
    valid = np.isfinite(longitude) & np.isfinite(latitude)
    if not valid.any():
        return ((-180.0, -90.0, 180.0, 90.0),)
    south = float(latitude[valid].min()) - SEARCH_MARGIN
    north = float(latitude[valid].max()) + SEARCH_MARGIN
    poles = [pole for pole in (-90.0, 90.0) if _contains(geobox, to_degrees, pole)]
    if poles or not valid.all():
        south, north = min([south, *poles]), max([north, *poles])
        intervals = [(-180.0, 180.0)]
    else:
        continuous = np.unwrap(longitude, period=360.0)
        intervals = dateline_free(
            float(continuous.min()) - SEARCH_MARGIN, float(continuous.max()) + SEARCH_MARGIN
        )
    return tuple((west, max(-90.0, south), east, min(90.0, north)) for west, east in intervals)


def _contains(geobox: GeoBox, to_degrees: pyproj.Transformer, pole: float) -> bool:
    """Return whether a pole is inside a grid."""
    left, bottom, right, top = geobox.boundingbox
    x, y = to_degrees.transform(0.0, pole, direction=pyproj.enums.TransformDirection.INVERSE)
    if not (left <= x <= right and bottom <= y <= top):
        return False
    # Projections that cannot show the pole return another point for it.
    return bool(abs(to_degrees.transform(x, y)[1] - pole) < 1e-6)


def bounds_of_degrees(document: Mapping[str, Any], geobox: GeoBox) -> Box | None:
    """Return the bounds of the footprint of a STAC item in the CRS of a grid.

    Both conventions at the antimeridian are understood: a bounding box with west > east, and a
    geometry that is divided at 180 degrees, with a bounding box from -180 to 180. Longitudes can
    also be greater than 180.

    Returns:
        (left, bottom, right, top); `NOWHERE` if the footprint does not reach the region; None if
        the item has no footprint, or one that cannot be transformed.

    Raises:
        TypeError, ValueError, KeyError: the bounding box or the geometry is invalid.
    """
    parts = _footprint_boxes(document)
    if not parts:
        return None
    boxes = search_boxes(geobox)
    if not any(_intersect(part, box) for part in parts for box in boxes):
        return NOWHERE
    to_grid = transformer("EPSG:4326", str(geobox.crs))
    bounds = [
        to_grid.transform_bounds(*part, densify_pts=21)
        for part in parts
        if part[2] - part[0] <= 180
    ]
    if len(bounds) < len(parts) or not np.isfinite(bounds).all():
        return None
    left, bottom = np.min(bounds, axis=0)[:2]
    right, top = np.max(bounds, axis=0)[2:]
    return float(left), float(bottom), float(right), float(top)


def _intersect(one: Box, other: Box) -> bool:
    return one[0] <= other[2] and one[2] >= other[0] and one[1] <= other[3] and one[3] >= other[1]


def _footprint_boxes(document: Mapping[str, Any]) -> list[Box]:
    """Return boxes with west <= east, between -180 and 180, that contain a footprint."""
    numbers = [float(number) for number in document.get("bbox") or ()]
    rings = _rings(document.get("geometry"))
    if not numbers:
        return [box for ring in rings for box in _ring_boxes(ring)]
    if len(numbers) not in (4, 6):
        raise ValueError(f"bbox has {len(numbers)} numbers, not 4 or 6")
    middle = len(numbers) // 2  # a box in three dimensions has six numbers
    west, south, east, north = numbers[0], numbers[1], numbers[middle], numbers[middle + 1]
    _check_degrees("bbox", [west, east], [south, north])
    if west > east:
        east += 360
    elif east - west > 180 and rings:
        return [box for ring in rings for box in _ring_boxes(ring)]
    return [(w, south, e, north) for w, e in dateline_free(west, east)]


def _rings(geometry: Any) -> list[np.ndarray[Any, Any]]:
    """Return the outlines of a polygon or multipolygon as arrays of positions."""
    if not isinstance(geometry, Mapping):
        return []
    coordinates: Any = geometry.get("coordinates")
    kinds: dict[str, Any] = {"Polygon": [coordinates], "MultiPolygon": coordinates}
    polygons = kinds.get(str(geometry.get("type"))) or []
    return [np.array([position[:2] for position in polygon[0]], float) for polygon in polygons]


def _check_degrees(name: str, longitudes: Any, latitudes: Any) -> None:
    """Raise ValueError unless numbers are degrees: those in metres would be outside any region."""
    largest = [np.abs(values).max() for values in (longitudes, latitudes)]
    if not (largest[0] <= _MAX_LONGITUDE and largest[1] <= _MAX_LATITUDE):  # also if NaN
        raise ValueError(f"{name} is not in degrees (up to {largest[0]:g} and {largest[1]:g})")


def _ring_boxes(ring: np.ndarray[Any, Any]) -> list[Box]:
    _check_degrees("geometry", ring[:, 0], ring[:, 1])
    longitude = np.unwrap(ring[:, 0], period=360.0)
    south, north = float(ring[:, 1].min()), float(ring[:, 1].max())
    if abs(longitude[-1] - longitude[0]) > 180:  # around a pole
        south, north = (south, 90.0) if south + north > 0 else (-90.0, north)
        return [(-180.0, south, 180.0, north)]
    intervals = dateline_free(float(longitude.min()), float(longitude.max()))
    return [(west, south, east, north) for west, east in intervals]
