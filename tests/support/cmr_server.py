"""Local test servers for NASA's CMR search and the archive of the Alaska Satellite Facility.

`CmrServer` responds like CMR's `granules.json`; `AsfServer` requires a bearer token and redirects
to signed URLs on S3, which `S3Server` serves.
"""

from __future__ import annotations

import datetime as dt
import json
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
        granules: entries of `granules.json`, in the order in which a search returns them.
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
        if parts.path != "/search/granules.json" or method != "GET":
            return 404, {}, b"not found"
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        unknown = set(query) - {
            "collection_concept_id", "bounding_box", "temporal", "page_size", "page_num",
        }  # fmt: skip
        if unknown or int(query.get("page_size", 10)) > 2000:
            return 400, {}, json.dumps({"errors": [f"bad query: {sorted(unknown)}"]}).encode()
        key = (*(v for k, v in query.items() if not k.startswith("page")), len(self.granules))
        if key not in self.results:
            self.results[key] = [entry for entry in self.granules if _matches(entry, query)]
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
        extra = {"Content-Type": "application/json"}
        if self.hits:
            extra["CMR-Hits"] = str(len(matches))
        if self.search_after and entries:
            # CMR sends it with every page that has entries, including the last one.
            following = start + len(entries)
            following -= self.overlap if following < len(matches) - self.missing else 0
            extra["CMR-Search-After"] = json.dumps([following])
        document = {"feed": {"updated": "", "id": "", "title": "", "entry": entries}}
        return 200, extra, json.dumps(document).encode()


def _days(temporal: str) -> int:
    first, last = (dt.datetime.fromisoformat(text.replace("Z", "+00:00")) for text in
                   temporal.split(","))  # fmt: skip
    return (last - first).days


def _matches(granule: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    if query.get("collection_concept_id") != CONCEPT:
        return False
    first, last = query["temporal"].split(",")
    if not (granule["time_start"] <= last and granule["time_end"] >= first):
        return False
    numbers = [float(number) for number in granule["polygons"][0][0].split()]
    outline = shapely.Polygon(zip(numbers[1::2], numbers[::2], strict=True))
    box = shapely.box(*(float(value) for value in query["bounding_box"].split(",")))
    return bool(outline.intersects(box))


@contextmanager
def serve_cmr(granules: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[CmrServer]:
    """Serve the search within the `with` block."""
    state = CmrServer(granules=granules, **options)
    with running(state):
        yield state


def granule(title: str, start: str, outline: shapely.Polygon) -> dict[str, Any]:
    """Return an entry of `granules.json` for a burst, with the keys of the recorded one.

    Args:
        title: product name.
        start: sensing time, RFC 3339.
        outline: footprint in longitude and latitude.
    """
    begin = dt.datetime.fromisoformat(start.replace("Z", "+00:00"))

    def stamp(moment: dt.datetime) -> str:
        return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    corners = " ".join(f"{y:.8f} {x:.8f}" for x, y in outline.exterior.coords)
    return {
        "producer_granule_id": title,
        "time_start": stamp(begin),
        "time_end": stamp(begin + dt.timedelta(seconds=3)),
        "updated": stamp(begin + dt.timedelta(hours=8)),
        "dataset_id": "OPERA Radiometric Terrain Corrected SAR Backscatter from Sentinel-1 "
        "validated product (Version 1)",
        "data_center": "ASF",
        "title": title,
        "coordinate_system": "GEODETIC",
        "day_night_flag": "UNSPECIFIED",
        "polygons": [[corners]],
        "id": f"G{zlib.crc32(title.encode())}-ASF",
        "original_format": "UMM_JSON",
        "granule_size": "13.365541",
        "browse_flag": True,
        "online_access_flag": True,
        "links": _links(title),
    }


def _links(title: str) -> list[dict[str, str]]:
    esip = "http://esipfed.org/ns/fedsearch/1.1/"
    files = [("browse#", "browse#", "BROWSE", f"{title}_BROWSE.png")]
    files += [
        ("data#", "s3#", "RTC", f"{title}{end}") for end in ("_VH.tif", "_VV.tif", "_mask.tif")
    ]
    files.append(("data#", "s3#", "RTC", f"{title}.h5"))
    files.append(("metadata#", "metadata#", "RTC", f"{title}_VV.tif.md5"))
    links = []
    for rel, direct, kind, name in files:
        web = f"https://datapool.asf.alaska.edu/{kind}/OPERA-S1/{name}"
        bucket = "opera-browse" if kind == "BROWSE" else "opera-products"
        direct_url = f"s3://asf-cumulus-prod-{bucket}/OPERA_L2_RTC-S1/{title}/{name}"
        description = f"This link provides direct download access via S3 to {name}"
        links.append({"rel": esip + rel, "hreflang": "en-US", "title": f"Download {name}",
                      "href": web})  # fmt: skip
        links.append({"rel": esip + direct, "hreflang": "en-US", "title": description,
                      "href": direct_url})  # fmt: skip
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
