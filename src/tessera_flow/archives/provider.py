"""What every archive of scenes has to say for itself, and what many of them share."""

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
"""ESA adds the BOA offset from processing baseline 04.00 on."""


@dataclass(frozen=True)
class GdalOption:
    """A GDAL setting for reading this archive, with the reason for it."""

    name: str
    value: str
    reason: str


HTTP_OPTIONS = (
    GdalOption(
        "GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR", "no listing of the folder, no sidecars"
    ),
    GdalOption("VSI_CACHE", "FALSE", "each block is read once; a cache only costs memory"),
    GdalOption("GDAL_NUM_THREADS", "1", "reads already run side by side"),
)


@dataclass(frozen=True)
class Provider:
    """The provider of an archive; a subclass sets the fields and what differs.

    Attributes:
        name: in the configuration.
        endpoint: where items are searched.
        collections: default collection by sensor (`sentinel2`, `sentinel1`).
        local_collections: the same for a local archive in this form, where it differs.
        s2_assets: our name of a Sentinel-2 band (`B04`, ..., `SCL`) to the archive's key.
        s1_assets: `vv` and `vh` to the archive's key.
        s1_resampling: how radar images come onto the grid.
        orbit_tag: tag of a radar raster that tells its direction, where items do not.
        gdal_options: settings for reading.
    """

    name: str = ""
    endpoint: str = ""
    collections: Mapping[str, str] = field(default_factory=dict)
    local_collections: Mapping[str, str] = field(default_factory=dict)
    s2_assets: Mapping[str, str] = field(default_factory=dict)
    s1_assets: Mapping[str, str] = field(default_factory=dict)
    s1_resampling: Literal["bilinear", "nearest"] = "nearest"
    orbit_tag: str | None = None
    gdal_options: tuple[GdalOption, ...] = HTTP_OPTIONS

    def collection(self, kind: str, sensor: str) -> str:
        """The collection to search where the configuration names none.

        Args:
            kind: `provider` of the configuration; `local` for a local archive in this form.
            sensor: `sentinel2` or `sentinel1`.
        """
        named = {**self.collections, **(self.local_collections if kind == "local" else {})}
        return named[sensor]

    def collection_uri(self, location: str, collection: str) -> str:
        """A URI that names a collection of the service at `location`."""
        return f"{location.rstrip('/')}/collections/{collection}"

    def search(
        self,
        location: str,
        collection: str,
        box: tuple[float, float, float, float],
        period: Period,
        download: Download,
    ) -> Iterator[dict[str, Any]]:
        """STAC items as the service at `location` tells them; see `catalogs.search_items`."""
        # Imported here: it takes long, and most jobs never search.
        from .stac import search_items

        return search_items(location, collection, box, period, download)

    def boa_offset(self, item: Mapping[str, Any], preprocessing: Preprocessing) -> int:
        """What to subtract from the digital numbers of a Sentinel-2 item: 0 or 1000.

        Args:
            item: STAC item; its properties and assets are looked at.
            preprocessing: `corrected` asks what is in the pixels, `as_published` what the published
                pipeline did.

        Raises:
            ItemError: the item does not tell its baseline, or what is in its pixels.
        """
        raise NotImplementedError(f"{self.name} has no Sentinel-2 scenes")

    def acquisition(self, item: Mapping[str, Any]) -> tuple[str, ...] | None:
        """What the copies of one acquisition have in common; None where it cannot be told.

        For Sentinel-2: datatake and MGRS tile. The datatake's own baseline suffix (`_N05.11`)
        is not part of it. Time stamps will not do: copies of one acquisition differ by minutes.
        """
        datatake, tile = item["properties"].get("s2:datatake_id"), mgrs_tile(item)
        if not datatake or not tile:
            return None
        return re.sub(r"_N\d\d\.\d\d$", "", datatake), tile

    def newness(self, item: Mapping[str, Any]) -> tuple[Any, ...]:
        """Sorts the copies of one acquisition; the largest is the one to use."""
        try:
            baseline = processing_baseline(item)
        except ItemError:
            baseline = 0.0
        return baseline, str(item["properties"].get("s2:generation_time", ""))

    def access(self, href: str, fresh: bool = False) -> Access:
        """How to open an asset now.

        Args:
            href: its unsigned address.
            fresh: what was given last was refused (401, 403), so ask for a new signature.

        Raises:
            CredentialsError: it needs a token, and there is none.
            requests.RequestException: the signing service does not answer; may pass.
        """
        return Access(href)


def offset_by_baseline(item: Mapping[str, Any]) -> int:
    """The offset that ESA put into the pixels of an item: 1000 from baseline 04.00 on.

    Raises:
        ItemError: the item does not tell its baseline.
    """
    return BOA_OFFSET if processing_baseline(item) >= FIRST_OFFSET_BASELINE else 0


def mgrs_tile(item: Mapping[str, Any]) -> str | None:
    """The MGRS tile of a Sentinel-2 item, such as `31UFT`, from any of its usual properties."""
    properties = item["properties"]
    if properties.get("s2:mgrs_tile"):
        return str(properties["s2:mgrs_tile"])
    if str(properties.get("grid:code", "")).startswith("MGRS-"):
        return str(properties["grid:code"]).removeprefix("MGRS-").zfill(5)
    parts = [properties.get(f"mgrs:{key}") for key in ("utm_zone", "latitude_band", "grid_square")]
    return None if None in parts else f"{int(parts[0]):02d}{parts[1]}{parts[2]}"


def processing_baseline(item: Mapping[str, Any]) -> float:
    """Processing baseline of a Sentinel-2 item, such as 5.11.

    From `s2:processing_baseline`, else from the product name (`_N0511_`).

    Raises:
        ItemError: neither tells it.
    """
    properties = item["properties"]
    stated = properties.get("s2:processing_baseline")
    if stated is not None and re.fullmatch(r"\d+(\.\d+)?", str(stated)):
        return float(stated)
    named = re.search(r"_N(\d\d)(\d\d)_", str(properties.get("s2:product_uri", "")))
    if named:
        return float(f"{named[1]}.{named[2]}")
    raise ItemError(
        f"Item {item['id']} does not tell its processing baseline (s2:processing_baseline), so its "
        "offset is unknown: complete the item, or set `preprocessing: as_published`, which goes by date."
    )
