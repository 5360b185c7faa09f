"""OPERA RTC-S1 at the Alaska Satellite Facility, and archives whose items imitate it."""

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
"""Where a granule's links point; the same objects are readable COGs in ARCHIVE."""

TOKEN_HOSTS = frozenset({"cumulus.asf.earthdatacloud.nasa.gov"})
"""The only hosts that are sent the token, and by https only."""

# OPERA_L2_RTC-S1_<burst>_<sensed>_<processed>_<satellite>_30_v1.0
_TITLE = re.compile(
    r"OPERA_L2_RTC-S1_(?P<burst>T\d{3}-\d{6}-IW\d)_(?P<sensed>\d{8}T\d{6}Z)"
    r"_(?P<made>\d{8}T\d{6}Z)_(?P<satellite>S1[A-Z])_\d+_(?P<version>v[\d.]+)"
)
FOOTPRINT_MARGIN = 0.02
"""Degrees around a granule's polygon: its corners are joined by straight lines in degrees."""


@dataclass(frozen=True)
class Opera(Provider):
    """One item is one burst, float32 gamma0 with NaN for no data, on a 30 m grid in UTM.

    Searched in NASA's CMR, which does not tell the direction of the orbit; the rasters do.
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
        """See `Provider.collection_uri`; in CMR a collection is a concept."""
        return f"{location.removesuffix('granules.json').rstrip('/')}/concepts/{collection}"

    def search(
        self,
        location: str,
        collection: str,
        box: tuple[float, float, float, float],
        period: Period,
        download: Download,
    ) -> Iterator[dict[str, Any]]:
        """Granules of CMR at `location` as STAC items; see `cmr.search_granules`.

        A missing token is told now, before hours of other work; only reading needs it.
        """
        try:
            earthdata_token()
        except CredentialsError as error:
            log.warning("%s", error)
        for granule in search_granules(location, collection, box, period, download):
            yield granule_item(granule, collection)

    def acquisition(self, item: Mapping[str, Any]) -> tuple[str, ...] | None:
        """See `Provider.acquisition`: one burst, sensed once. Granules are published anew when
        they are processed anew."""
        named = _TITLE.match(item["id"])
        return (named["burst"], named["sensed"], named["satellite"]) if named else None

    def newness(self, item: Mapping[str, Any]) -> tuple[Any, ...]:
        """See `Provider.newness`: product version, then time of processing."""
        named = _TITLE.match(item["id"])
        if named is None:
            return (), ""
        return tuple(int(n) for n in re.findall(r"\d+", named["version"])), named["made"]

    def access(self, href: str, fresh: bool = False) -> Access:
        """See `Provider.access`: a bearer token for ASF's archive, and for nothing else."""
        parts = urlsplit(href)
        if parts.scheme != "https" or parts.hostname not in TOKEN_HOSTS:
            return Access(href)
        return Access(href, {"GDAL_HTTP_HEADERS": f"Authorization: Bearer {earthdata_token()}"})


def granule_item(granule: Mapping[str, Any], collection: str) -> dict[str, Any]:
    """A granule (an entry of `granules.json`) as a STAC item; its form is in docs/sources.md.

    Raises:
        KeyError, ValueError: the granule lacks its title or time, or a polygon is none.
    """
    title = str(granule["title"])
    named = _TITLE.match(title)
    properties = {"datetime": granule["time_start"]}
    if named:
        properties["platform"] = f"sentinel-1{named['satellite'][-1].lower()}"
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
                continue  # only for readers inside AWS
            if parts.hostname == LINKED_HOST:
                href = f"{ARCHIVE}/{title}/{title}_{key}.tif"
            assets[key] = {"href": href}
            break
    return assets


def _bounds(granule: Mapping[str, Any]) -> list[float] | None:
    """[west, south, east, north] in degrees, with a margin; west > east across 180 degrees.

    A polygon is text, `lat lon lat lon ...`; the first ring of each is its outline.
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
