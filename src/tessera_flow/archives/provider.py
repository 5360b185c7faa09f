"""Define the interface of a provider of scenes, and code shared by providers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config.sections import Download, Period
from ..errors import ItemError
from ..sensors.sentinel2 import BOA_OFFSET, Preprocessing
from .signing import Access

FIRST_OFFSET_BASELINE = 4.0
"""First processing baseline whose digital numbers include ESA's BOA offset."""


@dataclass(frozen=True)
class GdalOption:
    """GDAL option for reading an archive, with the reason for it."""

    name: str
    value: str
    reason: str


HTTP_OPTIONS = (
    GdalOption(
        "GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR", "no directory listing, no sidecar files"
    ),
    GdalOption("VSI_CACHE", "FALSE", "each block is read once, so a cache only uses memory"),
    GdalOption("GDAL_NUM_THREADS", "1", "reads already run concurrently"),
)


@dataclass(frozen=True)
class Provider:
    """Provider of scenes. A subclass sets the fields and overrides methods where it differs.

    Attributes:
        name: value of `provider` in the configuration.
        endpoint: default URL of the search service.
        collections: default collection by sensor (`sentinel2`, `sentinel1`).
        local_collections: default collections of a local archive in this item format, if they
            differ from `collections`.
        s2_assets: asset key by Sentinel-2 band (`B04`, ..., `SCL`).
        s1_assets: asset key by polarisation (`vv`, `vh`).
        s1_resampling: resampling of Sentinel-1 images to the grid.
        gdal_options: GDAL options for reading.
    """

    name: str = ""
    endpoint: str = ""
    collections: Mapping[str, str] = field(default_factory=dict)
    local_collections: Mapping[str, str] = field(default_factory=dict)
    s2_assets: Mapping[str, str] = field(default_factory=dict)
    s1_assets: Mapping[str, str] = field(default_factory=dict)
    s1_resampling: Literal["bilinear", "nearest"] = "nearest"
    gdal_options: tuple[GdalOption, ...] = HTTP_OPTIONS

    def collection(self, provider: str, sensor: str) -> str:
        """Return the default collection of a sensor.

        Args:
            provider: `provider` of the configuration; `local` for a local archive.
            sensor: `sentinel2` or `sentinel1`.

        Raises:
            KeyError: the provider does not have the sensor.
        """
        local = self.local_collections if provider == "local" else {}
        return {**self.collections, **local}[sensor]

    def collection_uri(self, location: str, collection: str) -> str:
        """Return the URI of a collection of the service at `location`."""
        return f"{location.rstrip('/')}/collections/{collection}"

    def search(
        self,
        location: str,
        collection: str,
        box: tuple[float, float, float, float],
        period: Period,
        download: Download,
        orbits: str = "both",
    ) -> Iterator[dict[str, Any]]:
        """Search the service at `location` and yield STAC items; see `stac.search_items`.

        Args:
            location, collection, box, period, download: see `stac.search_items`.
            orbits: `both`, `ascending` or `descending`. A service that can filter returns only
                these scenes.
        """
        # Imported here: slow to import, and most jobs never search.
        from .stac import search_items

        return search_items(location, collection, box, period, download)

    def boa_offset(self, item: Mapping[str, Any], preprocessing: Preprocessing) -> int:
        """Return the offset to subtract from the digital numbers of a Sentinel-2 item: 0 or 1000.

        Args:
            item: STAC item with properties and assets.
            preprocessing: `corrected`: the offset that the pixels contain. `as_published`: the
                offset that the published pipeline subtracts.

        Raises:
            ItemError: the item does not state its baseline, or whether its pixels contain the
                offset.
        """
        raise NotImplementedError(f"{self.name} has no Sentinel-2 scenes")

    def acquisition(self, item: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return a key shared by all duplicates of an acquisition; None if it is unknown.

        Sentinel-2: datatake without its baseline suffix (`_N05.11`), and MGRS tile. Time stamps
        are not suitable: those of duplicates can differ by minutes.
        """
        datatake, tile = item["properties"].get("s2:datatake_id"), mgrs_tile(item)
        if not datatake or not tile:
            return None
        return re.sub(r"_N\d\d\.\d\d$", "", datatake), tile

    def version_key(self, item: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the sort key of the duplicates of an acquisition; the largest one is used.

        Sentinel-2: processing baseline, then generation time.
        """
        try:
            baseline = processing_baseline(item)
        except ItemError:
            baseline = 0.0
        return baseline, str(item["properties"].get("s2:generation_time", ""))

    def access(self, href: str, fresh: bool = False) -> Access:
        """Return the signed URL and GDAL options to open an asset.

        Args:
            href: unsigned URL.
            fresh: request a new signature, because the last one was rejected (401, 403).

        Raises:
            CredentialsError: the asset needs a token, and none is set.
            requests.RequestException: the signing service does not respond; can be retried.
        """
        return Access(href)


def offset_by_baseline(item: Mapping[str, Any]) -> int:
    """Return the offset that ESA added to the digital numbers: 1000 from baseline 04.00, else 0.

    Raises:
        ItemError: the item does not state its baseline.
    """
    return BOA_OFFSET if processing_baseline(item) >= FIRST_OFFSET_BASELINE else 0


def mgrs_tile(item: Mapping[str, Any]) -> str | None:
    """Return the MGRS tile of a Sentinel-2 item, such as `31UFT`; None if it is unknown."""
    properties = item["properties"]
    if properties.get("s2:mgrs_tile"):
        return str(properties["s2:mgrs_tile"])
    if str(properties.get("grid:code", "")).startswith("MGRS-"):
        return str(properties["grid:code"]).removeprefix("MGRS-").zfill(5)
    parts = [properties.get(f"mgrs:{key}") for key in ("utm_zone", "latitude_band", "grid_square")]
    return None if None in parts else f"{int(parts[0]):02d}{parts[1]}{parts[2]}"


def processing_baseline(item: Mapping[str, Any]) -> float:
    """Return the processing baseline of a Sentinel-2 item, such as 5.11.

    It is read from `s2:processing_baseline`, else from the product name (`_N0511_`).

    Raises:
        ItemError: both are missing.
    """
    properties = item["properties"]
    stated = properties.get("s2:processing_baseline")
    if stated is not None and re.fullmatch(r"\d+(\.\d+)?", str(stated)):
        return float(stated)
    match = re.search(r"_N(\d\d)(\d\d)_", str(properties.get("s2:product_uri", "")))
    if match:
        return float(f"{match[1]}.{match[2]}")
    raise ItemError(
        f"Item {item['id']} does not state its processing baseline (s2:processing_baseline), so "
        "its offset is unknown: complete the item, or set `preprocessing: as_published`, which "
        "uses the date."
    )
