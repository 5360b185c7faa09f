"""The list of source items: searched once per region, period and sensor, then fixed.

The manifest keeps the items in the order in which they fill a day, without signed
addresses, and every item left out with its reason.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyproj
from odc.geo.geobox import GeoBox

from .atomic import write_text
from .catalogs import search_items
from .config import Download, Period, Sentinel1, Sentinel2
from .dates import utc_date
from .errors import ItemError
from .hrefs import absolute_location, public_href
from .providers import Mpc, processing_baseline, provider
from .sentinel1 import CHANNELS, ORBITS
from .sentinel2 import BANDS, SCL, Arithmetic

SEARCH_MARGIN = 0.01
"""Degrees added around the region when searching: footprints in items are approximate."""

_KEPT_PROPERTIES = (
    "datetime", "eo:cloud_cover", "platform", "s2:datatake_id", "s2:generation_time",
    "s2:mgrs_tile", "s2:processing_baseline", "s2:product_uri", "sat:orbit_state",
)  # fmt: skip


@dataclass(frozen=True)
class SourceItem:
    """One scene of a manifest.

    Attributes:
        id: STAC id.
        date: UTC day.
        extent: (left, bottom, right, top) of its raster in the region's CRS; None when it
            cannot be told, and then it counts as lying everywhere.
        boa_offset: Sentinel-2: what is subtracted from its digital numbers.
        orbit: Sentinel-1: `ascending` or `descending`.
        stac: the STAC item's id, collection, properties and assets, cut down to what choosing
            and reading need (every job reads the whole list); addresses unsigned.
        copies: other copies of the same photograph, in order of preference, for when an
            object of this one is missing or corrupt.
    """

    id: str
    date: datetime.date
    extent: tuple[float, float, float, float] | None
    boa_offset: int
    orbit: str | None
    stac: Mapping[str, Any]
    copies: tuple[SourceItem, ...] = ()

    def overlaps(self, geobox: GeoBox) -> bool:
        """Whether its raster may touch a grid in the region's CRS."""
        if self.extent is None:
            return True
        left, bottom, right, top = geobox.boundingbox
        west, south, east, north = self.extent
        return west < right and east > left and south < top and north > bottom

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that `from_json` reads back."""
        return {
            "id": self.id,
            "date": self.date.isoformat(),
            "extent": None if self.extent is None else list(self.extent),
            "boa_offset": self.boa_offset,
            "orbit": self.orbit,
            "stac": self.stac,
            **({"copies": [copy.to_json() for copy in self.copies]} if self.copies else {}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SourceItem:
        """Read what `to_json` wrote."""
        extent = document["extent"]
        return cls(
            id=document["id"],
            date=datetime.date.fromisoformat(document["date"]),
            extent=None if extent is None else tuple(extent),
            boa_offset=document["boa_offset"],
            orbit=document["orbit"],
            stac=document["stac"],
            copies=tuple(cls.from_json(copy) for copy in document.get("copies", ())),
        )


@dataclass(frozen=True)
class Manifest:
    """The items of one sensor for one region and period, in order, and those left out."""

    sensor: str
    items: tuple[SourceItem, ...]
    left_out: tuple[tuple[str, str], ...]

    def write(self, path: Path) -> None:
        """Write as JSON; the same search gives the same bytes."""
        document = {
            "sensor": self.sensor,
            "items": [item.to_json() for item in self.items],
            "left_out": [{"id": id_, "reason": reason} for id_, reason in self.left_out],
        }
        write_text(path, json.dumps(document, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read what `write` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            sensor=document["sensor"],
            items=tuple(SourceItem.from_json(item) for item in document["items"]),
            left_out=tuple((entry["id"], entry["reason"]) for entry in document["left_out"]),
        )


def list_items(
    source: Sentinel2 | Sentinel1,
    region: str,
    geobox: GeoBox,
    period: Period,
    arithmetic: Arithmetic,
    download: Download,
) -> Manifest:
    """Search a source and choose the items of a region and period.

    Raises:
        ItemError: the source cannot be searched, or has nothing for this region and period.
    """
    particulars = provider(source.provider, source.imitates)
    location = absolute_location(source.location or particulars.endpoint)
    box = search_box(geobox)
    documents = search_items(location, source.collection, box, period, download)
    found = _candidates(documents, source.collection, geobox, period, particulars)
    candidates = list(found.candidates.values())
    if isinstance(source, Sentinel2):
        sensor, title = "sentinel2", "Sentinel-2"
        items, left_out = choose_sentinel2(candidates, particulars, arithmetic, source.max_cloud)
    else:
        sensor, title = "sentinel1", "Sentinel-1"
        items, left_out = choose_sentinel1(candidates, particulars, source.orbits)
    left_out = sorted([*left_out, *found.undated.items()])
    if not items:
        raise _nothing_found(
            title, sensor, region, box, period, public_href(location), source.collection,
            found, left_out,
        )  # fmt: skip
    return Manifest(sensor, tuple(items), tuple(left_out))


def _nothing_found(
    title: str,
    sensor: str,
    region: str,
    box: tuple[float, ...],
    period: Period,
    where: str,
    collection: str,
    found: _Found,
    left_out: list[tuple[str, str]],
) -> ItemError:
    place = ", ".join(f"{v:.3f}" for v in box)
    hint = f"check the region, the period and `{sensor}.collection`"
    if sensor == "sentinel1":
        hint += ", or set `sentinel1.enabled: false` to use Sentinel-2 alone"
    seen = f"{found.elsewhere} items found there lie outside the region or the period"
    if found.other_collections:
        seen += f"; {found.other_collections} are of other collections"
    if left_out:
        reasons = sorted({reason for _, reason in left_out})
        seen += f"; {len(left_out)} were left out ({'; '.join(reasons[:3])})"
    return ItemError(
        f"No {title} scene covers region {region} (longitude and latitude {place}) from "
        f"{period.start} to {period.end} in collection {collection} of {where} ({seen}): {hint}."
    )


def search_box(geobox: GeoBox) -> tuple[float, float, float, float]:
    """(west, south, east, north) of a grid in degrees, with a margin."""
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
class _Found:
    """What a search gave: items of the region and period, and what else was seen."""

    candidates: dict[str, SourceItem] = field(default_factory=dict)
    undated: dict[str, str] = field(default_factory=dict)
    elsewhere: int = 0
    other_collections: int = 0


def _candidates(
    documents: Iterable[dict[str, Any]],
    collection: str,
    geobox: GeoBox,
    period: Period,
    particulars: Mpc,
) -> _Found:
    """Sort items by collection, region and period; each counts once."""
    found = _Found()
    wanted = {*particulars.s2_assets.values(), *particulars.s1_assets.values()}
    for document in documents:
        if document.get("collection") != collection:
            found.other_collections += 1
            continue
        try:
            item = _candidate(document, geobox, wanted)
            day = item.date
            if not item.stac["properties"].get("datetime"):
                found.undated[item.id] = "has no datetime, so its day is not known"
            elif period.start <= day <= period.end and item.overlaps(geobox):
                found.candidates[item.id] = item
            else:
                found.elsewhere += 1
        except (KeyError, TypeError, ValueError, pyproj.exceptions.CRSError) as error:
            raise ItemError(
                f"Item {document.get('id')} of collection {collection} is not a whole STAC item "
                f"({type(error).__name__}: {str(error).splitlines()[0]}): mend or remove it."
            ) from error
    return found


def _candidate(document: Mapping[str, Any], geobox: GeoBox, wanted: set[str]) -> SourceItem:
    properties = document["properties"]
    stamp = properties.get("datetime")
    return SourceItem(
        id=document["id"],
        date=utc_date(stamp) if stamp else datetime.date.min,
        extent=_extent(document, geobox),
        boa_offset=0,
        orbit=str(properties.get("sat:orbit_state") or "").lower() or None,
        stac=_trimmed(document, wanted),
    )


def _trimmed(document: Mapping[str, Any], wanted: set[str]) -> dict[str, Any]:
    properties = document["properties"]
    return {
        "id": document["id"],
        "collection": document.get("collection"),
        "properties": {k: properties[k] for k in _KEPT_PROPERTIES if k in properties},
        "assets": {
            key: {"href": public_href(asset["href"])}
            for key, asset in document.get("assets", {}).items()
            if key in wanted
        },
    }


def _extent(
    document: Mapping[str, Any], geobox: GeoBox
) -> tuple[float, float, float, float] | None:
    """Bounds of the item's raster in the CRS of `geobox`, with two pixels' margin.

    From the projection extension, which is exact; the footprint in degrees, which can be
    simplified, serves only where there is none.
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
        native = pyproj.Transformer.from_crs(source, target, always_xy=True).transform_bounds(
            *_bounds(native), densify_pts=21
        )
    if not all(math.isfinite(v) for v in native):
        return None
    margin = 2 * abs(geobox.affine.a) + 60.0
    left, bottom, right, top = native
    return (left - margin, bottom - margin, right + margin, top + margin)


def _bounds(values: Iterable[float]) -> tuple[float, float, float, float]:
    left, bottom, right, top = values
    return left, bottom, right, top


def _moment(item: SourceItem) -> datetime.datetime:
    stamp = datetime.datetime.fromisoformat(
        item.stac["properties"]["datetime"].replace("Z", "+00:00")
    )
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=datetime.UTC)


def choose_sentinel2(
    candidates: Iterable[SourceItem], particulars: Mpc, arithmetic: Arithmetic, max_cloud: float
) -> tuple[list[SourceItem], list[tuple[str, str]]]:
    """The Sentinel-2 items to use, in their order, and (id, reason) of those left out.

    Order: `datetime`, then `eo:cloud_cover` (missing = 100), then `id`. Of copies of one
    photograph (same datatake and MGRS tile) the one of the newest baseline stays.

    Raises:
        ItemError: an item does not tell its processing baseline.
    """
    left_out: list[tuple[str, str]] = []
    usable = []
    for item in candidates:
        missing = [
            key
            for band in (*BANDS, SCL)
            if (key := particulars.s2_assets[band]) not in item.stac["assets"]
        ]
        cloud = _cloud_cover(item)
        if missing:
            left_out.append((item.id, f"lists no asset {', '.join(missing)}"))
        elif max_cloud < 100 and cloud is not None and cloud > max_cloud:
            left_out.append((item.id, f"cloud cover {cloud} % is above max_cloud {max_cloud} %"))
        else:
            offset = particulars.boa_offset(item.stac, arithmetic)
            usable.append(SourceItem(item.id, item.date, item.extent, offset, None, item.stac))
    kept: dict[tuple[str, str], SourceItem] = {}
    for item in sorted(usable, key=_newness):
        photograph = _photograph(item)
        older = kept.get(photograph)
        if older:
            left_out.append((older.id, f"older copy of the photograph in {item.id}"))
        kept[photograph] = item
    return sorted(kept.values(), key=_sentinel2_order), sorted(left_out)


def _sentinel2_order(item: SourceItem) -> tuple[datetime.datetime, float, str]:
    cloud = _cloud_cover(item)
    return _moment(item), 100.0 if cloud is None else cloud, item.id


def _cloud_cover(item: SourceItem) -> float | None:
    """`eo:cloud_cover` in percent; None where it is missing or no number."""
    try:
        cloud = float(item.stac["properties"]["eo:cloud_cover"])
    except (KeyError, TypeError, ValueError):
        return None
    return cloud if math.isfinite(cloud) else None


def _newness(item: SourceItem) -> tuple[float, str, str]:
    try:
        baseline = processing_baseline(item.stac)
    except ItemError:
        baseline = 0.0
    return baseline, str(item.stac["properties"].get("s2:generation_time", "")), item.id


def _photograph(item: SourceItem) -> tuple[str, str]:
    """Datatake and MGRS tile; the datatake's own baseline suffix (`_N05.11`) is not part of
    it. Time stamps will not do: copies of one photograph differ by minutes."""
    properties = item.stac["properties"]
    datatake, tile = properties.get("s2:datatake_id"), properties.get("s2:mgrs_tile")
    if not datatake or not tile:
        return item.id, ""
    return re.sub(r"_N\d\d\.\d\d$", "", datatake), tile


def choose_sentinel1(
    candidates: Iterable[SourceItem], particulars: Mpc, orbits: str
) -> tuple[list[SourceItem], list[tuple[str, str]]]:
    """The Sentinel-1 items to use, ordered by `datetime`, then `id`, and those left out."""
    left_out: list[tuple[str, str]] = []
    kept = []
    for item in candidates:
        missing = [
            channel.upper()
            for channel in CHANNELS
            if particulars.s1_assets[channel] not in item.stac["assets"]
        ]
        if missing:
            left_out.append((item.id, f"has no {' and no '.join(missing)}"))
        elif item.orbit not in ORBITS:
            told = f"says {item.orbit!r}" if item.orbit else "is missing"
            left_out.append((item.id, f"does not tell its direction (sat:orbit_state {told})"))
        elif orbits not in ("both", item.orbit):
            left_out.append((item.id, f"is {item.orbit}, and sentinel1.orbits is {orbits}"))
        else:
            kept.append(item)
    return sorted(kept, key=lambda item: (_moment(item), item.id)), sorted(left_out)
