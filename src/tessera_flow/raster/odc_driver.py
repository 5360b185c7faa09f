"""Put assets of a STAC item that were read onto a grid, with odc-stac."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import odc.stac
import pystac
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.loader import RioDriver

from ..scenes.manifest import SourceItem
from .reader import Asset
from .resample import PlacedPixels

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"


class _Source:
    """odc-loader's interface to one asset."""

    def __init__(self, driver: PlacedDriver, number: int) -> None:
        self._driver, self._number = driver, number

    def read(
        self, cfg: Any, dst_geobox: GeoBox, *, dst: Any = None, selection: Any = None
    ) -> tuple[tuple[slice, slice], Any]:
        return self._driver.part(self._number, dst_geobox)


class PlacedDriver(RioDriver):
    """odc-loader driver for assets that `Reader.read` has read, exactly, on a grid."""

    def __init__(self, placed: Sequence[PlacedPixels], geobox: GeoBox) -> None:
        super().__init__()
        self._placed = dict(enumerate(placed))
        self._geobox = geobox

    def part(self, number: int, target: GeoBox) -> PlacedPixels:
        """Return an asset on a tile of the grid: odc-loader divides grids of more than 2048 pixels.

        An asset is forgotten when all of it was asked for, so that few images are in memory twice.
        """
        if target.shape == self._geobox.shape:
            return self._placed.pop(number)
        (rows, columns), pixels = self._placed[number]
        column, row = (round(v) for v in ~self._geobox.affine @ (target.affine @ (0, 0)))
        inner, within = zip(
            _common(rows, row, target.height), _common(columns, column, target.width), strict=True
        )
        return (inner[0], inner[1]), pixels[within]

    def capture_env(self) -> dict[str, Any]:
        """Return no GDAL options: nothing is read."""
        return {}

    def open(self, src: Any, ctx: Any) -> Any:
        """Return the pixels of the asset."""
        return _Source(self, int(src.uri.removeprefix("/")))


def _common(part: slice, first: int, size: int) -> tuple[slice, slice]:
    """Return what a part of an axis shares with `size` pixels from `first`: the place in these
    pixels, and that in the part."""
    start = max(part.start, first)
    stop = max(start, min(part.stop, first + size))
    return slice(start - first, stop - first), slice(start - part.start, stop - part.start)


def asset_of(item: SourceItem, key: str) -> Asset:
    """Return one asset of an item."""
    stated = item.stac["assets"][key]
    return Asset(item.id, key, stated["href"], stated.get("band"))


def on_grid(
    item: SourceItem, keys: Sequence[str], placed: list[PlacedPixels], dtype: str, geobox: GeoBox
) -> list[NDArray[Any]]:
    """Return assets of an item on a grid: (H, W) of `dtype` each, 0 for no data.

    Args:
        item: the item.
        keys: of its assets.
        placed: what `Reader.read` returned for each asset; emptied.
        dtype: of the pixels.
        geobox: the grid.
    """
    driver = PlacedDriver(placed, geobox)
    placed.clear()
    loaded = odc.stac.load(
        [_pystac_item(item, keys, geobox)],
        bands=[*keys],
        geobox=geobox,
        dtype=dtype,
        nodata=0,
        groupby="id",
        fail_on_error=True,
        chunks=None,
        driver=driver,
    )
    images = [loaded[key].to_numpy()[0] for key in keys]
    return [image.astype(np.dtype(dtype), copy=False) for image in images]


@lru_cache(maxsize=8)
def _as_projection(geobox: GeoBox) -> dict[str, Any]:
    """Return a grid as fields of STAC's projection extension."""
    crs = geobox.crs
    assert crs is not None  # a region has one
    code = {"proj:wkt2": crs.to_wkt()} if crs.epsg is None else {"proj:code": f"EPSG:{crs.epsg}"}
    return code | {"proj:shape": [*geobox.shape], "proj:transform": [*geobox.affine][:6]}


def _pystac_item(item: SourceItem, keys: Sequence[str], geobox: GeoBox) -> pystac.Item:
    """Return a minimal STAC item for odc-stac, whose assets have their number as the path.

    It states that its rasters are the grid: published footprints are simplified, and odc-stac would
    drop pixels outside them, differently for each block. Media type and role are set, because
    odc-stac ignores assets marked as metadata.
    """
    result = pystac.Item(
        id=item.id,
        geometry=None,
        bbox=None,
        datetime=datetime.datetime.combine(item.date, datetime.time(), datetime.UTC),
        properties={},
        stac_extensions=[PROJECTION],
        collection=item.stac.get("collection"),
    )
    for number, key in enumerate(keys):
        asset = pystac.Asset(
            f"/{number}",
            media_type=pystac.MediaType.COG,
            roles=["data"],
            extra_fields=_as_projection(geobox),
        )
        result.add_asset(key, asset)
    return result
