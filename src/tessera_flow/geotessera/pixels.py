"""Take the pixels of a region's grid from the parts of a store: tiles or UTM zones.

The embedding of a pixel comes from the part that owns the place of its centre: the tile of its
cell of 0.1 degree, or the UTM zone of its longitude. If that part has no embedding there, it comes
from the first other part that has one. Codes and scale are those of the part's pixel that contains
the centre: a copy if the part is aligned with the region's grid, else the nearest neighbour. The
result does not depend on the division into blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from ..region.grid import RegionGrid, Window
from . import STORE_DIM
from .manifest import StoredGrid

LARGEST_SCALE = 1000.0
"""Valid scales are far below 1; some published files have huge ones without an embedding."""


class Part:
    """One part of a store.

    Attributes:
        stored: its description in the list.
        bounds: (left, bottom, right, top) in the region's CRS.
        aligned: whether its pixels are pixels of the region's grid.
        sparse: whether codes that are not stored read as 0.
    """

    sparse = False

    def __init__(self, stored: StoredGrid, grid: RegionGrid) -> None:
        self.stored = stored
        self.bounds = stored.bounds_in(grid)
        self.aligned = stored.is_aligned(grid)
        affine, self._to_part = stored.affine_in(grid), None
        if affine is None:
            crs = CRS.from_user_input(str(grid.product_geobox.crs))
            self._to_part = Transformer.from_crs(
                crs, CRS.from_user_input(stored.crs), always_xy=True
            )
        self._inverse = ~(stored.affine if affine is None else affine)

    def locate(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """Return (row, column) of the pixel that contains each point, and whether it exists.

        Args:
            x, y: in the region's CRS.
        """
        if self._to_part is not None:
            x, y = self._to_part.transform(x, y)
        points: Any = (x, y)  # Affine is annotated for numbers only, but accepts arrays
        column, row = (np.floor(v) for v in self._inverse @ points)
        height, width = self.stored.shape
        within = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        row, column = np.where(within, row, 0), np.where(within, column, 0)
        return row.astype(np.intp), column.astype(np.intp), within

    def owns(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each point, in degrees, is to be taken from this part first."""
        raise NotImplementedError

    def scales(self, row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the scales (n,) of some pixels.

        Raises:
            TileError: the part is damaged.
            ReadError: it cannot be read.
        """
        raise NotImplementedError

    def codes(self, row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.int8]:
        """Return the codes (n, 128) of some pixels; raises as `scales`."""
        raise NotImplementedError


class Pixels:
    """The pixels of the region's product grid, from the parts of a store.

    Attributes:
        used: by name of each part that gave an embedding: `copied` or `nearest pixels`.
        without_codes: pixels left out because they have a scale, but 0 as all of their codes: an
            interrupted write of a Zarr store leaves scales without codes.
        impossible_scales: pixels left out because their scale is a number that no embedding has.
    """

    def __init__(self, parts: Sequence[Part], grid: RegionGrid) -> None:
        self.used: dict[str, str] = {}
        self.without_codes = 0
        self.impossible_scales = 0
        self._parts = parts
        self._grid = grid
        crs = CRS.from_user_input(str(grid.product_geobox.crs))
        self._to_lonlat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)

    def read(
        self, window: Window, mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return codes (h, w, 128) and scales (h, w) of a window of the product grid; 0 and NaN
        where `mask` (h, w) is false or no part has an embedding."""
        codes = np.zeros((*window.shape, STORE_DIM), np.int8)
        scales = np.full(window.shape, np.nan, np.float32)
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return codes, scales
        centres: Any = (window.x0 + columns + 0.5, window.y0 + rows + 0.5)
        x, y = self._grid.product_geobox.affine @ centres
        lon, lat = self._to_lonlat.transform(x, y)
        near = [part for part in self._parts if _contains_any(part.bounds, x, y)]
        owned = [part.owns(lon, lat) for part in near]
        remaining, impossible = np.ones(len(rows), bool), np.zeros(len(rows), bool)
        for owner in (True, False):  # first the part that owns the pixel, then the others
            for part, is_owned in zip(near, owned, strict=True):
                index = np.flatnonzero(remaining & (is_owned == owner))
                row, column, within = part.locate(x[index], y[index])
                index, row, column = index[within], row[within], column[within]
                if not len(index):
                    continue
                values = part.scales(row, column)
                with np.errstate(invalid="ignore"):
                    valid = (values > 0) & (values < LARGEST_SCALE)
                impossible[index[np.isfinite(values) & ~valid]] = True
                index, row, column = index[valid], row[valid], column[valid]
                if not len(index):
                    continue
                values, vectors = values[valid], part.codes(row, column)
                if part.sparse:
                    stored: NDArray[np.bool_] = np.any(vectors != 0, axis=1)
                    self.without_codes += int(len(stored) - stored.sum())
                    index, values, vectors = index[stored], values[stored], vectors[stored]
                scales[rows[index], columns[index]] = values
                codes[rows[index], columns[index]] = vectors
                remaining[index] = False
                self.used[part.stored.name] = "copied" if part.aligned else "nearest pixels"
        self.impossible_scales += int((impossible & remaining).sum())
        return codes, scales


def _contains_any(
    bounds: tuple[float, float, float, float], x: NDArray[np.float64], y: NDArray[np.float64]
) -> bool:
    left, bottom, right, top = bounds
    return bool(x.min() < right and x.max() > left and y.min() < top and y.max() > bottom)
