"""Assets of STAC items as arrays on a grid: odc-stac, with a driver that reads exactly."""

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
from .reader import AssetAddress, Reader
from .resample import ReadOptions

FOOTPRINT_MARGIN = 0.1
"""Degrees around the grid; odc-stac must never find that an asset misses a part of it."""


class _Source:
    """One asset, as odc-stac asks for it."""

    def __init__(self, driver: ExactDriver) -> None:
        self._driver = driver

    def read(
        self, cfg: Any, dst_geobox: GeoBox, *, dst: Any = None, selection: Any = None
    ) -> tuple[tuple[slice, slice], Any]:
        driver = self._driver
        part, pixels = driver.reader.read(driver.asset, dst_geobox, cfg.dtype, driver.options)
        if dst is None:
            return part, pixels
        dst[part] = pixels
        return part, dst[part]


class ExactDriver(RioDriver):
    """odc-loader's driver of one asset: `Reader.read` in place of GDAL's own HTTP and warp."""

    def __init__(self, reader: Reader, asset: AssetAddress, options: ReadOptions) -> None:
        super().__init__()
        self.reader = reader
        self.asset = asset
        self.options = options

    def capture_env(self) -> dict[str, Any]:
        """None: the reader sets what it needs."""
        return {}

    def open(self, src: Any, ctx: Any) -> Any:
        """What reads the asset."""
        return _Source(self)


def load_asset(
    reader: Reader, item: SourceItem, key: str, dtype: str, geobox: GeoBox, options: ReadOptions
) -> NDArray[Any]:
    """One asset of one item on a grid, (H, W) of `dtype`; 0 where there is no data.

    Raises:
        MissingSceneError, ReadError: see `Reader.read`.
    """
    asset = AssetAddress(item.id, key, item.stac["assets"][key]["href"])
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
    """(west, south, east, north) in degrees, a little larger than the grid."""
    box = geobox.geographic_extent.boundingbox
    return (
        max(-180.0, box.left - FOOTPRINT_MARGIN),
        max(-90.0, box.bottom - FOOTPRINT_MARGIN),
        min(180.0, box.right + FOOTPRINT_MARGIN),
        min(90.0, box.top + FOOTPRINT_MARGIN),
    )


def _pystac_item(item: SourceItem, asset: AssetAddress, geobox: GeoBox) -> pystac.Item:
    """The item for odc-stac: what to open, and nothing to plan by.

    A box around the grid serves as footprint: published ones are simplified, and odc-stac
    would leave out pixels beyond them, differently for each block. Type and role are set,
    since odc-stac passes over assets that others mark as metadata; the file says for itself
    where it lies.
    """
    box = _box(geobox)
    found = pystac.Item(
        id=item.id,
        geometry=shapely.geometry.mapping(shapely.box(*box)),
        bbox=list(box),
        datetime=datetime.datetime.combine(item.date, datetime.time(), datetime.UTC),
        properties={},
        collection=item.stac["collection"],
    )
    found.add_asset(
        asset.key, pystac.Asset(asset.href, media_type=pystac.MediaType.COG, roles=["data"])
    )
    return found
