"""Which settings decide the numbers of a product, as one hash."""

from __future__ import annotations

import hashlib
import json

from ..urls import public_href
from .configuration import Config

# What changes how a run goes or what is written from its embeddings, but no embedding.
_NOT_NUMBERS: dict[str, set[str]] = {
    "download": {
        "slice_months",
        "threads",
        "attempts",
        "timeout",
        "deadline",
        "max_missing_percent",
    },
    "model": {"cache", "device", "batch_size", "allow_statistics_mismatch"},
    "grid": {"block_size", "patch_size"},
}


def content_hash(config: Config, region: str, period: str) -> str:
    """SHA-256 (hex) of the settings that decide the numbers of one region and period.

    Names, paths of results, products, the division into blocks and patches, and the other
    regions and periods do not count.

    Raises:
        KeyError: no such region or period.
    """
    settings = config.model_dump(
        mode="json", exclude={"regions", "periods", "products", "jobs", "paths"}
    )
    for section, keys in _NOT_NUMBERS.items():
        settings[section] = {k: v for k, v in settings[section].items() if k not in keys}
    for sensor in ("sentinel2", "sentinel1"):
        # No collection stands for the source's own; these were the names of the first ones.
        own = {"sentinel2": "sentinel-2-l2a", "sentinel1": "sentinel-1-rtc"}[sensor]
        settings[sensor]["collection"] = settings[sensor]["collection"] or own
        # A token in an address is no setting, and must not show in a hash either.
        settings[sensor]["location"] = public_href(settings[sensor]["location"] or "") or None
    if config.source == "scenes":
        del settings["source"], settings["tiles"]
    else:
        del settings["sentinel2"], settings["sentinel1"]
    if config.source == "geotessera":
        settings["model"] = {"dtype": config.model.dtype}
        del settings["preprocessing"], settings["tiles"], settings["geotessera"]["cache"]
        settings["download"] = {"on_empty_block": config.download.on_empty_block}
    else:
        del settings["geotessera"]
    settings["region"] = config.regions[region].model_dump(mode="json", exclude={"periods"})
    settings["period"] = config.periods[period].model_dump(mode="json")
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
