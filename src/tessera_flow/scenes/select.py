"""Which of the items found are used, in which order, and why the others are not."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable

from ..archives.provider import Provider
from ..sensors.sentinel1 import CHANNELS, ORBITS
from ..sensors.sentinel2 import BANDS, SCL, Preprocessing
from .manifest import SourceItem


def _moment(item: SourceItem) -> datetime.datetime:
    stamp = datetime.datetime.fromisoformat(
        item.stac["properties"]["datetime"].replace("Z", "+00:00")
    )
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=datetime.UTC)


def choose_sentinel2(
    candidates: Iterable[SourceItem],
    provider: Provider,
    preprocessing: Preprocessing,
    max_cloud: float,
) -> tuple[list[SourceItem], list[tuple[str, str]]]:
    """The Sentinel-2 items to use, in their order, and (id, reason) of those left out.

    Order: `datetime`, then `eo:cloud_cover` (missing = 100), then `id`. Of copies of one
    acquisition (same datatake and MGRS tile) the one of the newest baseline stays, and holds
    the others.

    Raises:
        ItemError: an item does not tell its processing baseline.
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
            left_out.append((item.id, f"lists no asset {', '.join(missing)}"))
        elif max_cloud < 100 and cloud is not None and cloud > max_cloud:
            left_out.append((item.id, f"cloud cover {cloud} % is above max_cloud {max_cloud} %"))
        else:
            offset = provider.boa_offset(item.stac, preprocessing)
            usable.append(dataclasses.replace(item, boa_offset=offset, orbit=None))
    kept = _one_of_each_photograph(usable, provider, left_out)
    return sorted(kept, key=_sentinel2_order), sorted(left_out)


def _one_of_each_photograph(
    usable: Iterable[SourceItem], provider: Provider, left_out: list[tuple[str, str]]
) -> list[SourceItem]:
    """The newest copy of each acquisition, holding the others, which join `left_out`."""
    copies: dict[tuple[str, ...], list[SourceItem]] = {}
    for item in usable:
        copies.setdefault(provider.acquisition(item.stac) or (item.id,), []).append(item)
    kept = []
    for found in copies.values():
        best, *others = sorted(
            found, key=lambda item: (provider.newness(item.stac), item.id), reverse=True
        )
        kept.append(dataclasses.replace(best, copies=tuple(others)))
        left_out += [(item.id, f"older copy of the acquisition in {best.id}") for item in others]
    return kept


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


def choose_sentinel1(
    candidates: Iterable[SourceItem], provider: Provider, orbits: str
) -> tuple[list[SourceItem], list[tuple[str, str]]]:
    """The Sentinel-1 items to use, ordered by `datetime`, then `id`, and those left out.

    Where the archive's items do not tell their direction, but its rasters do, items of every
    direction are kept; `directions.resolve_directions` chooses when they are read.
    """
    left_out: list[tuple[str, str]] = []
    usable = []
    for item in candidates:
        missing = [
            channel.upper()
            for channel in CHANNELS
            if provider.s1_assets[channel] not in item.stac["assets"]
        ]
        if missing:
            left_out.append((item.id, f"has no {' and no '.join(missing)}"))
        elif item.orbit is None and provider.orbit_tag:
            usable.append(item)
        elif item.orbit not in ORBITS:
            told = f"says {item.orbit!r}" if item.orbit else "is missing"
            left_out.append((item.id, f"does not tell its direction (sat:orbit_state {told})"))
        elif orbits not in ("both", item.orbit):
            left_out.append((item.id, f"is {item.orbit}, and sentinel1.orbits is {orbits}"))
        else:
            usable.append(item)
    kept = _one_of_each_photograph(usable, provider, left_out)
    return sorted(kept, key=lambda item: (_moment(item), item.id)), sorted(left_out)
