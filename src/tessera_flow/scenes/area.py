"""Return the boxes in degrees in which the scenes of a region are searched."""

from __future__ import annotations

import numpy as np
import pyproj
from odc.geo.geobox import GeoBox

from ..archives.query import Box, dateline_free

SEARCH_MARGIN = 0.01
"""Degrees added around the region in a search, because footprints of items are approximate."""

_EDGE_POINTS = 201


def search_boxes(geobox: GeoBox) -> tuple[Box, ...]:
    """Return (west, south, east, north) of a grid in degrees, with a margin.

    There are two boxes if the grid crosses the antimeridian: west <= east in each. Around a pole,
    all longitudes are included.
    """
    left, bottom, right, top = geobox.boundingbox
    to_degrees = pyproj.Transformer.from_crs(str(geobox.crs), "EPSG:4326", always_xy=True)
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
