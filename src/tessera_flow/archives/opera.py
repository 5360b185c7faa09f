"""OPERA RTC-S1 at the Alaska Satellite Facility, and local archives with items in its format."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from ..config.sections import Download, Period
from ..errors import CredentialsError
from .cmr import search_granules
from .credentials import earthdata_token
from .provider import Provider
from .signing import Access

log = logging.getLogger(__name__)

ARCHIVE = "https://cumulus.asf.earthdatacloud.nasa.gov/OPERA/OPERA_L2_RTC-S1"
LINKED_HOST = "datapool.asf.alaska.edu"
"""Host in the links of granules; the same objects are available as COGs in ARCHIVE."""

TOKEN_HOSTS = frozenset({"cumulus.asf.earthdatacloud.nasa.gov"})
"""The only hosts that receive the token, only by HTTPS."""

# OPERA_L2_RTC-S1_<burst>_<sensed>_<processed>_<satellite>_30_v1.0
_TITLE = re.compile(
    r"OPERA_L2_RTC-S1_(?P<burst>T\d{3}-\d{6}-IW\d)_(?P<sensed>\d{8}T\d{6}Z)"
    r"_(?P<processed>\d{8}T\d{6}Z)_(?P<satellite>S1[A-Z])_\d+_(?P<version>v[\d.]+)"
)
FOOTPRINT_MARGIN = 0.02
"""Degrees added around the polygon of a granule, whose edges are straight lines in degrees."""


@dataclass(frozen=True)
class Opera(Provider):
    """OPERA RTC-S1: one burst per item, float32 gamma0, NaN for no data, 30 m grid in UTM.

    Items are searched in NASA's CMR. Its records have no orbit direction; it is in the tags of
    the rasters.
    """

    name: str = "opera"
    endpoint: str = "https://cmr.earthdata.nasa.gov/search/granules.json"
    collections: Mapping[str, str] = field(default_factory=lambda: {"sentinel1": "C2777436413-ASF"})
    local_collections: Mapping[str, str] = field(
        default_factory=lambda: {"sentinel1": "OPERA_L2_RTC-S1_V1"}
    )
    s1_assets: Mapping[str, str] = field(default_factory=lambda: {"vv": "VV", "vh": "VH"})
    s1_resampling: Literal["bilinear", "nearest"] = "bilinear"
    orbit_tag: str | None = "ORBIT_PASS_DIRECTION"

    def collection_uri(self, location: str, collection: str) -> str:
        """See `Provider.collection_uri`. In CMR a collection is a concept."""
        return f"{location.removesuffix('granules.json').rstrip('/')}/concepts/{collection}"

    def search(
        self,
        location: str,
        collection: str,
        box: tuple[float, float, float, float],
        period: Period,
        download: Download,
    ) -> Iterator[dict[str, Any]]:
        """Yield granules of CMR at `location` as STAC items; see `cmr.search_granules`.

        A missing token is logged here, before other jobs run for hours; only reading needs it.
        """
        try:
            earthdata_token()
        except CredentialsError as error:
            log.warning("%s", error)
        for granule in search_granules(location, collection, box, period, download):
            yield granule_item(granule, collection)

    def acquisition(self, item: Mapping[str, Any]) -> tuple[str, ...] | None:
        """See `Provider.acquisition`: burst, sensing time, satellite.

        A reprocessed granule is published as another granule of the same acquisition.
        """
        match = _TITLE.match(item["id"])
        return (match["burst"], match["sensed"], match["satellite"]) if match else None

    def version_key(self, item: Mapping[str, Any]) -> tuple[Any, ...]:
        """See `Provider.version_key`: product version, then processing time."""
        match = _TITLE.match(item["id"])
        if match is None:
            return (), ""
        return tuple(int(n) for n in re.findall(r"\d+", match["version"])), match["processed"]

    def access(self, href: str, fresh: bool = False) -> Access:
        """See `Provider.access`. Only URLs of the archive at ASF get a bearer token."""
        parts = urlsplit(href)
        if parts.scheme != "https" or parts.hostname not in TOKEN_HOSTS:
            return Access(href)
        return Access(href, {"GDAL_HTTP_HEADERS": f"Authorization: Bearer {earthdata_token()}"})


def granule_item(granule: Mapping[str, Any], collection: str) -> dict[str, Any]:
    """Convert a granule (an entry of `granules.json`) to a STAC item, as in docs/sources.md.

    Raises:
        KeyError: the granule has no title or no time.
        ValueError: a polygon is invalid.
    """
    title = str(granule["title"])
    match = _TITLE.match(title)
    properties = {"datetime": granule["time_start"]}
    if match:
        properties["platform"] = f"sentinel-1{match['satellite'][-1].lower()}"
    if granule.get("time_end"):
        properties |= {
            "start_datetime": granule["time_start"],
            "end_datetime": granule["time_end"],
        }
    box = _bounds(granule)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": title,
        "collection": collection,
        "properties": properties,
        "assets": _assets(granule, title),
        **({"bbox": box} if box else {}),
    }


def _assets(granule: Mapping[str, Any], title: str) -> dict[str, Any]:
    assets = {}
    for key in ("VV", "VH", "mask"):
        for link in granule.get("links") or []:
            href = str(link.get("href", ""))
            parts = urlsplit(href)
            if link.get("inherited") or not parts.path.endswith(f"_{key}.tif"):
                continue
            if parts.scheme == "s3":
                continue  # readable only inside AWS
            if parts.hostname == LINKED_HOST:
                href = f"{ARCHIVE}/{title}/{title}_{key}.tif"
            assets[key] = {"href": href}
            break
    return assets


def _bounds(granule: Mapping[str, Any]) -> list[float] | None:
    """Return [west, south, east, north] in degrees with a margin; None without polygons.

    West is greater than east if the box crosses 180 degrees. A polygon is text, `lat lon lat lon
    ...`; its first ring is the outline.
    """
    latitudes: list[float] = []
    longitudes: list[float] = []
    for rings in granule.get("polygons") or []:
        numbers = [float(number) for number in rings[0].split()]
        latitudes += numbers[::2]
        longitudes += numbers[1::2]
    if not latitudes:
        return None
    west, east = min(longitudes), max(longitudes)
    if east - west > 180:
        west = min(value for value in longitudes if value > 0)
        east = max(value for value in longitudes if value <= 0)
    margin = FOOTPRINT_MARGIN / max(0.1, math.cos(math.radians(max(map(abs, latitudes)))))
    south = max(-90.0, min(latitudes) - FOOTPRINT_MARGIN)
    north = min(90.0, max(latitudes) + FOOTPRINT_MARGIN)
    return [max(-180.0, west - margin), south, min(180.0, east + margin), north]
