"""Read what ESA's names and properties state of a Sentinel-2 item.

The properties are those of the STAC extension `s2`. Where one is missing, the product name
(`s2:product_uri` or the id) states the same. Case and surrounding spaces are ignored.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ItemError

KNOWN_BASELINES = ("01.00", "05.99")
"""First and last processing baseline that ESA has used. Own processing writes others (99.99)."""

_LONGEST_DATATAKE = datetime.timedelta(hours=3)
"""Longer than any datatake, which lasts less than an hour."""

_DATATAKE = re.compile(r"G(S2[A-Z])_(\d{8}T\d{6})(?:_|$)")
_PRODUCT = re.compile(r"(?:^|[/_])(S2[A-Z])_MSIL[12][AC]_(\d{8}T\d{6})_")
_PRODUCT_BASELINE = re.compile(r"_MSIL2A_\d{8}T\d{6}_N(\d{4})_")
_SENSING_START = re.compile(r"_S(\d{8}T\d{6})(?:_|$)")
_GRANULE_FOLDER = re.compile(r"/GRANULE/L2A_T\d\d[A-Z]{3}_A\d{6}_(\d{8}T\d{6})/")
_TILE = re.compile(r"T?(\d{1,2}[A-Z]{3})")
_TILE_IN_NAME = re.compile(r"_T(\d\d[A-Z]{3})(?:_|\.|$)")
_BASELINE = re.compile(r"(\d{1,2})\.(\d\d)")


def datatake(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (satellite, start) of the datatake, such as `("S2A", "20210610T105031")`.

    None if neither the datatake nor a product name states it.
    """
    match = _DATATAKE.search(_text(item["properties"], "s2:datatake_id"))
    for name in _product_names(item):
        match = match or _PRODUCT.search(name)
    return (match[1], match[2]) if match else None


def sensing_start(item: Mapping[str, Any]) -> str | None:
    """Return the sensing start of the datastrip, such as `20210610T105025`; None if unknown.

    It differs between the parts of a tile that was cut at the border of two datastrips, and is
    the same for copies. Without `s2:datastrip_id`, it is read from the granule's folder in the
    URLs of the assets, as in ESA's products.
    """
    match = _SENSING_START.search(_text(item["properties"], "s2:datastrip_id"))
    if match:
        return match[1]
    found = {
        folder[1]
        for asset in item.get("assets", {}).values()
        for folder in [_GRANULE_FOLDER.search(str(asset.get("href", "")).upper())]
        if folder
    }
    return found.pop() if len(found) == 1 else None


def mgrs_tile(item: Mapping[str, Any]) -> str | None:
    """Return the MGRS tile, such as `31UFT` or `01CCV`; None if it is unknown."""
    properties = item["properties"]
    code = _text(properties, "grid:code")
    parts = [_text(properties, f"mgrs:{k}") for k in ("utm_zone", "latitude_band", "grid_square")]
    stated = [
        _text(properties, "s2:mgrs_tile"),
        code.removeprefix("MGRS-") if code.startswith("MGRS-") else "",
        "".join(parts) if all(parts) else "",
    ]
    for text in stated:
        match = _TILE.fullmatch(text)
        if match:
            return match[1].zfill(5)
    names = [*_product_names(item), *(_text(properties, f"s2:{k}_id") for k in ("granule", "tile"))]
    for name in names:
        match = _TILE_IN_NAME.search(name)
        if match:
            return match[1]
    return None


def observation_day(item: Mapping[str, Any]) -> datetime.date:
    """Return the UTC day of an item's time step: that of the start of its datatake.

    A pass can cross midnight UTC, and items can state their own time. The day of `datetime` is
    used if the datatake is unknown, or if it cannot be that of the item because it does not start
    in the three hours before.

    Raises:
        ValueError: `datetime` is not a time stamp.
    """
    stamp = item["properties"]["datetime"]
    moment = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    moment = moment.astimezone(datetime.UTC)
    take = datatake(item)
    if take is not None:
        start = datetime.datetime.strptime(take[1], "%Y%m%dT%H%M%S").replace(tzinfo=datetime.UTC)
        if datetime.timedelta() <= moment - start <= _LONGEST_DATATAKE:
            return start.date()
    return moment.date()


def generation_time(item: Mapping[str, Any]) -> str:
    """Return the time when a product was made, in a form that sorts; empty if unknown."""
    stated = item["properties"].get("s2:generation_time")
    try:
        moment = datetime.datetime.fromisoformat(str(stated).strip().replace("Z", "+00:00"))
    except ValueError:
        match = re.search(r"_(\d{8}T\d{6})_S\d{8}T", _text(item["properties"], "s2:datastrip_id"))
        return f"{match[1]}.000000" if match else ""
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC)
    return moment.strftime("%Y%m%dT%H%M%S.%f")


class BaselineError(ItemError):
    """An item states no processing baseline of ESA."""


def processing_baseline(item: Mapping[str, Any]) -> str:
    """Return the processing baseline of a Sentinel-2 item, such as `05.11`.

    It is read from `s2:processing_baseline`, else from the product name (`_N0511_`).

    Raises:
        BaselineError: both are missing, or the one that is stated is none of ESA's.
    """
    stated = item["properties"].get("s2:processing_baseline")
    if stated is None or str(stated).strip() == "":
        baseline = baseline_in_name(item)
        if baseline is None:
            raise BaselineError("does not state its processing baseline (s2:processing_baseline)")
        stated = baseline
    text = str(stated).strip()
    if isinstance(stated, float):
        text = f"{stated:.2f}" if stated == round(stated, 2) else repr(stated)
    match = _BASELINE.fullmatch(text)
    baseline = f"{int(match[1]):02d}.{match[2]}" if match else None
    first, last = KNOWN_BASELINES
    if baseline is None or not first <= baseline <= last:
        raise BaselineError(
            f"states the processing baseline {stated!r}, which is none of ESA's ({first} to {last})"
        )
    return baseline


def baseline_in_name(item: Mapping[str, Any]) -> str | None:
    """Return the processing baseline in the product name; None if there is none."""
    for name in _product_names(item):
        match = _PRODUCT_BASELINE.search(name)
        if match:
            return f"{match[1][:2]}.{match[1][2:]}"
    return None


def _product_names(item: Mapping[str, Any]) -> Iterator[str]:
    yield _text(item["properties"], "s2:product_uri")
    yield str(item.get("id", "")).upper()


def _text(properties: Mapping[str, Any], key: str) -> str:
    value = properties.get(key)
    return "" if value is None else str(value).strip().upper()
