"""Define the interface of a provider of scenes, and code shared by providers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from ..config.sections import Download, Period
from ..errors import ItemError
from ..sensors.sentinel2 import Preprocessing
from .boa_offset import OffsetRule, StatedOffset
from .places import Places
from .query import Box
from .sentinel2_names import datatake, generation_time, mgrs_tile, processing_baseline
from .signing import Access


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
        orbit_property: name of the property with the orbit direction, for messages.
        gdal_options: GDAL options for reading.
    """

    name: str = ""
    endpoint: str = ""
    collections: Mapping[str, str] = field(default_factory=dict)
    local_collections: Mapping[str, str] = field(default_factory=dict)
    s2_assets: Mapping[str, str] = field(default_factory=dict)
    s1_assets: Mapping[str, str] = field(default_factory=dict)
    s1_resampling: Literal["bilinear", "nearest"] = "nearest"
    orbit_property: str = "sat:orbit_state"
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

    def item_uri(self, location: str, collection: str, name: str) -> str:
        """Return the URL of the metadata of an item, readable without a key or token.

        Args:
            location, collection: as for `collection_uri`.
            name: id of the item.
        """
        return f"{self.collection_uri(location, collection)}/items/{quote(name, safe='')}"

    def search(
        self,
        location: str,
        collection: str,
        boxes: Sequence[Box],
        period: Period,
        download: Download,
        orbits: str = "both",
        places: Places | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Search the service at `location` and yield STAC items; see `stac.search_items`.

        Args:
            location, collection, boxes, period, download: see `stac.search_items`.
            orbits: `both`, `ascending` or `descending`. A service that can filter returns only
                these scenes.
            places: see `stac.search_items`.
        """
        # Imported here: slow to import, and most jobs never search.
        from .stac import search_items

        assets = {*self.s2_assets.values(), *self.s1_assets.values()}
        return search_items(location, collection, boxes, period, download, assets, places)

    def offset_rule(
        self, item: Mapping[str, Any], preprocessing: Preprocessing, stated: StatedOffset = "auto"
    ) -> OffsetRule:
        """Return in which bands the pixels of a Sentinel-2 item contain ESA's offset.

        Args:
            item: STAC item with properties and assets.
            preprocessing: `corrected`: the offset that the pixels contain. `as_published`: the
                offset that the published pipeline subtracts.
            stated: what the user states about the archive (`sentinel2.boa_offset`).

        Raises:
            BaselineError: the item states no processing baseline of ESA.
        """
        raise NotImplementedError(f"{self.name} has no Sentinel-2 scenes")

    def acquisition(self, item: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return a key shared by all duplicates of an acquisition; None if it is unknown.

        Sentinel-2: satellite and start of the datatake, and MGRS tile. The parts of a tile at the
        border of two datastrips share it as well: see `scenes.copies`. Time stamps are not
        suitable: those of duplicates can differ by minutes.
        """
        take, tile = datatake(item), mgrs_tile(item)
        return None if take is None or tile is None else (*take, tile)

    def version_key(self, item: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the sort key of the duplicates of an acquisition; the largest one is used.

        Sentinel-2: processing baseline, then generation time.
        """
        try:
            baseline = processing_baseline(item)
        except ItemError:
            baseline = ""
        return baseline, generation_time(item)

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
