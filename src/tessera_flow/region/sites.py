"""Place many small sites on the pixels of their UTM zones, and group them into cells.

A cell is a fixed square of the grid of a UTM zone, 100 km at a resolution of 10 m. Its pixels are
those of every region in this zone with the same resolution, whose grids have the same multiples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from ..errors import RegionError
from .crs import UTM_NORTH, UTM_SOUTH, WGS84, reproject

CELL_METRES = 100_000.0
"""Edge of a cell; less than a pixel shorter if it is no multiple of the resolution."""

MARGIN_METRES = 5_000.0
"""How far a site may extend beyond its cell; scenes are searched as far."""

CELL_NAME = r"[ns]\d\d_\d+_\d+"
"""Pattern of the names of cells: hemisphere and zone, column and row."""

SCENE_BITS = {"sentinel2": 1, "sentinel1": 2}
"""Bits of the array `scenes` in the files of a cell: a scene of the sensor may cover the pixel."""

OK, NO_COORDINATES, OUTSIDE_UTM = "ok", "no coordinates", "outside UTM"


def utm_zones(longitude: NDArray[Any], latitude: NDArray[Any]) -> NDArray[np.int32]:
    """Return the EPSG codes of the UTM zones of points in degrees, as `crs.utm_crs`; 0 where a
    point is outside UTM or not finite.

    A longitude of 180 is that of -180.
    """
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(longitude) & (latitude >= UTM_SOUTH) & (latitude <= UTM_NORTH)
    lon = (np.where(valid, longitude, 0.0) + 180) % 360 - 180
    lat = np.where(valid, latitude, 0.0)
    zone = ((lon + 180) // 6).astype(np.int32) + 1
    zone[(lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12)] = 32
    for west, east, wide in ((0, 9, 31), (9, 21, 33), (21, 33, 35), (33, 42, 37)):
        zone[(lat >= 72) & (lon >= west) & (lon < east)] = wide
    return np.where(valid, np.where(lat >= 0, 32600, 32700) + zone, 0).astype(np.int32)


@dataclass(frozen=True)
class Cell:
    """A square of the grid of a UTM zone.

    Attributes:
        epsg: of the zone.
        column, row: number of the square, to the east and to the north from the origin.
        resolution: of the grid, in metres.
    """

    epsg: int
    column: int
    row: int
    resolution: float

    @property
    def name(self) -> str:
        """Name in file names."""
        hemisphere = "n" if self.epsg // 100 == 326 else "s"
        return f"{hemisphere}{self.epsg % 100:02d}_{self.column:02d}_{self.row:02d}"

    @classmethod
    def of_name(cls, name: str, resolution: float) -> Cell:
        """Return the cell of a name.

        Raises:
            ValueError: it is no such name.
        """
        if re.fullmatch(CELL_NAME, name) is None:
            raise ValueError(f"{name} is not the name of a cell")
        zone, column, row = name.split("_")
        epsg = (32600 if zone[0] == "n" else 32700) + int(zone[1:])
        return cls(epsg, int(column), int(row), resolution)

    @property
    def edge(self) -> int:
        """Pixels of an edge."""
        return cell_edge(self.resolution)

    @property
    def margin(self) -> int:
        """Pixels of the margin."""
        return int(MARGIN_METRES / self.resolution)

    @property
    def geobox(self) -> Any:
        """The grid of the cell and its margin (`GeoBox`)."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        left = (self.column * self.edge - self.margin) * self.resolution
        top = ((self.row + 1) * self.edge + self.margin) * self.resolution
        size = self.edge + 2 * self.margin
        scale = Affine(self.resolution, 0, left, 0, -self.resolution, top)
        return GeoBox((size, size), scale, f"EPSG:{self.epsg}")


def cell_edge(resolution: float) -> int:
    """Return the pixels of an edge of a cell."""
    return max(1, int(CELL_METRES / resolution))


@dataclass(frozen=True)
class Places:
    """Where N sites are on the grids of UTM zones.

    Attributes:
        state: (N,) `ok`, `no coordinates` or `outside UTM`.
        epsg: (N,) of the zone; 0 without a place.
        longitude, latitude: (N,) of the point, or of a point of the polygon.
        x, y: (N,) the same in the zone.
        cell_column, cell_row: (N,) of the cell.
        row, column: (N,) of the pixel in the grid of the cell with its margin.
    """

    state: NDArray[np.str_]
    epsg: NDArray[np.int32]
    longitude: NDArray[np.float64]
    latitude: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    cell_column: NDArray[np.int32]
    cell_row: NDArray[np.int32]
    row: NDArray[np.int32]
    column: NDArray[np.int32]


def place_sites(
    x: NDArray[np.float64], y: NDArray[np.float64], crs: pyproj.CRS, resolution: float
) -> Places:
    """Place points on the pixels that contain them.

    Args:
        x, y: (N,) coordinates in `crs`; not finite without coordinates.
        crs: their CRS.
        resolution: of the grid, in metres.
    """
    known = np.isfinite(x) & np.isfinite(y)
    longitude, latitude = np.full(len(x), np.nan), np.full(len(x), np.nan)
    if known.any():
        move = pyproj.Transformer.from_crs(crs, WGS84, always_xy=True)
        lon, lat = move.transform(x[known], y[known])
        longitude[known], latitude[known] = lon, lat
    epsg = utm_zones(longitude, latitude)
    state = np.where(known, np.where(epsg > 0, OK, OUTSIDE_UTM), NO_COORDINATES)
    east, north = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for code in np.unique(epsg[epsg > 0]):
        of_zone = epsg == code
        if crs.equals(pyproj.CRS.from_epsg(int(code))):
            east[of_zone], north[of_zone] = x[of_zone], y[of_zone]
            continue
        to_zone = pyproj.Transformer.from_crs(WGS84, f"EPSG:{code}", always_xy=True)
        east[of_zone], north[of_zone] = to_zone.transform(longitude[of_zone], latitude[of_zone])
    edge, margin = cell_edge(resolution), int(MARGIN_METRES / resolution)
    # Numbers of pixels from the origin of the zone, to the east and, negative, to the south.
    column = np.floor(np.where(epsg > 0, east, 0.0) / resolution).astype(np.int64)
    row = np.floor(-np.where(epsg > 0, north, 0.0) / resolution).astype(np.int64)
    cell_column, cell_row = column // edge, -(row // edge) - 1
    return Places(
        state,
        epsg,
        longitude,
        latitude,
        east,
        north,
        cell_column.astype(np.int32),
        cell_row.astype(np.int32),
        (row % edge + margin).astype(np.int32),
        (column % edge + margin).astype(np.int32),
    )


def square_pixels(
    row: NDArray[Any], column: NDArray[Any], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns (N, size * size) of squares of pixels, row by row.

    The pixel given is in the middle; of an even size it is the lower right one of the middle four.
    """
    offsets = np.arange(size, dtype=np.int64) - size // 2
    down, right = (part.reshape(-1) for part in np.meshgrid(offsets, offsets, indexing="ij"))
    return np.asarray(row)[:, None] + down, np.asarray(column)[:, None] + right


def distinct_pixels(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the (row, column) of pixels (P, 2), each once, row by row.

    Args:
        rows, columns: of any shape; negative ones are possible.
    """
    if rows.size == 0:
        return np.zeros((0, 2), np.int64)
    # A number for each pixel, sorted: `np.unique` takes 80 times as long.
    left = columns.min()
    width = columns.max() - left + 1
    numbers = (rows * width + (columns - left)).reshape(-1)
    numbers.sort()
    numbers = numbers[np.append(True, numbers[1:] != numbers[:-1])]
    return np.stack([numbers // width, numbers % width + left], axis=1)


def polygon_pixels(
    polygon: shapely.Geometry, crs: pyproj.CRS, cell: Cell, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns (P,) in the grid of a cell of the pixels whose centres are in a
    polygon; there may be none.

    Args:
        polygon: the polygon.
        crs: its CRS.
        cell: with a point of it.
        name: of the polygon, for messages.

    Raises:
        RegionError: it extends beyond the margin of the cell.
    """
    import rasterio.features

    shape = reproject(polygon, crs, pyproj.CRS.from_epsg(cell.epsg))
    geobox = cell.geobox
    a, _, c, _, e, f = tuple(geobox.affine)[:6]
    left, bottom, right, top = shapely.bounds(shape)
    x0, x1 = np.floor((left - c) / a), np.ceil((right - c) / a)
    y0, y1 = np.floor((top - f) / e), np.ceil((bottom - f) / e)
    if not (x0 >= 0 and y0 >= 0 and x1 <= geobox.width and y1 <= geobox.height):
        raise RegionError(
            f"Polygon {name} extends more than {MARGIN_METRES / 1000:g} km beyond its cell "
            f"{cell.name}: sites are small; compute it as a region, or divide it."
        )
    column, row = int(x0), int(y0)
    box = geobox[row : max(row + 1, int(y1)), column : max(column + 1, int(x1))]
    inside = rasterio.features.rasterize([(shape, 1)], box.shape, transform=box.affine) > 0
    rows, columns = np.nonzero(inside)
    return rows.astype(np.int64) + row, columns.astype(np.int64) + column
