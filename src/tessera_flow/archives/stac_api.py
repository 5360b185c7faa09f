"""Search a STAC API: pages, links to the next page, and the `fields` extension."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin

from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from ..config.sections import Download, Period
from ..urls import absolute_href, is_url, redacted
from .documents import links_of
from .paging import CompleteSearch, Page
from .query import (
    MAX_SEARCH_DEADLINES,
    REFUSED,
    BadResponse,
    Box,
    Query,
    QueryRefused,
    attempt,
    was_interrupted,
)

log = logging.getLogger(__name__)

PAGE_SIZE = 200
"""Items requested per page, up to 40 kB each; services may return fewer."""

COMPARED_ITEMS = 5
"""Items that are requested with and without the fields extension, to see whether they agree."""

_FIELDS = "item-search#fields"

_KEPT = ("id", "type", "collection", "bbox", "geometry", "properties")


def is_api(document: Mapping[str, Any]) -> bool:
    """Return whether a catalog is the landing page of a STAC API."""
    return "conformsTo" in document or any(
        link.get("rel") == "search" for link in links_of(document)
    )


def search_api(
    landing: Mapping[str, Any],
    location: str,
    stac_io: StacApiIO,
    collection: str,
    boxes: Sequence[Box],
    period: Period,
    download: Download,
    assets: Collection[str] = (),
) -> Iterator[dict[str, Any]]:
    """Yield all items of a collection in some boxes and a period.

    Args:
        landing: landing page of the API.
        location: its URL.
        stac_io: sends requests.
        collection: id of the collection.
        boxes: (west, south, east, north) in degrees.
        period: first and last day, both inclusive.
        download: number of attempts and time limit.
        assets: keys of the assets in use; only these are requested if the API supports it.

    Raises:
        APIError: the API rejects the query, or cannot be reached.
        QueryRefused: the API does not return all items.
    """
    pages = _Pages(landing, location, stac_io, collection, download, assets)
    search = CompleteSearch(pages.fetch, _key, PAGE_SIZE, MAX_SEARCH_DEADLINES * download.deadline)
    for box in boxes:
        yield from search.documents(Query.of(box, period))


def _key(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return what identifies an item, and its time. Archives can use an id for two scenes."""
    properties = item["properties"]
    time = properties.get("datetime") or properties.get("start_datetime") or ""
    return f"{item.get('collection')}/{item['id']}/{time}", str(time)


class _Pages:
    """Requests of pages."""

    def __init__(
        self,
        landing: Mapping[str, Any],
        location: str,
        stac_io: StacApiIO,
        collection: str,
        download: Download,
        assets: Collection[str],
    ) -> None:
        self._location, self._stac_io = location, stac_io
        self._collection, self._download = collection, download
        # Every API supports GET. Some also support POST, which has no limit of length.
        searches = {
            str(link.get("method") or "GET").upper(): link["href"]
            for link in links_of(landing)
            if link.get("rel") == "search" and isinstance(link.get("href"), str)
        }
        self._method = "POST" if "POST" in searches else "GET"
        base = location.partition("?")[0]
        href = searches.get(self._method) or f"{base.rstrip('/')}/search"
        self._url = urljoin(base, href)
        conforms = landing.get("conformsTo")
        uris = conforms if isinstance(conforms, list) else []
        announced = any(str(uri).endswith(_FIELDS) for uri in uris)
        self._assets = sorted(assets) if announced else []
        self._compared = False

    def fetch(self, query: Query, following: Any, limit: int) -> Page:
        """Return a page of a query; see `CompleteSearch`."""
        if self._assets:
            try:
                page = self._fetch(query, following, limit, self._fields())
                cause = self._defect(query, page)
                if not cause:
                    return page
            except APIError as error:
                if getattr(error, "status_code", None) not in (400, 422, 500, 501):
                    raise
                cause = f"HTTP status {error.status_code}"
            except QueryRefused as error:
                cause = str(error)
            log.info("searching without the fields extension: %s", cause)
            self._assets = []
            if following is not None:  # links to next pages repeat the fields
                raise QueryRefused(f"the fields extension cannot be used ({cause})")
        return self._fetch(query, following, limit, [])

    def _fields(self) -> list[str]:
        return [*_KEPT, *(f"assets.{key}" for key in self._assets)]

    def _defect(self, query: Query, page: Page) -> str:
        """Return why a page of reduced items cannot be used; empty if it can.

        Some items of the query are requested without the extension, once: services return only
        those properties that they have been configured to return.
        """
        if not all(map(_has_essentials, page.documents)):
            return "an item lacks a requested field"
        if not all(map(_is_absolute, page.documents)):
            return "URLs of assets are relative to links, which are not requested"
        if self._compared or not page.documents:
            return ""
        reduced = {_key(item): item for item in page.documents}
        pairs = [
            (reduced[_key(item)], item)
            for item in self._fetch(query, None, COMPARED_ITEMS, []).documents
            if _key(item) in reduced
        ]
        self._compared = bool(pairs)
        missing = dict.fromkeys(name for pair in pairs for name in self._missing(*pair))
        if missing:
            return f"items lack requested fields ({', '.join(list(missing)[:COMPARED_ITEMS])})"
        return "" if pairs else "its items cannot be compared with complete ones"

    def _missing(self, reduced: Mapping[str, Any], full: Mapping[str, Any]) -> list[str]:
        """Return the requested fields that a complete item has and a reduced one does not."""
        top: Mapping[str, Any] = {key: full.get(key) for key in _KEPT}
        holders = [
            ("", reduced, top),
            ("properties.", reduced["properties"], full["properties"]),
            *((f"assets.{key}.", _asset(reduced, key), _asset(full, key)) for key in self._assets),
        ]
        return [
            prefix + name
            for prefix, kept, complete in holders
            for name, value in complete.items()
            if value is not None and kept.get(name) is None
        ]

    def _fetch(self, query: Query, following: Any, limit: int, fields: list[str]) -> Page:
        request = following or self._first(query, limit, fields)

        def read() -> Any:
            try:
                text = self._stac_io.request(
                    request["href"], request["method"], request["headers"], request["body"]
                )
                document = json.loads(text)
            except APIError as error:
                status = getattr(error, "status_code", None)
                cause = self._cause(error)
                if status in REFUSED:
                    raise QueryRefused(cause) from error
                if status is None and was_interrupted(error):
                    raise QueryRefused(cause) from error
                raise
            except ValueError as error:
                raise BadResponse("the response is not JSON") from error
            items = document.get("features") if isinstance(document, dict) else None
            if not isinstance(items, list) or not all(map(_is_item, items)):
                raise BadResponse("the response is not a page of STAC items")
            return document

        document = attempt(read, self._download)
        return Page(document["features"], _next(document, request), _matched(document))

    def _first(self, query: Query, limit: int, fields: list[str]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "collections": [self._collection],
            "bbox": list(query.box),
            "datetime": "/".join(query.interval),
            "limit": limit,
        }
        if fields:
            body["fields"] = {"include": fields, "exclude": ["links"]}
        if self._method == "GET":
            body["collections"] = self._collection
            body["bbox"] = ",".join(map(str, query.box))
            if fields:
                body["fields"] = ",".join([*fields, "-links"])
        return {"href": self._url, "method": self._method, "headers": {}, "body": body}

    def _cause(self, error: Exception) -> str:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        status = getattr(error, "status_code", None)
        text = text if status is None else f"HTTP status {status}: {text}"
        return redacted(text, self._location)[:600]


def _asset(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an asset of an item; empty if there is none."""
    assets = item.get("assets")
    asset = assets.get(key) if isinstance(assets, dict) else None
    return asset if isinstance(asset, dict) else {}


def _has_essentials(item: Mapping[str, Any]) -> bool:
    """Return whether a reduced item has what every item has."""
    assets = item.get("assets")
    return (
        all(item.get(name) for name in ("bbox", "geometry", "collection"))
        and bool(item["properties"].get("datetime"))
        and isinstance(assets, dict)
        and any(isinstance(asset, dict) and asset.get("href") for asset in assets.values())
    )


def _is_relative(href: str) -> bool:
    return not href.startswith("/") and ":" not in href.partition("/")[0]


def _is_absolute(item: Mapping[str, Any]) -> bool:
    """Return whether the URLs of all assets are absolute."""
    assets = item.get("assets")
    keys = assets if isinstance(assets, dict) else {}
    hrefs = (_asset(item, key).get("href") for key in keys)
    return not any(isinstance(href, str) and href and _is_relative(href) for href in hrefs)


def with_own_urls(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item of an API whose relative URLs of assets are relative to its `self` link."""
    self_links = [link.get("href") for link in links_of(item) if link.get("rel") == "self"]
    if (
        _is_absolute(item)
        or not self_links
        or not isinstance(self_links[0], str)
        or not is_url(self_links[0])
    ):
        return item
    assets = dict(item["assets"])
    for key in assets:
        href = _asset(item, key).get("href")
        if isinstance(href, str) and _is_relative(href):
            assets[key] = assets[key] | {"href": absolute_href(href, self_links[0])}
    return item | {"assets": assets}


def _is_item(item: Any) -> bool:
    return isinstance(item, dict) and "id" in item and isinstance(item.get("properties"), dict)


def _next(document: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the request of the link to the next page; a relative one is relative to this page."""
    for link in links_of(document):
        if link.get("rel") != "next" or not link.get("href"):
            continue
        method = str(link.get("method") or "GET").upper()
        merge, body, stated = bool(link.get("merge")), link.get("body"), link.get("headers") or {}
        if not (isinstance(link["href"], str) and isinstance(stated, dict)) or not (
            body is None or isinstance(body, dict)
        ):
            raise QueryRefused("the link to the next page is not of the expected form")
        if method == "GET":
            body = {}
        elif body is None:
            body = request["body"]  # without it, the query would be empty
        elif merge:
            body = {**request["body"], **body}
        headers = {**(request["headers"] if merge else {}), **stated}
        return {
            "href": urljoin(request["href"], link["href"]),
            "method": method,
            "headers": headers,
            "body": body,
        }
    return None


def _matched(document: Mapping[str, Any]) -> int | None:
    """Return the announced number of items; the larger one if there are two."""
    context = document.get("context")
    stated = [
        document.get("numberMatched"),
        context.get("matched") if isinstance(context, dict) else None,
    ]
    numbers = [int(value) for value in map(str, stated) if value.isdigit()]
    return max(numbers, default=None)
