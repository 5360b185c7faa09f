"""Find the assets of an item that are used, and what the item states about them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ..archives.earth_search import EarthSearch, paid_bucket
from ..archives.places import REFUSED
from ..config.sections import Sentinel1, Sentinel2
from ..errors import ItemError
from ..sensors.sentinel1 import CHANNELS, not_linear_gamma0
from ..sensors.sentinel2 import SCL
from .manifest import SourceItem

_TWENTY_METRES = ("B8A", "B05", "B06", "B07", "B11", "B12", SCL)

_OTHER_KEYS: dict[str, tuple[str, ...]] = {
    name: (band, f"{band}_{20 if band in _TWENTY_METRES else 10}m", common)
    for band, common in EarthSearch().s2_assets.items()
    for name in (band, common)
}
"""Other keys of each Sentinel-2 asset, at the resolution of the band: those of the other item
formats, and of the Copernicus Data Space (B02_10m)."""

_TEXTS = ("title", "description", "unit", "name", "scale", "data_type", "roles")
_PROPERTY_TEXTS = ("title", "description", "sar:product_type", "product:type")
_BAND_LISTS = ("bands", "raster:bands", "eo:bands")
_BAND_NAMES = ("name", "common_name", "eo:common_name")
_FORMS = (
    *("backscatter", "backscatter_coefficient", "calibration", "radiometric_calibration"),
    *("radiometry", "quantity", "scale", "unit", "measurement"),
    *("measurement_type", "measurement_convention"),
)


def used_assets(
    document: Mapping[str, Any], asset_keys: Iterable[str]
) -> dict[str, Mapping[str, Any]]:
    """Return the assets of an item with the keys, also if the item names them otherwise.

    Items of SAFE folders and of the Copernicus Data Space have other keys than the same bands have
    elsewhere. An asset of another resolution than the band's own is not used. They
    are in the order of the keys, whatever the order in which these are given.
    """
    assets = document.get("assets") or {}
    result = {}
    for key in sorted(asset_keys):
        found = next((k for k in (key, *_OTHER_KEYS.get(key, ())) if k in assets), None)
        if found is not None:
            result[key] = assets[found]
    return result


def all_asset_keys(asset_keys: Iterable[str]) -> set[str]:
    """Return the keys, and the other keys that the same assets can have."""
    return {other for key in asset_keys for other in (key, *_OTHER_KEYS.get(key, ()))}


def without_paid(
    items: Iterable[SourceItem],
) -> tuple[list[SourceItem], list[tuple[str, str]]]:
    """Return the items that can be read without paying, and (id, reason) of the others."""
    free, paid = [], []
    for item in items:
        buckets = {key: paid_bucket(asset["href"]) for key, asset in item.stac["assets"].items()}
        keys = sorted(key for key, bucket in buckets.items() if bucket)
        if keys:
            names = ", ".join(sorted({bucket for bucket in buckets.values() if bucket}))
            reason = (
                f"{', '.join(keys)}: in {names}, where the reader pays (requester pays), which is "
                "not supported"
            )
            paid.append((item.id, reason))
        else:
            free.append(item)
    return free, paid


def exclusion_warnings(source: Sentinel2 | Sentinel1, found: Collection[str]) -> list[str]:
    """Return a warning for ids in `exclude` that no item of the search has."""
    unknown = [id_ for id_ in source.exclude if id_ not in found]
    if not unknown:
        return []
    return [
        f"{source.sensor}.exclude lists ids that the search of this region and period did not "
        f"return, so they have no effect: {', '.join(unknown)}. Check them for typing errors."
    ]


def stated_band(key: str, asset: Mapping[str, Any]) -> dict[str, int]:
    """Return `{"band": n}`, the band of its file that an asset is, from 1; empty if the item does
    not state it.

    A list of the bands of the file states it if one of them has the name of the asset.
    """
    names = {name.lower() for name in (key, *_OTHER_KEYS.get(key, ()))}
    for form in _BAND_LISTS:
        bands = asset.get(form) or []
        if len(bands) < 2:
            continue
        found = [
            number
            for number, band in enumerate(bands, 1)
            if isinstance(band, Mapping)
            and names & {str(band.get(name, "")).lower() for name in _BAND_NAMES}
        ]
        if len(found) == 1:
            return {"band": found[0]}
    return {}


def check_places(document: Mapping[str, Any], asset_keys: Iterable[str]) -> None:
    """Check that the assets in use are where those of this archive may be.

    Raises:
        ItemError: one is elsewhere.
    """
    for _, asset in sorted(used_assets(document, asset_keys).items()):
        if reason := asset.get(REFUSED):
            raise ItemError(
                f"Item {document['id']} cannot be used: {reason}, or list the id of the item in "
                "`exclude`."
            )


def check_radar(document: Mapping[str, Any], asset_keys: Iterable[str]) -> None:
    """Check that an item does not say that its radar is something else than linear gamma0 power.

    Raises:
        ItemError: it says so.
    """
    for key, asset in used_assets(document, asset_keys).items():
        if key not in CHANNELS:
            continue
        for name, text in _statements(document["properties"], asset):
            if problem := not_linear_gamma0(text):
                raise ItemError(
                    f"Item {document['id']} cannot be used: {name} of asset {key} says {problem}, "
                    "but gamma0 in linear power is expected, as in RTC products. Convert its "
                    "rasters and correct the item, or list its id in sentinel1.exclude."
                )


def _statements(
    properties: Mapping[str, Any], asset: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of what an item says about an asset."""
    for name, value in asset.items():
        if name in _TEXTS or name.partition(":")[2] in _FORMS:
            yield from _texts(name, value)
    for form in _BAND_LISTS:
        for band in asset.get(form) or []:
            if isinstance(band, Mapping):
                for name, value in band.items():
                    if name in _TEXTS:
                        yield from _texts(f"{form} ({name})", value)
    for name, value in properties.items():
        if name in _PROPERTY_TEXTS or name.rpartition(":")[2] in _FORMS:
            yield from _texts(name, value)
        elif isinstance(value, Mapping):  # such as hyp3:job_parameters
            for inner in value.keys() & {*_FORMS}:
                yield from _texts(f"{name} ({inner})", value[inner])


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            yield name, text
