"""Choose and check coordinate reference systems: of regions, and of the grids made for them."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.aoi import AreaOfInterest
from pyproj.transformer import TransformerGroup

from ..errors import RegionError

log = logging.getLogger(__name__)

WGS84 = pyproj.CRS.from_epsg(4326)
UTM_SOUTH, UTM_NORTH = -80.0, 84.0
"""Degrees of latitude between which UTM is used."""


MAX_DATUM_ERROR = 5.0
"""Metres: a less accurate shift between datums is stated."""

MAX_SCALE_ERROR = 0.02
"""A larger difference between the size of a pixel in the grid and on the ground is stated."""


MAX_PARTS = 10_000_000
"""Into which the edges of a geometry are divided: 5 million km, 25 coasts of Canada."""


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """Return the horizontal part of a CRS; heights do not matter here."""
    return crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()


def crs_name(crs: pyproj.CRS) -> str:
    """Return `EPSG:<code>`, or the name of a CRS without a code."""
    authority = None if crs.is_bound else crs.to_authority()
    return ":".join(authority) if authority else crs.name


def crs_name_or_wkt(crs: pyproj.CRS) -> str:
    """Return `EPSG:<code>`, or WKT for a CRS without a code."""
    # The code of a bound CRS would lose its own shift to WGS 84.
    authority = None if crs.is_bound else crs.to_authority()
    return ":".join(authority) if authority else crs.to_wkt()


def reproject(
    geometry: shapely.Geometry, source: pyproj.CRS, target: pyproj.CRS
) -> shapely.Geometry:
    """Return a geometry in another CRS.

    Long edges are divided first, so that an edge that is straight in `source` stays on its line
    (within centimetres) in `target`.

    Raises:
        RegionError: the edges are so long that their parts would fill the memory.
    """
    if source.equals(target):
        return geometry
    longest = 0.005 if source.is_geographic else 500.0 / _unit_size(source)
    parts = shapely.length(geometry) / longest
    if not parts <= MAX_PARTS:
        raise RegionError(
            f"The edges of a geometry are longer than anything on the Earth ({parts * longest:.3g} "
            f"units of {crs_name(source)}): its coordinates are wrong, or of another CRS."
        )
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)

    def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    return shapely.transform(shapely.segmentize(geometry, longest), project)


def to_lonlat(geometry: shapely.Geometry, crs: pyproj.CRS) -> shapely.Geometry:
    """Return a geometry in degrees (WGS 84, longitude first).

    A geometry that ends at the antimeridian has 180 or -180 there, like its other longitudes.
    """
    result = reproject(geometry, crs, WGS84)
    if crs.is_geographic:
        return result
    longitude = shapely.get_coordinates(result)[:, 0]
    edge = np.abs(longitude) > 180 - 1e-9
    inner = longitude[~edge]
    if edge.any() and inner.size and (inner.max() <= 0 or inner.min() >= 0):
        side = -180.0 if inner.min() < 0 else 180.0

        def same_side(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.column_stack([np.where(edge, side, points[:, 0]), points[:, 1]])

        return shapely.transform(result, same_side)
    return result


def _unit_size(crs: pyproj.CRS) -> float:
    sizes = [axis.unit_conversion_factor for axis in crs.axis_info[:2]]
    return sizes[0] if sizes and sizes[0] > 0 else 1.0


def check_file_crs(what: str, crs: pyproj.CRS) -> None:
    """Check that a CRS has a known relation to the Earth.

    Args:
        what: the file or key, for messages.
        crs: its horizontal CRS.

    Raises:
        RegionError: it is a local, engineering or geocentric one.
    """
    if not (crs.is_geographic or crs.is_projected):
        raise RegionError(
            f"{what} has the coordinate reference system {crs.name!r}, which has no longitude and "
            "latitude (a local, engineering or geocentric one): assign the correct one, or "
            "reproject the file."
        )


def check_datum(what: str, crs: pyproj.CRS, bounds: tuple[float, float, float, float]) -> None:
    """Check that the shift from the datum of a CRS to WGS 84, the datum of the scenes, is known.

    Without one, PROJ leaves coordinates as they are (a ballpark transformation), which can be
    wrong by hundreds of metres. If the ellipsoid is that of WGS 84 or GRS 80 the datum is almost
    always within a metre or two, and a warning is logged instead; so is a shift that is known only
    coarsely.

    Args:
        what: the file or key, for messages.
        crs: its horizontal CRS.
        bounds: west, south, east, north of the region in degrees.

    Raises:
        RegionError: no shift is known.
    """
    shifts = _shifts(crs, bounds)
    if not shifts.transformers:
        name = crs.datum.name if crs.datum else crs.name
        ellipsoid = crs.ellipsoid.name if crs.ellipsoid else "unknown"
        problem = (
            f"{what} has a datum without a known shift to WGS 84 (datum {name!r}, ellipsoid "
            f"{ellipsoid!r}, coordinate reference system {crs_name(crs)})"
        )
        if _is_near_wgs84(crs):
            log.warning(
                "%s: the datum is taken to be that of WGS 84. Assign the correct coordinate "
                "reference system, by its EPSG code, if it is another one.",
                problem,
            )
            return
        raise RegionError(
            f"{problem}: the region could be displaced by hundreds of metres. Assign the correct "
            "coordinate reference system, by its EPSG code, or reproject the file to WGS 84."
        )
    accuracy = shifts.transformers[0].accuracy
    if accuracy > MAX_DATUM_ERROR:
        missing = [grid.short_name for op in shifts.unavailable_operations for grid in op.grids]
        log.warning(
            "%s is in %s: its datum is shifted to WGS 84 with an accuracy of %g m%s.",
            what,
            crs_name(crs),
            accuracy,
            f" (PROJ's grid {missing[0]} would be more accurate, but is not installed)"
            if missing
            else "",
        )


def _shifts(crs: pyproj.CRS, bounds: tuple[float, float, float, float]) -> TransformerGroup:
    west, south, east, north = bounds
    area: Any = AreaOfInterest(west, south, east, north)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a grid that is not installed
        return TransformerGroup(
            crs, WGS84, always_xy=True, area_of_interest=area, allow_ballpark=False
        )


def _is_near_wgs84(crs: pyproj.CRS) -> bool:
    ellipsoid = crs.ellipsoid
    return ellipsoid is not None and (
        abs(ellipsoid.semi_major_metre - 6378137.0) < 0.01
        and abs(ellipsoid.inverse_flattening - 298.2572) < 0.001
    )


def utm_crs(longitude: float, latitude: float) -> pyproj.CRS:
    """Return the UTM zone (WGS 84) of a point in degrees.

    Includes the exceptions for Norway (32V) and Svalbard (31X, 33X, 35X, 37X).

    Raises:
        RegionError: the point is north of 84 N or south of 80 S, outside UTM.
    """
    if not UTM_SOUTH <= latitude <= UTM_NORTH:
        raise RegionError(
            f"The centre of the region ({longitude:.3f}, {latitude:.3f}) is outside UTM (80 S to "
            "84 N): set `crs` to a polar CRS, such as EPSG:3413 or EPSG:3031."
        )
    zone = min(60, int((longitude + 180) // 6) + 1)
    if 56 <= latitude < 64 and 3 <= longitude < 12:
        zone = 32
    elif latitude >= 72:
        for west, east, wide in ((0, 9, 31), (9, 21, 33), (21, 33, 35), (33, 42, 37)):
            if west <= longitude < east:
                zone = wide
    return pyproj.CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def given_crs(text: str) -> pyproj.CRS:
    """Return the horizontal CRS that a user names.

    Raises:
        RegionError: it is not one.
    """
    try:
        return horizontal(pyproj.CRS.from_user_input(text))
    except pyproj.exceptions.CRSError as error:
        raise RegionError(
            f"`crs` {text!r} is not a coordinate reference system: write it as EPSG:32631, or auto."
        ) from error


def check_grid_crs(what: str, crs: pyproj.CRS) -> None:
    """Check that a CRS can be that of a grid: projected, in metres, x to the east, y to the north.

    Args:
        what: where the CRS comes from, for messages.
        crs: a horizontal CRS.

    Raises:
        RegionError: it cannot.
    """
    advice = (
        "set `crs` to a projected CRS in metres, such as the UTM zone of the region, EPSG:326xx"
    )
    if crs.is_geographic:
        raise RegionError(
            f"{what} is in degrees ({crs_name(crs)}), but products have square pixels in metres: "
            f"{advice}."
        )
    if not crs.is_projected:
        raise RegionError(f"{what} is {crs.name!r}, which is not a projected CRS: {advice}.")
    axes = crs.axis_info[:2]
    for axis in axes:
        if not math.isclose(axis.unit_conversion_factor, 1.0, rel_tol=1e-12):
            raise RegionError(
                f"{what} is {crs_name(crs)} ({crs.name}), whose unit is the {axis.unit_name} "
                f"({axis.unit_conversion_factor:.9g} m), but pixels are in metres: {advice}."
            )
    directions = {axis.direction.lower() for axis in axes}
    # Polar systems have both axes to the north, or both to the south.
    if "west" in directions or directions == {"east", "south"}:
        raise RegionError(
            f"{what} is {crs_name(crs)} ({crs.name}), whose axes point to the "
            f"{' and '.join(sorted(directions))}, so that an image would be upside down: {advice}."
        )


def warn_of_scale(what: str, crs: pyproj.CRS, x: float, y: float, resolution: float) -> None:
    """Log a warning if pixels have another size on the ground than in the grid (web Mercator).

    Args:
        what: the region, for the message.
        crs: CRS of the grid, in metres.
        x, y: centre of the region in `crs`.
        resolution: pixel size in `crs`.
    """
    half = 500.0
    transformer = pyproj.Transformer.from_crs(crs, WGS84, always_xy=True)
    lon, lat = transformer.transform([x - half, x + half, x, x], [y, y, y - half, y + half])
    if not np.isfinite([*lon, *lat]).all():
        return
    geod = pyproj.Geod(ellps="WGS84")
    _, _, distances = geod.inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    width, height = (resolution * distance / (2 * half) for distance in distances)
    if max(abs(width / resolution - 1), abs(height / resolution - 1)) > MAX_SCALE_ERROR:
        in_utm = min(lat) >= UTM_SOUTH and max(lat) <= UTM_NORTH
        advice = (
            f" For {resolution:g} m on the ground, use the UTM zone of the region (`crs`: auto)."
            if in_utm
            else ""
        )
        log.warning(
            "%s: pixels of %g m in %s (%s) are %.3g x %.3g m on the ground at the centre of the "
            "region.%s",
            what,
            resolution,
            crs_name(crs),
            crs.name,
            width,
            height,
            advice,
        )
