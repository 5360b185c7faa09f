"""Hash the settings that determine the numbers of a product."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..urls import public_href
from .configuration import Config
from .sections import OVERRIDES

# Keys that change how a run is executed or which products are written, but no embedding.
_NO_EFFECT: dict[str, set[str]] = {
    "download": {
        "slice_months",
        "threads",
        "attempts",
        "timeout",
        "deadline",
        "max_missing_percent",
    },
    "model": {
        "cache",
        "device",
        "compile",
        "batch_size",
        "allow_statistics_mismatch",
        "sha256",
    },
    "grid": {"block_size", "patch_size"},
}


def content_hash(config: Config, region: str, period: str) -> str:
    """Return the SHA-256 (hex) of the settings that determine the numbers of a region and period.

    Names, output paths, products, the division into blocks and patches, and other regions and
    periods are not included; nor is the path of the region's file, because a region is its
    geometry (`roi_sha256` in the record of a product).

    Raises:
        KeyError: the region or period does not exist.
    """
    settings = _settings(config.for_run(region, period))
    settings["region"] = config.regions[region].model_dump(
        mode="json", exclude={"roi", "layer", "periods", *OVERRIDES}
    )
    settings["period"] = config.periods[period].model_dump(mode="json", exclude=set(OVERRIDES))
    return _hash(settings)


def sites_hash(config: Config) -> str:
    """Return the SHA-256 (hex) of the settings that determine the numbers of sites.

    The table is not included, nor are regions, periods and their overrides.
    """
    shape = ("size", "polygons", "values")
    sites = config.sites.model_dump(mode="json", include=set(shape))
    return _hash(_settings(config) | {"sites": sites})


def _hash(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings of a region and period (`Config.for_run`) that determine numbers."""
    settings = config.model_dump(
        mode="json", exclude={"regions", "periods", "sites", "products", "maps", "jobs", "paths"}
    )
    for section, keys in _NO_EFFECT.items():
        settings[section] = {k: v for k, v in settings[section].items() if k not in keys}
    for sensor in ("sentinel2", "sentinel1"):
        # No collection means the default of the provider; all defaults hash as the MPC names.
        default = {"sentinel2": "sentinel-2-l2a", "sentinel1": "sentinel-1-rtc"}[sensor]
        settings[sensor]["collection"] = settings[sensor]["collection"] or default
        # A token in a URL is not a setting, and must not affect the hash.
        del settings[sensor]["asset_folders"]  # where files may be, not which are read
        if not settings[sensor]["exclude"]:  # as before there was this key
            del settings[sensor]["exclude"]
        settings[sensor]["location"] = public_href(settings[sensor]["location"] or "") or None
        if not settings[sensor]["enabled"]:  # its other settings have no effect
            settings[sensor] = {"enabled": False}
    if settings["sentinel2"].get("boa_offset") == "auto":  # as before there was this key
        del settings["sentinel2"]["boa_offset"]
    if config.source == "scenes":
        del settings["source"], settings["tiles"]
    elif not config.fills:
        del settings["sentinel2"], settings["sentinel1"]
    if config.source == "geotessera":
        location = public_href(settings["geotessera"]["location"] or "") or None
        settings["geotessera"]["location"] = location
        settings["download"] = {"on_empty_block": config.download.on_empty_block}
        del settings["tiles"]
        if not config.fills:  # as before there were these keys
            settings["model"] = {"dtype": config.model.dtype}
            del settings["preprocessing"]
            del settings["geotessera"]["fill"], settings["geotessera"]["assume_same_model"]
    else:
        del settings["geotessera"]
    return settings
