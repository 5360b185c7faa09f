"""Search the source items of a region, period and sensor, once, and build the manifest.

The manifest contains the items in the order in which they fill the mosaic of a day, with unsigned
URLs, and the items left out with the reason.
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyproj
from odc.geo.geobox import GeoBox

from ..archives.provider import Provider
from ..archives.providers import find_provider
from ..archives.stac import search_items
from ..config.sections import Download, Period, Sentinel1, Sentinel2
from ..dates import utc_date, utc_today
from ..errors import ItemError
from ..sensors.sentinel2 import Preprocessing
from ..urls import absolute_location, public_href
from .coverage import coverage_warnings, reasons
from .manifest import Manifest, SourceItem
from .publication import TITLES
from .select import NO_DIRECTION, select_sentinel1, select_sentinel2

__all__ = ["Manifest", "SourceItem", "list_items", "search_box"]

log = logging.getLogger(__name__)

SEARCH_MARGIN = 0.01
"""Degrees added around the region in a search, because footprints of items are approximate."""

_KEPT_PROPERTIES = (
    "datetime", "earthsearch:boa_offset_applied", "earthsearch:s3_path", "eo:cloud_cover",
    "grid:code", "mgrs:grid_square", "mgrs:latitude_band", "mgrs:utm_zone", "platform",
    "s2:datatake_id", "s2:generation_time", "s2:mgrs_tile", "s2:processing_baseline",
    "s2:product_uri", "sar:polarizations", "sat:orbit_state",
)  # fmt: skip


def list_items(
    source: Sentinel2 | Sentinel1,
    region: str,
    geobox: GeoBox,
    period: Period,
    preprocessing: Preprocessing,
    download: Download,
    required: str = "",
    today: datetime.date | None = None,
) -> Manifest:
    """Search a source and return the manifest of a region and period.

    Args:
        source: section of the sensor in the configuration.
        region: name of the region, for messages.
        geobox: grid of the region.
        period: first and last day, both inclusive.
        preprocessing: `corrected` or `as_published`; determines the BOA offset of items.
        download: timeout and number of attempts of each request.
        required: why the run needs a scene of this sensor; empty if it does not, so that an empty
            list has a warning.
        today: day of the search (UTC); default: the present day.

    Raises:
        ItemError: the source cannot be searched, or has no scene for this region and period,
            although one is required.
    """
    sensor, orbits = source.sensor, "both"
    provider = find_provider(source.provider, source.item_format)
    location = absolute_location(source.location or provider.endpoint)
    collection = source.collection or provider.collection(source.provider, sensor)
    query = (location, collection, search_box(geobox), period, download)
    if isinstance(source, Sentinel1):
        orbits = source.orbits
    documents = (
        search_items(*query) if source.provider == "local" else provider.search(*query, orbits)
    )
    result = _candidates(documents, collection, geobox, period, provider)
    candidates = list(result.candidates.values())
    if isinstance(source, Sentinel2):
        items, left_out = select_sentinel2(candidates, provider, preprocessing, source.max_cloud)
    else:
        items, left_out = select_sentinel1(candidates, provider, source.orbits)
    left_out = sorted([*left_out, *result.undated.items()])
    today = today or utc_today()
    undirected = [id_ for id_, reason in left_out if reason.startswith(NO_DIRECTION)]
    if not items and undirected:
        raise ItemError(
            f"No {TITLES[sensor]} scene of collection {collection} of {public_href(location)} can "
            f"be used: {len(undirected)} of {len(left_out)} state no orbit direction, the first is "
            f"{undirected[0]}: add `sat:orbit_state` (ascending or descending) to the items."
        )
    if not items and required:
        where = f"in collection {collection} of {public_href(location)}"
        raise ItemError(
            f"{_no_scene(sensor, region, geobox, period, where, left_out)} "
            f"({result.elsewhere_text(period, today)}), but {required}."
        )
    log.info("%d %s scenes; %d left out", len(items), sensor, len(left_out))
    warnings = coverage_warnings(
        sensor, items, left_out, collection, result.elsewhere_text(period, today), period, orbits,
        source.publication_delay, today,
    )  # fmt: skip
    for warning in warnings:
        log.warning("%s", warning)
    return Manifest(sensor, tuple(items), tuple(left_out), warnings=tuple(warnings))


def _no_scene(
    sensor: str,
    region: str,
    geobox: GeoBox,
    period: Period,
    where: str,
    left_out: list[tuple[str, str]],
) -> str:
    """Return the beginning of the error that a required sensor has no scene."""
    bounds = ", ".join(f"{v:.3f}" for v in search_box(geobox))
    verb = f"can be used, since all {len(left_out)} were left out ({reasons(left_out)}), for"
    return (
        f"No {TITLES[sensor]} scene {verb if left_out else 'covers'} region {region} (longitude "
        f"and latitude {bounds}) from {period.start} to {period.end} {where}"
    )


def search_box(geobox: GeoBox) -> tuple[float, float, float, float]:
    """Return (west, south, east, north) of a grid in degrees, with a margin."""
    west, south, east, north = pyproj.Transformer.from_crs(
        str(geobox.crs), "EPSG:4326", always_xy=True
    ).transform_bounds(*_bounds(geobox.boundingbox), densify_pts=21)
    return (
        max(-180.0, west - SEARCH_MARGIN),
        max(-90.0, south - SEARCH_MARGIN),
        min(180.0, east + SEARCH_MARGIN),
        min(90.0, north + SEARCH_MARGIN),
    )


@dataclass
class _SearchResult:
    """Items of a search.

    Attributes:
        candidates: items of the region and period by id.
        undated: reason by id of items without a datetime.
        elsewhere: number of items outside the region or the period.
        other_collections: number of items of other collections.
    """

    candidates: dict[str, SourceItem] = field(default_factory=dict)
    undated: dict[str, str] = field(default_factory=dict)
    elsewhere: int = 0
    other_collections: int = 0

    def elsewhere_text(self, period: Period, today: datetime.date) -> str:
        """Return what the search found besides scenes of the region and period."""
        text = f"{self.elsewhere} items of the search are outside the region or the period"
        if self.other_collections:
            text += f"; {self.other_collections} are of other collections"
        if period.start > today:
            text += "; the period is in the future"
        return text

    def add(self, item: SourceItem) -> None:
        """Add an item once per id; of two documents, the choice does not depend on their order."""
        known = self.candidates.get(item.id)
        if known is None or json.dumps(known.to_json()) < json.dumps(item.to_json()):
            self.candidates[item.id] = item


def _candidates(
    documents: Iterable[dict[str, Any]],
    collection: str,
    geobox: GeoBox,
    period: Period,
    provider: Provider,
) -> _SearchResult:
    """Classify items by collection, region and period; each id is counted once."""
    result = _SearchResult()
    asset_keys = {*provider.s2_assets.values(), *provider.s1_assets.values()}
    for document in documents:
        if document.get("collection") != collection:
            result.other_collections += 1
            continue
        try:
            item = _candidate(document, geobox, asset_keys)
            day = item.date
            if not item.stac["properties"].get("datetime"):
                result.undated[item.id] = "has no datetime, so its day is unknown"
            elif period.start <= day <= period.end and item.overlaps(geobox):
                result.add(item)
            else:
                result.elsewhere += 1
        except (KeyError, TypeError, ValueError, pyproj.exceptions.CRSError) as error:
            raise ItemError(
                f"Item {document.get('id')} of collection {collection} is not a valid STAC item "
                f"({type(error).__name__}: {str(error).splitlines()[0]}): fix or remove it."
            ) from error
    return result


def _candidate(document: Mapping[str, Any], geobox: GeoBox, asset_keys: set[str]) -> SourceItem:
    properties = document["properties"]
    stamp = properties.get("datetime")
    return SourceItem(
        id=document["id"],
        date=utc_date(stamp) if stamp else datetime.date.min,
        extent=_extent(document, geobox),
        boa_offset=0,
        orbit=str(properties.get("sat:orbit_state") or "").lower() or None,
        stac=_reduced(document, asset_keys),
    )


def _reduced(document: Mapping[str, Any], asset_keys: set[str]) -> dict[str, Any]:
    properties = document["properties"]
    return {
        "id": document["id"],
        "collection": document.get("collection"),
        "properties": {k: properties[k] for k in _KEPT_PROPERTIES if k in properties},
        "assets": {
            key: {"href": public_href(asset["href"])}
            for key, asset in document.get("assets", {}).items()
            if key in asset_keys
        },
    }


def _extent(
    document: Mapping[str, Any], geobox: GeoBox
) -> tuple[float, float, float, float] | None:
    """Return the bounds of the raster of an item in the CRS of `geobox`, with a margin.

    They are exact from the projection extension. Without it, the bounding box in degrees is used,
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
    if native is None:
        box = document.get("bbox")
        if not box:
            return None
        middle = len(box) // 2  # a box in three dimensions has six numbers
        code, native = 4326, (box[0], box[1], box[middle], box[middle + 1])
    source = f"EPSG:{code}" if isinstance(code, int) else str(code)
    target = str(geobox.crs)
    if source.upper() != target.upper():
        native = _transformer(source, target).transform_bounds(*_bounds(native), densify_pts=21)
    if not all(math.isfinite(v) for v in native):
        return None
    margin = 2 * abs(geobox.affine.a) + 60.0
    left, bottom, right, top = native
    return (left - margin, bottom - margin, right + margin, top + margin)


@functools.cache
def _transformer(source: str, target: str) -> pyproj.Transformer:
    """Return a cached transformer: a search has thousands of items in two or three zones."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def _bounds(values: Iterable[float]) -> tuple[float, float, float, float]:
    left, bottom, right, top = values
    return left, bottom, right, top
