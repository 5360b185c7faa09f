"""Convert a STAC document to an item of the manifest, before selection."""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyproj
from odc.geo.geobox import GeoBox

from ..archives.boa_offset import declared_offset
from ..archives.sentinel2_names import observation_day, sensing_start
from ..dates import utc_date
from ..urls import public_href
from .area import bounds_of_degrees
from .copies import footprint
from .manifest import SourceItem

_KEPT_PROPERTIES = (
    "datetime", "earthsearch:boa_offset_applied", "earthsearch:s3_path", "eo:cloud_cover",
    "grid:code", "mgrs:grid_square", "mgrs:latitude_band", "mgrs:utm_zone", "platform",
    "s2:datastrip_id", "s2:datatake_id", "s2:generation_time", "s2:granule_id", "s2:mgrs_tile",
    "s2:nodata_pixel_percentage", "s2:processing_baseline", "s2:product_uri", "s2:tile_id",
    "sar:polarizations", "sat:orbit_state",
)  # fmt: skip


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
        KeyError, TypeError, ValueError, pyproj.exceptions.CRSError: the item is invalid.
    """
    properties = document["properties"]
    stamp = properties.get("datetime")
    day = datetime.date.min
    if stamp:
        day = observation_day(document) if is_optical else utc_date(stamp)
    extent = _extent(document, geobox)
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
    return {
        "id": document["id"],
        "collection": document.get("collection"),
        "properties": {k: properties[k] for k in _KEPT_PROPERTIES if k in properties},
        "assets": {
            key: {"href": public_href(asset["href"]), **_stated_offset(asset)}
            for key, asset in document.get("assets", {}).items()
            if key in asset_keys
        },
    }


def _stated_offset(asset: Mapping[str, Any]) -> dict[str, float]:
    offset = declared_offset(asset)
    return {} if offset is None else {"raster:offset": offset}


def _extent(
    document: Mapping[str, Any], geobox: GeoBox
) -> tuple[float, float, float, float] | None:
    """Return the bounds of the raster of an item in the CRS of `geobox`, with a margin.

    They are exact from the projection extension. Without it, the footprint in degrees is used,
    which can be simplified. None if both are missing.
    """
    properties = document["properties"]
    holders = [*document.get("assets", {}).values(), properties]
    native: tuple[float, ...] | None = None
    code: Any = None
    for holder in holders:
        code = holder.get("proj:code") or holder.get("proj:epsg")
        code = code or properties.get("proj:code") or properties.get("proj:epsg")
        shape, transform = holder.get("proj:shape"), holder.get("proj:transform")
        if code and shape and transform:
            a, _, left, _, e, top = transform[:6]
            native = (left, top + e * shape[0], left + a * shape[1], top)
            break
        if code and holder.get("proj:bbox"):
            native = tuple(holder["proj:bbox"])
            break
    if native is not None:
        source = f"EPSG:{code}" if isinstance(code, int) else str(code)
        target = str(geobox.crs)
        if source.upper() != target.upper():
            native = _transformer(source, target).transform_bounds(*four(native), densify_pts=21)
        if not all(math.isfinite(v) for v in native):
            native = None  # far from the region
    if native is None:
        native = bounds_of_degrees(document, geobox)
    if native is None:
        return None
    margin = 2 * abs(geobox.affine.a) + 60.0
    left, bottom, right, top = native
    return (left - margin, bottom - margin, right + margin, top + margin)


@functools.cache
def _transformer(source: str, target: str) -> pyproj.Transformer:
    """Return a cached transformer: a search has thousands of items in two or three zones."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def four(values: Iterable[float]) -> tuple[float, float, float, float]:
    """Return four numbers as (left, bottom, right, top)."""
    left, bottom, right, top = values
    return left, bottom, right, top
