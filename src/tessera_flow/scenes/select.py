"""Select the items to use, sort them, and record why others are left out."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable

from ..archives.boa_offset import StatedOffset
from ..archives.provider import Provider
from ..sensors.sentinel1 import CHANNELS, ORBITS
from ..sensors.sentinel2 import BANDS, SCL, Preprocessing
from .candidate import NAMED_ASSETS
from .copies import Sample, as_selected, group_copies
from .manifest import SourceItem
from .offsets import with_offsets

NO_DIRECTION = "has no orbit direction"
"""Beginning of the reason to leave out a Sentinel-1 item that states none."""


def _moment(item: SourceItem) -> datetime.datetime:
    stamp = datetime.datetime.fromisoformat(
        item.stac["properties"]["datetime"].replace("Z", "+00:00")
    )
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True)
class OffsetSettings:
    """How the BOA offset of Sentinel-2 items is decided; see `offsets.with_offsets`."""

    preprocessing: Preprocessing
    stated: StatedOffset = "auto"
    sample: Sample | None = None
    threads: int = 1


def select_sentinel2(
    candidates: Iterable[SourceItem],
    provider: Provider,
    offsets: OffsetSettings,
    max_cloud: float,
) -> tuple[list[SourceItem], list[tuple[str, str]], list[str]]:
    """Return the Sentinel-2 items to use, sorted; (id, reason) of those left out; warnings.

    Order: `datetime`, then `eo:cloud_cover` (missing = 100), then `id`. Of copies of one
    acquisition, the one with the newest baseline is used; the others become its `duplicates`.
    The parts of a tile are all used: see `copies`. If metadata and pixels do not show whether
    items of one datatake and tile are copies, they follow each other, the newest first.

    Raises:
        ItemError: an item states no processing baseline of ESA.
        ReadError: pixels that have to decide an offset cannot be read now.
    """
    left_out: list[tuple[str, str]] = []
    usable = []
    for item in candidates:
        missing = [
            key
            for band in (*BANDS, SCL)
            if (key := provider.s2_assets[band]) not in item.stac["assets"]
        ]
        cloud = _cloud_cover(item)
        if missing:
            left_out.append((item.id, f"has no asset {', '.join(missing)}{_asset_keys(item)}"))
        elif max_cloud < 100 and cloud is not None and cloud > max_cloud:
            left_out.append((item.id, f"cloud cover {cloud} % is above max_cloud {max_cloud} %"))
        else:
            usable.append(item)
    usable, undecided, warnings = with_offsets(
        usable, provider, offsets.preprocessing, offsets.stated, offsets.sample, offsets.threads
    )
    left_out += undecided
    groups = group_copies(usable, provider, offsets.sample, provider.s2_assets[SCL])
    ordered = []
    for acquisitions in groups:
        first = min(_sentinel2_order(copies[0]) for copies in acquisitions)
        for number, (newest, *older) in enumerate(acquisitions):
            duplicates = tuple(as_selected(item) for item in older)
            used = dataclasses.replace(as_selected(newest), duplicates=duplicates)
            ordered.append((first, number, used))
            left_out += [(item.id, f"older duplicate of {newest.id}") for item in older]
    ordered.sort(key=lambda entry: (*entry[:2], repr(entry[2].stac)))
    return [item for _, _, item in ordered], sorted(left_out), warnings


def _group_duplicates(
    usable: Iterable[SourceItem], provider: Provider, left_out: list[tuple[str, str]]
) -> list[SourceItem]:
    """Return the newest item of each acquisition with its duplicates.

    The duplicates are also appended to `left_out`.
    """
    acquisitions: dict[tuple[str, ...], list[SourceItem]] = {}
    for item in usable:
        acquisitions.setdefault(provider.acquisition(item.stac) or (item.id,), []).append(item)
    result = []
    for items in acquisitions.values():
        newest, *older = sorted(
            items, key=lambda item: (provider.version_key(item.stac), item.id), reverse=True
        )
        result.append(dataclasses.replace(newest, duplicates=tuple(older)))
        left_out += [(item.id, f"older duplicate of {newest.id}") for item in older]
    return result


def _sentinel2_order(item: SourceItem) -> tuple[datetime.datetime, float, str]:
    cloud = _cloud_cover(item)
    return _moment(item), 100.0 if cloud is None else cloud, item.id


def _cloud_cover(item: SourceItem) -> float | None:
    """Return `eo:cloud_cover` in percent; None if it is missing or not a number."""
    try:
        cloud = float(item.stac["properties"]["eo:cloud_cover"])
    except (KeyError, TypeError, ValueError):
        return None
    return cloud if math.isfinite(cloud) else None


def _polarisations(item: SourceItem) -> str:
    """Return ` (it has HH and HV)` for an item of these polarisations, empty for others."""
    values = item.stac["properties"].get("sar:polarizations")
    names = [str(value).upper() for value in values] if isinstance(values, list) else []
    return f" (it has {' and '.join(names)})" if {"HH", "HV"} & set(names) else ""


def _asset_keys(item: SourceItem) -> str:
    """Return ` (its assets are a, b, c)`, with the first keys of the item."""
    keys = [*item.stac["assets"], *item.stac.get("unused_assets", ())]
    if not keys:
        return " (it has no assets)"
    more = ", ..." if len(keys) > NAMED_ASSETS else ""
    return f" (its assets are {', '.join(keys[:NAMED_ASSETS])}{more})"


def select_sentinel1(
    candidates: Iterable[SourceItem], provider: Provider, orbits: str
) -> tuple[list[SourceItem], list[tuple[str, str]]]:
    """Return the Sentinel-1 items to use, sorted by `datetime` and `id`, and those left out."""
    left_out: list[tuple[str, str]] = []
    usable = []
    for item in candidates:
        missing = [
            channel.upper()
            for channel in CHANNELS
            if provider.s1_assets[channel] not in item.stac["assets"]
        ]
        if missing:
            it_has = _polarisations(item) or _asset_keys(item)
            left_out.append((item.id, f"has no {' and no '.join(missing)}{it_has}"))
        elif item.orbit not in ORBITS:
            state = f"is {item.orbit!r}" if item.orbit else "is missing"
            left_out.append((item.id, f"{NO_DIRECTION} ({provider.orbit_property} {state})"))
        elif orbits not in ("both", item.orbit):
            left_out.append((item.id, f"is {item.orbit}, but sentinel1.orbits is {orbits}"))
        else:
            usable.append(item)
    items = _group_duplicates(map(as_selected, usable), provider, left_out)
    return sorted(items, key=lambda item: (_moment(item), item.id)), sorted(left_out)
