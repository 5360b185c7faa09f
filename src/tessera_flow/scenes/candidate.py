"""Convert a STAC document to an item of the manifest, before selection."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from odc.geo.geobox import GeoBox

from ..archives.boa_offset import declared_offset
from ..archives.sentinel2_names import observation_day, sensing_start
from ..dates import utc_date
from ..urls import public_href
from .copies import footprint
from .extent import raster_extent
from .item_assets import check_radar, stated_band, used_assets
from .manifest import SourceItem

_KEPT_PROPERTIES = (
    "datetime", "earthsearch:boa_offset_applied", "earthsearch:s3_path", "eo:cloud_cover",
    "grid:code", "mgrs:grid_square", "mgrs:latitude_band", "mgrs:utm_zone", "platform",
    "s2:datastrip_id", "s2:datatake_id", "s2:generation_time", "s2:granule_id", "s2:mgrs_tile",
    "s2:nodata_pixel_percentage", "s2:processing_baseline", "s2:product_uri", "s2:tile_id",
    "sar:polarizations", "sat:orbit_state",
)  # fmt: skip


NAMED_ASSETS = 8
"""Keys that the reason names if an asset is not there."""


def source_item(
    document: Mapping[str, Any], geobox: GeoBox, asset_keys: set[str], is_optical: bool
) -> SourceItem:
    """Return the item of a STAC document before selection: `boa_offset` is 0.

    Args:
        document: STAC item with absolute asset URLs.
        geobox: grid of the region.
        asset_keys: keys of the assets to keep.
        is_optical: whether it is an item of Sentinel-2.

    Raises:
        ItemError: it is radar that is not gamma0 in linear power.
        KeyError, TypeError, ValueError, pyproj.exceptions.CRSError: the item is invalid.
    """
    properties = document["properties"]
    if not is_optical:
        check_radar(document, asset_keys)
    stamp = properties.get("datetime")
    day = datetime.date.min
    if stamp:
        day = observation_day(document) if is_optical else utc_date(stamp)
    extent = raster_extent(document, used_assets(document, asset_keys).values(), geobox)
    stac = _reduced(document, asset_keys)
    if is_optical and sensing_start(stac) is None:
        stac["footprint"] = footprint(document, str(geobox.crs), extent)
    return SourceItem(
        id=document["id"],
        date=day,
        extent=extent,
        boa_offset=0,
        orbit=str(properties.get("sat:orbit_state") or "").lower() or None,
        stac=stac,
    )


def _reduced(document: Mapping[str, Any], asset_keys: set[str]) -> dict[str, Any]:
    properties = document["properties"]
    unused = [key for key in document.get("assets") or {} if key not in asset_keys]
    return {
        "id": document["id"],
        "unused_assets": unused[:NAMED_ASSETS],
        "collection": document.get("collection"),
        "properties": {k: properties[k] for k in _KEPT_PROPERTIES if k in properties},
        "assets": {
            key: {
                "href": public_href(asset["href"]),
                **_stated_offset(asset),
                **stated_band(key, asset),
            }
            for key, asset in used_assets(document, asset_keys).items()
        },
    }


def _stated_offset(asset: Mapping[str, Any]) -> dict[str, float]:
    offset = declared_offset(asset)
    return {} if offset is None else {"raster:offset": offset}
