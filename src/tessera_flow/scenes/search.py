"""Search the source items of a region, period and sensor, once, and build the manifest.

The manifest contains the items in the order in which they fill the mosaic of a day, with unsigned
URLs, and the items left out with the reason.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyproj
from odc.geo.geobox import GeoBox

from ..archives.places import Places
from ..archives.provider import Provider
from ..archives.providers import find_provider
from ..archives.stac import search_items
from ..config.path_text import url_with_variables
from ..config.sections import Download, Period, Sentinel1, Sentinel2
from ..dates import utc_today
from ..errors import ConfigError, ItemError
from ..sensors.sentinel2 import Preprocessing
from ..urls import absolute_location, public_href
from .area import search_boxes
from .candidate import source_item
from .copies import Sample
from .coverage import coverage_warnings, reasons
from .item_assets import (
    all_asset_keys,
    check_places,
    exclusion_warnings,
    used_assets,
    without_paid,
)
from .manifest import Manifest, SourceItem
from .publication import TITLES
from .select import NO_DIRECTION, OffsetSettings, select_sentinel1, select_sentinel2

__all__ = ["Manifest", "SourceItem", "list_items", "search_boxes"]

log = logging.getLogger(__name__)

OTHER_COLLECTION = "is of collection"


def list_items(
    source: Sentinel2 | Sentinel1,
    region: str,
    geobox: GeoBox,
    period: Period,
    preprocessing: Preprocessing,
    download: Download,
    required: str = "",
    today: datetime.date | None = None,
    sample: Sample | None = None,
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
        sample: reads pixels of Sentinel-2 items whose metadata contradict each other; None to use
            the metadata alone.

    Raises:
        ItemError: the source cannot be searched, or has no scene for this region and period,
            although one is required.
        ReadError: pixels that are needed cannot be read now.
    """
    sensor, orbits = source.sensor, "both"
    provider = find_provider(source.provider, source.item_format)
    location = _location(source, provider)
    collection = source.collection or provider.collection(source.provider, sensor)
    query = (location, collection, search_boxes(geobox), _search_period(sensor, period), download)
    places = Places(location, source.asset_folders)
    warnings: list[str] = []
    if isinstance(source, Sentinel1):
        orbits = source.orbits
    assets = all_asset_keys({*provider.s2_assets.values(), *provider.s1_assets.values()})
    documents = (
        search_items(*query, assets, places)
        if source.provider == "local"
        else provider.search(*query, orbits, places)
    )
    result = _candidates(documents, collection, geobox, period, provider, source)
    candidates, not_read = without_paid(result.items())
    not_read += [(id_, f"excluded by {sensor}.exclude") for id_ in sorted(result.excluded)]
    if isinstance(source, Sentinel2):
        offsets = OffsetSettings(preprocessing, source.boa_offset, sample, download.threads)
        items, left_out, warnings = select_sentinel2(
            candidates, provider, offsets, source.max_cloud
        )
    else:
        items, left_out = select_sentinel1(candidates, provider, source.orbits)
    left_out = sorted([*left_out, *not_read, *result.undated.items()])
    warnings += exclusion_warnings(source, result.excluded)
    today = today or utc_today()
    where = f"in collection {collection} of {public_href(location)}"
    if not items:
        _refuse_without_directions(left_out, where)
    if not items and required:
        raise ItemError(
            f"{_no_scene(sensor, region, geobox, period, where, left_out)} "
            f"({result.elsewhere_text(period, today)}), but {required}."
        )
    log.info(
        "%d %s scenes; %d left out; %d outside the region, the period or the collection",
        len(items), sensor, len(left_out), len(result.outside),
    )  # fmt: skip
    warnings += coverage_warnings(
        sensor, items, left_out, collection, result.elsewhere_text(period, today), period, orbits,
        source.publication_delay, today,
    )  # fmt: skip
    for warning in warnings:
        log.warning("%s", warning)
    outside = tuple(sorted(result.outside))
    return Manifest(sensor, tuple(items), tuple(left_out), tuple(warnings), outside)


def _location(source: Sentinel2 | Sentinel1, provider: Provider) -> str:
    """Return the URL, with its secrets, or the absolute path of an archive."""
    try:
        return absolute_location(url_with_variables(source.location or provider.endpoint))
    except ValueError as error:
        raise ConfigError(
            f"{source.sensor}.location needs a variable, but {error}: set it before the run."
        ) from None


def _search_period(sensor: str, period: Period) -> Period:
    """Return the days to search. For Sentinel-2 one more: an item of a datatake that starts on the
    last day can have a time after midnight."""
    if sensor != "sentinel2":
        return period
    return period.model_copy(update={"end": period.end + datetime.timedelta(days=1)})


def _refuse_without_directions(left_out: list[tuple[str, str]], where: str) -> None:
    """Raise an error if Sentinel-1 is lost by items that state no direction."""
    undirected = [id_ for id_, reason in left_out if reason.startswith(NO_DIRECTION)]
    if undirected:
        raise ItemError(
            f"No Sentinel-1 scene {where} can be used: {len(undirected)} of {len(left_out)} state "
            f"no orbit direction, the first is {undirected[0]}: add `sat:orbit_state` (ascending "
            "or descending) to the items."
        )


def _no_scene(
    sensor: str,
    region: str,
    geobox: GeoBox,
    period: Period,
    where: str,
    left_out: list[tuple[str, str]],
) -> str:
    """Return the beginning of the error that a required sensor has no scene."""
    bounds = " and ".join(", ".join(f"{v:.3f}" for v in box) for box in search_boxes(geobox))
    verb = f"can be used, since all {len(left_out)} were left out ({reasons(left_out)}), for"
    return (
        f"No {TITLES[sensor]} scene {verb if left_out else 'covers'} region {region} (longitude "
        f"and latitude {bounds}) from {period.start} to {period.end} {where}"
    )


@dataclass
class _SearchResult:
    """Items of a search. Each one is in exactly one of the attributes.

    Attributes:
        candidates: items of the region and period by id, with `updated` of their documents. Items
            with other files under one id are different scenes.
        undated: reason by id of items without a datetime.
        outside: reason by id of items of other regions, periods and collections.
        excluded: ids that the configuration excludes.
    """

    candidates: dict[str, list[tuple[str, SourceItem]]] = field(default_factory=dict)
    undated: dict[str, str] = field(default_factory=dict)
    outside: dict[tuple[str, str], None] = field(default_factory=dict)
    excluded: set[str] = field(default_factory=set)

    def items(self) -> list[SourceItem]:
        """Return the items of the region and period."""
        return [item for known in self.candidates.values() for _, item in known]

    def elsewhere_text(self, period: Period, today: datetime.date) -> str:
        """Return what the search found besides scenes of the region and period."""
        others = [r for _, r in self.outside if r.startswith(OTHER_COLLECTION)]
        elsewhere = len(self.outside) - len(others)
        text = f"{elsewhere} items of the search are outside the region or the period"
        if others:
            text += f"; {len(others)} are of other collections (the first {others[0]})"
        if period.start > today:
            text += "; the period is in the future"
        return text

    def add(self, item: SourceItem, updated: str) -> None:
        """Add an item, unless the same document was added before.

        An item that an archive updates during the search can be returned in both versions. The
        later one is used.

        Raises:
            ItemError: items with the same id and files have another time or position.
        """
        known = self.candidates.setdefault(item.id, [])
        for index, (other_updated, other) in enumerate(known):
            if item == other:
                return
            if _hrefs(item) != _hrefs(other):
                continue
            if _place(item) != _place(other):
                raise ItemError(
                    f"Two items have the id {item.id} and the same files, but different times or "
                    f"positions ({_place(other)[0]} and {_place(item)[0]}): fix or remove one."
                )
            known[index] = max(
                (other_updated, other), (updated, item), key=lambda pair: (pair[0], _text(pair[1]))
            )
            return
        known.append((updated, item))


def _hrefs(item: SourceItem) -> dict[str, str]:
    return {key: asset["href"] for key, asset in item.stac["assets"].items()}


def _place(item: SourceItem) -> tuple[Any, ...]:
    return item.stac["properties"].get("datetime"), item.extent


def _text(item: SourceItem) -> str:
    return json.dumps(item.to_json(), sort_keys=True)


def _candidates(
    documents: Iterable[dict[str, Any]],
    collection: str,
    geobox: GeoBox,
    period: Period,
    provider: Provider,
    source: Sentinel2 | Sentinel1,
) -> _SearchResult:
    """Classify items by collection, region and period.

    Items without a collection, as made from product folders, are used if they have assets of the
    sensor.
    """
    result = _SearchResult()
    asset_keys = {*provider.s2_assets.values(), *provider.s1_assets.values()}
    is_optical = isinstance(source, Sentinel2)
    own_keys = set((provider.s2_assets if is_optical else provider.s1_assets).values())
    for document in documents:
        stated = document.get("collection")
        if stated != collection and (stated or not used_assets(document, own_keys)):
            reason = f"{OTHER_COLLECTION} {stated}, not {collection}"
            result.outside[str(document.get("id")), reason] = None
            continue
        if document.get("id") in source.exclude:
            result.excluded.add(document["id"])
            continue
        try:
            item = source_item(document, geobox, asset_keys, is_optical)
            if not item.stac["properties"].get("datetime"):
                result.undated[item.id] = "has no datetime, so its day is unknown"
            elif not period.start <= item.date <= period.end:
                result.outside[item.id, f"its day {item.date} is outside the period"] = None
            elif not item.overlaps(geobox):
                result.outside[item.id, "its footprint does not reach the region"] = None
            else:
                check_places(document, asset_keys)
                result.add(item, str(document["properties"].get("updated") or ""))
        except (
            LookupError, TypeError, ValueError, AttributeError, pyproj.exceptions.ProjError
        ) as error:  # fmt: skip
            raise ItemError(
                f"Item {document.get('id')} of collection {collection} is not a valid STAC item "
                f"({type(error).__name__}: {str(error).splitlines()[0]}): fix or remove it."
            ) from error
    return result
