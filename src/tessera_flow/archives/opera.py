"""OPERA RTC-S1 at the Alaska Satellite Facility, and local archives with items in its format."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from ..config.sections import Download, Period
from ..errors import CredentialsError, ItemError
from .cmr import search_granules
from .credentials import earthdata_token
from .places import Places
from .provider import Provider
from .query import Box
from .signing import Access

log = logging.getLogger(__name__)

ARCHIVE = "https://cumulus.asf.earthdatacloud.nasa.gov/OPERA/OPERA_L2_RTC-S1"
LINKED_HOST = "datapool.asf.alaska.edu"
"""Host in the links of granules; the same objects are available as COGs in ARCHIVE."""

TOKEN_HOSTS = frozenset({"cumulus.asf.earthdatacloud.nasa.gov"})
"""The only hosts that receive the token, only by HTTPS."""

UNAPPROVED = (
    "a valid Earthdata token is refused, too, if its account has not approved the application "
    "'Alaska Satellite Facility Data Access' (https://urs.earthdata.nasa.gov, Applications)"
)
"""Meaning of a refused request beside an invalid token."""

# OPERA_L2_RTC-S1_<burst>_<sensed>_<processed>_<satellite>_30_v1.0
_TITLE = re.compile(
    r"OPERA_L2_RTC-S1_(?P<burst>T\d{3}-\d{6}-IW\d)_(?P<sensed>\d{8}T\d{6}Z)"
    r"_(?P<processed>\d{8}T\d{6}Z)_(?P<satellite>S1[A-Z])_\d+_(?P<version>v[\d.]+)"
)
FOOTPRINT_MARGIN = 0.02
"""Degrees added around the polygon of a granule, whose edges are straight lines in degrees."""

CUT_TOLERANCE = 0.01
"""Degrees from 180 within which an outline is taken as cut there; CMR has 179.999."""

BURST_WIDTH = 1.0
"""Width of a burst in degrees at the equator, rounded up."""

DIRECTION = "ASCENDING_DESCENDING"
"""Attribute of a granule with its orbit direction."""

DATA = "GET DATA"
"""Type of the links to the rasters. Links to S3 and to checksums have other types."""


@dataclass(frozen=True)
class Opera(Provider):
    """OPERA RTC-S1: one burst per item, float32 gamma0, NaN for no data, 30 m grid in UTM.

    Items are searched in NASA's CMR. Its UMM-JSON states direction and polarisations of a burst.
    """

    name: str = "opera"
    endpoint: str = "https://cmr.earthdata.nasa.gov/search/granules.umm_json"
    collections: Mapping[str, str] = field(default_factory=lambda: {"sentinel1": "C2777436413-ASF"})
    local_collections: Mapping[str, str] = field(
        default_factory=lambda: {"sentinel1": "OPERA_L2_RTC-S1_V1"}
    )
    s1_assets: Mapping[str, str] = field(default_factory=lambda: {"vv": "VV", "vh": "VH"})
    s1_resampling: Literal["bilinear", "nearest"] = "bilinear"
    orbit_property: str = "sat:orbit_state of an item, ASCENDING_DESCENDING of a granule"

    def collection_uri(self, location: str, collection: str) -> str:
        """See `Provider.collection_uri`. In CMR a collection is a concept."""
        return f"{location.rpartition('/')[0]}/concepts/{collection}"

    def item_uri(self, location: str, collection: str, name: str) -> str:
        """See `Provider.item_uri`. A granule is found by its name; its metadata link the files."""
        query = urlencode({"collection_concept_id": collection, "granule_ur": name})
        return f"{location}?{query}"

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
        """Yield granules of CMR at `location` as STAC items; see `cmr.search_granules`.

        A missing token is logged here, before other jobs run for hours; only reading needs it.
        Only http(s) links of granules are used.
        """
        try:
            earthdata_token()
        except CredentialsError as error:
            log.warning("%s", error)
        filters = {} if orbits == "both" else {DIRECTION: orbits.upper()}
        for granule in search_granules(location, collection, boxes, period, download, filters):
            try:
                yield granule_item(granule, collection)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                name = (granule.get("meta") or {}).get("concept-id")
                raise ItemError(
                    f"Granule {name} of collection {collection} cannot be understood "
                    f"({type(error).__name__}: {error}): report it to the service, or set "
                    "`sentinel1.enabled: false`."
                ) from error

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
        headers = f"Authorization: Bearer {earthdata_token()}"
        return Access(href, {"GDAL_HTTP_HEADERS": headers}, UNAPPROVED)


def granule_item(granule: Mapping[str, Any], collection: str) -> dict[str, Any]:
    """Convert a granule (an item of `granules.umm_json`) to a STAC item, as in docs/sources.md.

    Raises:
        KeyError: the granule has no name or no time.
        ValueError, TypeError: an outline is invalid.
    """
    umm = granule["umm"]
    title = str(umm["GranuleUR"])
    match = _TITLE.match(title)
    properties = _times(umm["TemporalExtent"])
    if match:
        properties["platform"] = f"sentinel-1{match['satellite'][-1].lower()}"
    attributes = {
        str(attribute.get("Name")): attribute.get("Values") or []
        for attribute in umm.get("AdditionalAttributes") or []
    }
    directions = attributes.get(DIRECTION, [])
    if directions:
        properties["sat:orbit_state"] = ", ".join(str(value).lower() for value in directions)
    if attributes.get("POLARIZATION"):
        properties["sar:polarizations"] = [str(value) for value in attributes["POLARIZATION"]]
    box = _bounds(umm)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": title,
        "collection": collection,
        "properties": properties,
        "assets": _assets(umm, title),
        **({"bbox": box} if box else {}),
    }


def _times(extent: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of the time of a granule."""
    interval = extent.get("RangeDateTime")
    if not interval:
        return {"datetime": str(extent["SingleDateTime"])}
    start, end = str(interval["BeginningDateTime"]), interval.get("EndingDateTime")
    if not end:
        return {"datetime": start}
    return {"datetime": start, "start_datetime": start, "end_datetime": str(end)}


def _assets(umm: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return the rasters of a granule that can be read by HTTP. S3 is readable only inside AWS."""
    assets = {}
    for key in ("VV", "VH", "mask"):
        for link in umm.get("RelatedUrls") or []:
            href = str(link.get("URL", ""))
            parts = urlsplit(href)
            if link.get("Type", DATA) != DATA or parts.scheme not in ("http", "https"):
                continue
            if not parts.path.endswith(f"_{key}.tif"):
                continue
            if parts.hostname == LINKED_HOST:
                href = f"{ARCHIVE}/{title}/{title}_{key}.tif"
            assets[key] = {"href": href}
            break
    return assets


def _bounds(umm: Mapping[str, Any]) -> list[float] | None:
    """Return [west, south, east, north] in degrees with a margin; None without an outline.

    West is greater than east if the box crosses 180 degrees. Outlines are cut there, into two
    polygons or with only the larger part: a box that reaches 180 degrees is extended across it.
    """
    domain = (umm.get("SpatialExtent") or {}).get("HorizontalSpatialDomain") or {}
    longitudes, latitudes = _corners(domain.get("Geometry") or {})
    if not latitudes:
        return None
    west, east = min(longitudes), max(longitudes)
    if east - west > 180:
        west = min(value for value in longitudes if value > 0)
        east = max(value for value in longitudes if value <= 0)
    shrinking = max(0.1, math.cos(math.radians(max(map(abs, latitudes)))))
    south = max(-90.0, min(latitudes) - FOOTPRINT_MARGIN)
    north = min(90.0, max(latitudes) + FOOTPRINT_MARGIN)
    cut = 180 - CUT_TOLERANCE
    burst = BURST_WIDTH / shrinking
    margin = FOOTPRINT_MARGIN / shrinking
    west, east = (
        west - (burst if west <= -cut else margin),
        east + (burst if east >= cut else margin),
    )
    return [_longitude(west), south, _longitude(east), north]


def _corners(geometry: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return the longitudes and latitudes of the outlines of a granule."""
    points = [
        point
        for polygon in geometry.get("GPolygons") or []
        for point in polygon["Boundary"]["Points"]
    ]
    longitudes = [float(point["Longitude"]) for point in points]
    latitudes = [float(point["Latitude"]) for point in points]
    for box in geometry.get("BoundingRectangles") or []:
        longitudes += [float(box[f"{side}BoundingCoordinate"]) for side in ("West", "East")]
        latitudes += [float(box[f"{side}BoundingCoordinate"]) for side in ("South", "North")]
    return longitudes, latitudes


def _longitude(value: float) -> float:
    """Return a longitude between -180 and 180."""
    return value if -180 <= value <= 180 else (value + 180) % 360 - 180
