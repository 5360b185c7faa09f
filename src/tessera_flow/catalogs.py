"""Reading STAC items from wherever they are: an API, a catalog or an item collection."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pystac
from pystac.stac_io import DefaultStacIO
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3.util import Retry

from .config import Download, Period
from .errors import ItemError
from .hrefs import absolute_href, is_url, keep_secrets_out_of_log, public_href, redacted

_RETRIED = (429, 500, 502, 503, 504)

keep_secrets_out_of_log("urllib3.connectionpool")


def search_items(
    location: str,
    collection: str,
    box: tuple[float, float, float, float],
    period: Period,
    download: Download,
) -> Iterator[dict[str, Any]]:
    """Items as plain documents with absolute asset addresses, from whatever `location` is.

    A STAC API is asked for the collection, box and period; a catalog or an item collection
    gives all its items. A page of an API may repeat items.

    Args:
        location: URL, or absolute path. Credentials in it go to its own host only.
        collection: to ask an API for.
        box: (west, south, east, north) in degrees.
        period: both days included.
        download: timeout and tries of each request.

    Raises:
        ItemError: `location` cannot be reached or is none of these.
    """
    where = public_href(location)
    stac_io = _stac_io(location, download)
    try:
        document = json.loads(stac_io.read_text(location))
        kind = document.get("type") if isinstance(document, dict) else None
        if kind == "FeatureCollection":
            for item in document.get("features") or []:
                if not isinstance(item, dict):
                    raise ValueError("one of its features is not an item")
                yield _with_absolute_hrefs(item, location)
        elif kind not in ("Catalog", "Collection"):
            raise ItemError(
                f"{where} is neither a STAC API, a catalog nor an item collection: give the "
                "address of one as `location`."
            )
        elif is_url(location) and _is_api(document):
            yield from _search_api(location, stac_io, collection, box, period, download)
        else:
            root = pystac.Catalog if kind == "Catalog" else pystac.Collection
            catalog = root.from_file(location, stac_io=_CatalogIO(stac_io))
            for found in catalog.get_items(recursive=True):
                found.make_asset_hrefs_absolute()
                yield found.to_dict(include_self_link=False)
    except FileNotFoundError as error:
        raise ItemError(
            f"{where} does not exist: check `location` (a relative path is relative to "
            f"{Path.cwd()})."
        ) from error
    except (APIError, OSError) as error:
        raise ItemError(
            f"Searching {collection} at {where} failed ({_cause(error, location)}): check the "
            "address and the network, and run again."
        ) from error
    except (ValueError, KeyError, pystac.STACError) as error:
        raise ItemError(
            f"{where} is not a whole STAC document ({_cause(error, location)}): give a STAC API, a "
            "catalog or an item collection."
        ) from error


class _CatalogIO(DefaultStacIO):
    """Reads a static catalog with the timeout and retries of a STAC API.

    StacApiIO itself cannot serve: it makes of every catalog a client of an API.
    """

    def __init__(self, stac_io: StacApiIO) -> None:
        super().__init__()
        self._reader = stac_io

    def read_text_from_href(self, href: str) -> str:
        return str(self._reader.read_text(href))


def _stac_io(location: str, download: Download) -> StacApiIO:
    retry = Retry(
        total=download.attempts - 1,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        status_forcelist=_RETRIED,
        allowed_methods=None,
        respect_retry_after_header=True,
    )
    return StacApiIO(
        timeout=download.timeout, max_retries=retry, request_modifier=_credentials(location)
    )


def _credentials(location: str) -> Callable[[Any], None]:
    """A modifier of `requests.Request` that adds user, password and query of `location` to
    every request to its own host: links in the service's answers come without them."""
    home = urlsplit(location)
    host = home.netloc.rpartition("@")[2]
    query = parse_qsl(home.query)

    def modify(request: Any) -> None:
        parts = urlsplit(request.url)
        if (parts.scheme, parts.netloc.rpartition("@")[2]) != (home.scheme, host):
            return
        if home.username is not None:
            request.auth = (unquote(home.username), unquote(home.password or ""))
        given = {name for name, _ in parse_qsl(parts.query)} | set(request.params)
        request.params.update((name, value) for name, value in query if name not in given)

    return modify


def _cause(error: Exception, location: str) -> str:
    """The error's first line without anything secret."""
    text = str(error).strip() or type(error).__name__
    return redacted(text.splitlines()[0], location)[:600]


def _is_api(document: Mapping[str, Any]) -> bool:
    links = document.get("links", [])
    return "conformsTo" in document or any(link.get("rel") == "search" for link in links)


def _search_api(
    location: str,
    stac_io: StacApiIO,
    collection: str,
    box: tuple[float, float, float, float],
    period: Period,
    download: Download,
) -> Iterator[dict[str, Any]]:
    # The day after the end, at midnight: a bare date can lose the last day of the window.
    until = period.end + datetime.timedelta(days=1)
    # Client.open resets whatever it is not told.
    client = Client.open(
        location,
        stac_io=stac_io,
        timeout=download.timeout,
        request_modifier=_credentials(location),
    )
    # Every API can be searched by GET, some by POST as well, which has no limit of length.
    methods = {
        link.extra_fields.get("method", "GET") for link in client.links if link.rel == "search"
    }
    search = client.search(
        method="POST" if "POST" in methods else "GET",
        collections=[collection],
        bbox=list(box),
        datetime=f"{period.start}T00:00:00Z/{until}T00:00:00Z",
        limit=200,
    )
    for item in search.items_as_dicts():
        yield _with_absolute_hrefs(item, location)


def _with_absolute_hrefs(item: dict[str, Any], base: str) -> dict[str, Any]:
    """The item; an asset without an address is no asset."""
    assets = item.get("assets") or {}
    item["assets"] = {
        key: asset | {"href": absolute_href(asset["href"], base)}
        for key, asset in assets.items()
        if asset.get("href")
    }
    return item
