"""Load assets of STAC items on a grid, with odc-stac and an exact reader."""

from __future__ import annotations

import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import odc.stac
import pystac
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.loader import RioDriver

from ..scenes.manifest import SourceItem
from .reader import Asset, Reader
from .resample import ReadOptions

FOOTPRINT_MARGIN = 0.1
"""Degrees added around the grid, so that odc-stac never clips an asset."""


class _Source:
    """odc-loader's interface to one asset."""

    def __init__(self, driver: ExactDriver) -> None:
        self._driver = driver

    def read(
        self, cfg: Any, dst_geobox: GeoBox, *, dst: Any = None, selection: Any = None
    ) -> tuple[tuple[slice, slice], Any]:
        driver = self._driver
        slices, pixels = driver.reader.read(driver.asset, dst_geobox, cfg.dtype, driver.options)
        if dst is None:
            return slices, pixels
        dst[slices] = pixels
        return slices, dst[slices]


class ExactDriver(RioDriver):
    """odc-loader driver for one asset: `Reader.read` instead of GDAL's HTTP and warp."""

    def __init__(self, reader: Reader, asset: Asset, options: ReadOptions) -> None:
        super().__init__()
        self.reader = reader
        self.asset = asset
        self.options = options

    def capture_env(self) -> dict[str, Any]:
        """Return no GDAL options: the reader sets its own."""
        return {}

    def open(self, src: Any, ctx: Any) -> Any:
        """Return the reader of the asset."""
        return _Source(self)


def asset_of(item: SourceItem, key: str) -> Asset:
    """Return one asset of an item."""
    stated = item.stac["assets"][key]
    return Asset(item.id, key, stated["href"], stated.get("band"))


def load_asset(
    reader: Reader, item: SourceItem, key: str, dtype: str, geobox: GeoBox, options: ReadOptions
) -> NDArray[Any]:
    """Load one asset of an item on a grid: (H, W) of `dtype`, 0 for no data.

    Raises:
        MissingSceneError, ReadError: see `Reader.read`.
    """
    asset = asset_of(item, key)
    loaded = odc.stac.load(
        [_pystac_item(item, asset, geobox)],
        bands=[key],
        geobox=geobox,
        dtype=dtype,
        nodata=0,
        groupby="id",
        fail_on_error=True,
        driver=ExactDriver(reader, asset, options),
    )
    pixels: NDArray[Any] = loaded[key].to_numpy()[0]
    return pixels.astype(np.dtype(dtype), copy=False)


@lru_cache(maxsize=8)
def _box(geobox: GeoBox) -> tuple[float, float, float, float]:
    """Return (west, south, east, north) in degrees, slightly larger than the grid."""
    box = geobox.geographic_extent.boundingbox
    return (
        max(-180.0, box.left - FOOTPRINT_MARGIN),
        max(-90.0, box.bottom - FOOTPRINT_MARGIN),
        min(180.0, box.right + FOOTPRINT_MARGIN),
        min(90.0, box.top + FOOTPRINT_MARGIN),
    )


def _pystac_item(item: SourceItem, asset: Asset, geobox: GeoBox) -> pystac.Item:
    """Return a minimal STAC item with one asset for odc-stac.

    Its footprint is a box around the grid: published footprints are simplified, and odc-stac
    would drop pixels outside them, differently for each block. Media type and role are set,
    because odc-stac ignores assets marked as metadata. The georeferencing is that of the file.
    """
    box = _box(geobox)
    result = pystac.Item(
        id=item.id,
        geometry=shapely.geometry.mapping(shapely.box(*box)),
        bbox=list(box),
        datetime=datetime.datetime.combine(item.date, datetime.time(), datetime.UTC),
        properties={},
        collection=item.stac.get("collection"),
    )
    result.add_asset(
        asset.key, pystac.Asset(asset.href, media_type=pystac.MediaType.COG, roles=["data"])
    )
    return result
