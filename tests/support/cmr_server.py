"""Local test servers for NASA's CMR search and the archive of the Alaska Satellite Facility.

`CmrServer` responds like CMR's `granules.umm_json`; `AsfServer` requires a bearer token and
redirects to signed URLs on S3, which `S3Server` serves.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import shapely

from .servers import FileServer, Server, running

CONCEPT = "C2777436413-ASF"
CMR_HOST = "cmr.earthdata.nasa.gov"
ASF_HOST = "cumulus.asf.earthdatacloud.nasa.gov"
LOGIN_HOST = "urs.earthdata.nasa.gov"
S3_HOST = "asf-cumulus-prod-opera-products.s3.us-west-2.amazonaws.com"


@dataclass
class CmrServer(Server):
    """Granule search.

    Attributes:
        granules: items of `granules.umm_json`, in the order in which a search returns them.
        page_size: maximum number of granules per page, regardless of the query.
        search_after: send the `CMR-Search-After` header; otherwise paging is by `page_num`.
        hits: send the `CMR-Hits` header.
        overlap: number of granules of a page that are repeated on the next one.
        missing: number of granules of each query that are announced but never sent.
        broken: function of (days of the query, page number); if true, the status is 502.
        results: cached granules by query.
    """

    granules: Sequence[Mapping[str, Any]] = ()
    page_size: int = 2
    search_after: bool = True
    hits: bool = True
    overlap: int = 0
    missing: int = 0
    broken: Any = None
    results: dict[Any, list[Mapping[str, Any]]] = field(default_factory=dict)

    def respond(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(path)
        if parts.path != "/search/granules.umm_json" or method != "GET":
            return 404, {}, b"not found"
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        unknown = set(query) - {
            "collection_concept_id", "bounding_box", "temporal", "page_size", "page_num",
            "attribute[]",
        }  # fmt: skip
        filters = parse_qs(parts.query).get("attribute[]", [])
        unknown |= {text for text in filters if not re.fullmatch(r"string,\w+,\w+", text)}
        if unknown or int(query.get("page_size", 10)) > 2000:
            return 400, {}, json.dumps({"errors": [f"bad query: {sorted(unknown)}"]}).encode()
        parameters = {name: value for name, value in query.items() if not name.startswith("page")}
        key = (*parameters.values(), *filters, len(self.granules))
        if key not in self.results:
            self.results[key] = [
                entry for entry in self.granules if _matches(entry["umm"], query, filters)
            ]
        matches = self.results[key]
        size = min(int(query.get("page_size", 10)), self.page_size)
        after = headers.get("cmr-search-after")
        if after is not None:
            start = json.loads(after)[0]
        else:
            start = (int(query.get("page_num", 1)) - 1) * size
        if self.broken and self.broken(_days(query["temporal"]), 1 + start // max(size, 1)):
            return 502, {}, b"<html>Bad Gateway</html>"
        entries = matches[: len(matches) - self.missing][start : start + size]
        extra = {"Content-Type": "application/vnd.nasa.cmr.umm_results+json; version=1.6.6"}
        if self.hits:
            extra["CMR-Hits"] = str(len(matches))
        if self.search_after and entries:
            # CMR sends it with every page that has entries, including the last one.
            following = start + len(entries)
            following -= self.overlap if following < len(matches) - self.missing else 0
            extra["CMR-Search-After"] = json.dumps([following])
        document = {"hits": len(matches), "took": 12, "items": entries}
        return 200, extra, json.dumps(document).encode()


def _days(temporal: str) -> int:
    first, last = (dt.datetime.fromisoformat(text.replace("Z", "+00:00")) for text in
                   temporal.split(","))  # fmt: skip
    return (last - first).days


def _matches(umm: Mapping[str, Any], query: Mapping[str, str], filters: Sequence[str]) -> bool:
    if query.get("collection_concept_id") != CONCEPT:
        return False
    for text in filters:  # all of them
        _, name, value = text.split(",")
        if value not in granule_attributes(umm).get(name, []):
            return False
    first, last = query["temporal"].split(",")
    times = umm["TemporalExtent"]["RangeDateTime"]
    if not (times["BeginningDateTime"] <= last and times["EndingDateTime"] >= first):
        return False
    box = shapely.box(*(float(value) for value in query["bounding_box"].split(",")))
    return any(outline.intersects(box) for outline in granule_outlines(umm))


def granule_attributes(umm: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the values of the attributes of a granule, by name."""
    return {entry["Name"]: entry["Values"] for entry in umm["AdditionalAttributes"]}


def granule_outlines(umm: Mapping[str, Any]) -> list[shapely.Polygon]:
    """Return the polygons of a granule in longitude and latitude."""
    polygons = umm["SpatialExtent"]["HorizontalSpatialDomain"]["Geometry"]["GPolygons"]
    return [
        shapely.Polygon((p["Longitude"], p["Latitude"]) for p in polygon["Boundary"]["Points"])
        for polygon in polygons
    ]


@contextmanager
def serve_cmr(granules: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[CmrServer]:
    """Serve the search within the `with` block."""
    state = CmrServer(granules=granules, **options)
    with running(state):
        yield state


def granule(
    title: str,
    start: str,
    outline: shapely.Polygon | shapely.MultiPolygon,
    direction: str | None = "DESCENDING",
    polarisations: Sequence[str] = ("VV", "VH"),
) -> dict[str, Any]:
    """Return an item of `granules.umm_json` for a burst, with the keys of the recorded one.

    Args:
        title: product name.
        start: sensing time, RFC 3339.
        outline: footprint in longitude and latitude.
        direction: `ASCENDING` or `DESCENDING`; None: the granule does not state it.
        polarisations: of its rasters.
    """
    begin = dt.datetime.fromisoformat(start.replace("Z", "+00:00"))

    def stamp(moment: dt.datetime) -> str:
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    updated = stamp(begin + dt.timedelta(hours=8))
    burst = title.split("_")[3] if title.count("_") > 3 else "T131-279916-IW1"
    attributes = {
        "ASCENDING_DESCENDING": [direction],
        "BEAM_MODE": ["IW"],
        "BISTATIC_DELAY_CORRECTION": ["TRUE"],
        "GROUP_ID": [f"S1A_IWDV_0372_0379_051478_{burst[1:4]}"],
        "LOOK_DIRECTION": ["RIGHT"],
        "NOISE_CORRECTION": ["TRUE"],
        "OPERA_BURST_ID": [burst.replace("-", "_")],
        "PATH_NUMBER": [burst[1:4]],
        "POLARIZATION": list(polarisations),
        "POST_PROCESSING_FILTER": ["FALSE"],
        "PROCESSING_TYPE": ["RTC"],
        "PRODUCT_VERSION": ["1.0"],
        "RADIOMETRIC_TERRAIN_CORRECTION": ["TRUE"],
        "STATIC_TROPO_CORRECTION": ["TRUE"],
        "SUBSWATH_NAME": [burst[-3:]],
        "WET_TROPO_CORRECTION": ["FALSE"],
    }
    return {
        "meta": {
            "concept-type": "granule",
            "concept-id": f"G{zlib.crc32(title.encode())}-ASF",
            "revision-id": 1,
            "native-id": title,
            "provider-id": "ASF",
            "format": "application/vnd.nasa.cmr.umm+json",
            "revision-date": updated.replace("Z", ".576Z"),
        },
        "umm": {
            "TemporalExtent": {
                "RangeDateTime": {
                    "BeginningDateTime": stamp(begin),
                    "EndingDateTime": stamp(begin + dt.timedelta(seconds=3)),
                }
            },
            "OrbitCalculatedSpatialDomains": [{"OrbitNumber": 51478}],
            "GranuleUR": title,
            "AdditionalAttributes": [
                {"Name": name, "Values": values}
                for name, values in attributes.items()
                if values != [None]
            ],
            "SpatialExtent": {
                "HorizontalSpatialDomain": {"Geometry": {"GPolygons": _polygons(outline)}}
            },
            "ProviderDates": [
                {"Type": "Insert", "Date": updated},
                {"Type": "Update", "Date": updated},
            ],
            "CollectionReference": {"ShortName": "OPERA_L2_RTC-S1_V1", "Version": "1"},
            "PGEVersionClass": {"PGEName": "RTC_S1_PGE", "PGEVersion": "2.1.0"},
            "RelatedUrls": _links(title, polarisations),
        },
    }


def _polygons(outline: shapely.Polygon | shapely.MultiPolygon) -> list[dict[str, Any]]:
    """Return the polygons of an outline, counter-clockwise as in CMR."""
    return [
        {
            "Boundary": {
                "Points": [
                    {"Latitude": round(y, 8), "Longitude": round(x, 8)}
                    for x, y in shapely.geometry.polygon.orient(polygon).exterior.coords
                ]
            }
        }
        for polygon in getattr(outline, "geoms", [outline])
    ]


def _links(title: str, polarisations: Sequence[str]) -> list[dict[str, str]]:
    names = [f"{title}_{key}" for key in (*sorted(polarisations), "mask")]
    files = [("BROWSE", "GET RELATED VISUALIZATION", "PNG", f"{title}_BROWSE.png")]
    files += [("RTC", "GET DATA", "GeoTIFF", f"{name}.tif") for name in names]
    files.append(("RTC", "GET DATA", "HDF5", f"{title}.h5"))
    files += [("RTC", "EXTENDED METADATA", "Text File", f"{name}.tif.md5") for name in names]
    links = []
    for kind, type_, format_, name in files:
        web = f"https://datapool.asf.alaska.edu/{kind}/OPERA-S1/{name}"
        bucket = "opera-browse" if kind == "BROWSE" else "opera-products"
        direct_url = f"s3://asf-cumulus-prod-{bucket}/OPERA_L2_RTC-S1/{title}/{name}"
        description = f"This link provides direct download access via S3 to {name}"
        direct_type = "GET DATA VIA DIRECT ACCESS" if type_ == "GET DATA" else type_
        links.append({"URL": web, "Type": type_, "Description": f"Download {name}",
                      "Format": format_})  # fmt: skip
        links.append({"URL": direct_url, "Type": direct_type, "Description": description,
                      "Format": format_})  # fmt: skip
    return links


@dataclass
class AsfServer(Server):
    """Entry point of the archive: redirects requests with the token to a signed URL on S3, and
    requests without a token to the login page on another host.

    Attributes:
        token: the valid token.
    """

    token: str = ""

    def respond(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], bytes]:
        authorization = headers.get("authorization")
        if authorization is None:
            return 302, {"Location": f"https://{LOGIN_HOST}/oauth/authorize"}, b""
        if authorization != f"Bearer {self.token}":
            return 401, {}, b"the token is not valid"
        moment = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        signature = f"X-Amz-Algorithm=A&X-Amz-Date={moment}&X-Amz-Expires=3600&X-Amz-Signature=s"
        return 303, {"Location": f"https://{S3_HOST}{path}?{signature}"}, b""


@dataclass
class S3Server(FileServer):
    """Serves signed URLs only; like S3, it rejects a request that also has a token."""

    def respond(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], bytes]:
        if "authorization" in headers:
            return 400, {}, b"only one way to authenticate is allowed"
        if "X-Amz-Signature=" not in path:
            return 403, {}, b"not signed"
        return super().respond(method, path, headers, body)


@dataclass
class LoginServer(Server):
    """Earthdata Login: a web page with status 200."""

    seen: list[str] = field(default_factory=list)

    def respond(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "text/html"}, b"<!doctype html><title>Log in</title>" * 50
