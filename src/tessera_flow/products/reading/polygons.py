"""Average the embeddings of a Zarr store over polygons."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyproj
import rasterio.features
import shapely
import zarr
from affine import Affine
from numpy.typing import NDArray

from ...errors import RegionError
from ...inference.block_embeddings import COMPUTED
from ...region.crs import reproject
from ..blocks import COUNT_KINDS
from ..tables.points import Polygons
from .sample import INSIDE, NO_COORDINATES, NO_EMBEDDING, OUTSIDE, Parts, append_columns

logger = logging.getLogger(__name__)

PARTLY, NO_PIXEL = "partly outside", "no pixel"
_CHUNKS_KEPT = 32


@dataclass(frozen=True)
class PolygonMeans:
    """Means of a store over n polygons.

    Attributes:
        embeddings: (n, K) float32 mean of the pixels with an embedding, NaN without one.
        counts: (n, 3) float32 mean of their counts; (n, 0) if the store has no counts.
        pixels: (n,) int64 pixels with an embedding whose centre is in the polygon.
        inside: (n,) int64 all pixels of the product whose centre is in the polygon.
        state: (n,) `ok`, `partly outside` the product, `no embedding`, `no pixel` (no centre is in
            the polygon), `outside` or `no coordinates`.
        computed: (n,) int64 pixels of `pixels` whose embedding was computed, not published; None if
            the store does not state it.
    """

    embeddings: NDArray[np.float32]
    counts: NDArray[np.float32]
    pixels: NDArray[np.int64]
    inside: NDArray[np.int64]
    state: NDArray[np.str_]
    computed: NDArray[np.int64] | None = None

    def columns_after(self, table: pa.Table) -> pa.Table:
        """Return `table` with the columns `pixels`, `pixels_inside`, `state`, `pixels_computed` and
        the counts, where they are known, and `e000`, `e001`, ... appended.

        Raises:
            RegionError: the table already has such a column.
        """
        new: dict[str, NDArray[Any]] = {
            "pixels": self.pixels,
            "pixels_inside": self.inside,
            "state": self.state,
            **({} if self.computed is None else {"pixels_computed": self.computed}),
            **dict(zip(COUNT_KINDS, self.counts.T, strict=False)),
            **{f"e{k:03d}": self.embeddings[:, k] for k in range(self.embeddings.shape[1])},
        }
        return append_columns(table, new, "polygons")


def average_store(
    group: zarr.Group, polygons: Polygons, required: bool = True, time: int = 0
) -> PolygonMeans:
    """Average the pixels whose centres are in each polygon.

    Args:
        group: the store.
        polygons: the polygons.
        required: whether it is an error if all of them are outside the store.
        time: index of the period.

    Raises:
        RegionError: there are polygons, but all of them are outside the store.
        TileError: a part of the store that is read is missing, shortened or altered.
    """
    attributes: dict[str, Any] = group.attrs.asdict()
    crs = pyproj.CRS.from_user_input(attributes.get("proj:code") or attributes["proj:wkt2"])
    store = _Store(group, Affine(*attributes["spatial:transform"]), time)
    number = len(polygons.geometry)
    counts = len(COUNT_KINDS) if store.counts is not None else 0
    embeddings = np.full((number, store.embeddings.shape[1]), np.nan, np.float32)
    means = PolygonMeans(
        embeddings,
        np.zeros((number, counts), np.float32),
        np.zeros(number, np.int64),
        np.zeros(number, np.int64),
        np.full(number, NO_COORDINATES, dtype="<U16"),
        None if store.origin is None else np.zeros(number, np.int64),
    )
    known = 0
    for index, polygon in enumerate(polygons.geometry):
        if polygon is None or shapely.is_empty(polygon):
            continue
        known += 1
        means.state[index] = store.average(reproject(polygon, polygons.crs, crs), means, index)
    if required and known and not (means.inside.any() or (means.state == NO_PIXEL).any()):
        west, south, east, north = attributes["spatial:bbox"]
        raise RegionError(
            f"None of the {known} polygons is in the product, which covers x {west:g} to "
            f"{east:g} and y {south:g} to {north:g} in {attributes.get('proj:code', 'its CRS')}: "
            "check their CRS."
        )
    for name in (PARTLY, NO_EMBEDDING, NO_PIXEL, OUTSIDE, NO_COORDINATES):
        if found := int((means.state == name).sum()):
            logger.warning("%d of %d polygons: %s", found, number, name)
    return means


class _Store:
    """The arrays of a store; the chunks that were read last are kept."""

    def __init__(self, group: zarr.Group, transform: Affine, time: int) -> None:
        self.embeddings: Any = group["embeddings"]
        self.scales: Any = group.get("scales")
        self.counts: Any = group.get("observation_counts")
        self.origin: Any = group.get("origin")
        self._transform, self._parts = transform, Parts(group, time)
        self._read = lru_cache(_CHUNKS_KEPT)(self._read_chunk)

    def average(self, polygon: shapely.Geometry, means: PolygonMeans, index: int) -> str:
        """Set the means of one polygon, in the CRS of the store; return its state."""
        height, width = self.embeddings.shape[-2:]
        # Affine is annotated for numbers only, but accepts arrays.
        corners: Any = tuple(shapely.get_coordinates(polygon).T)
        columns, rows = ~self._transform @ corners
        if not np.isfinite([rows, columns]).all():
            return OUTSIDE
        top, bottom = max(0, int(np.floor(rows.min()))), min(height, int(np.ceil(rows.max())))
        left, right = max(0, int(np.floor(columns.min()))), min(width, int(np.ceil(columns.max())))
        if top >= bottom or left >= right:
            return OUTSIDE
        beyond = rows.min() < 0 or rows.max() > height or columns.min() < 0 or columns.max() > width
        sums = np.zeros(self.embeddings.shape[1])
        counts = np.zeros(means.counts.shape[1])
        edges = self.embeddings.chunks[-2:]
        for y in range(top // edges[0] * edges[0], bottom, edges[0]):
            for x in range(left // edges[1] * edges[1], right, edges[1]):
                shape = min(edges[0], height - y), min(edges[1], width - x)
                mask = rasterio.features.rasterize(
                    [(polygon, 1)],
                    out_shape=shape,
                    transform=self._transform @ Affine.translation(x, y),
                    dtype=np.uint8,
                ).astype(bool)
                if not mask.any():
                    continue
                values, counted, origin = self._read(y, x, *shape)
                selected = values[:, mask].astype(np.float64)
                valid = np.isfinite(selected).all(axis=0)
                sums += selected[:, valid].sum(axis=1)
                if counted is not None:
                    counts += counted[:, mask][:, valid].sum(axis=1)
                if origin is not None and means.computed is not None:
                    means.computed[index] += int((origin[mask][valid] == COMPUTED).sum())
                means.inside[index] += int(mask.sum())
                means.pixels[index] += int(valid.sum())
        if not means.inside[index]:
            return OUTSIDE if beyond else NO_PIXEL
        if not means.pixels[index]:
            return NO_EMBEDDING
        means.embeddings[index] = sums / means.pixels[index]
        means.counts[index] = counts / means.pixels[index]
        return PARTLY if beyond else INSIDE

    def _read_chunk(
        self, y: int, x: int, height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[Any] | None, NDArray[Any] | None]:
        """Return (K, h, w) dequantised embeddings, (3, h, w) counts and (h, w) origin."""
        rows, columns = slice(y, y + height), slice(x, x + width)
        codes = self._parts.read(self.embeddings, rows, columns)
        values = codes.astype(np.float32)
        if self.scales is not None:
            scales = self._parts.read(self.scales, rows, columns)
            self._parts.check_codes(codes, scales, self.embeddings.fill_value, rows, columns)
            values *= scales
        counts, origin = (
            None if array is None else self._parts.read(array, rows, columns)
            for array in (self.counts, self.origin)
        )
        return values, counts, origin
