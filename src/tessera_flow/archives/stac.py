"""Reading STAC items from wherever they are: an API, a catalog or a file of items."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pystac
import requests
from pystac.stac_io import DefaultStacIO
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from ..config.sections import Download, Period
from ..errors import ItemError
from ..urls import absolute_href, is_url, keep_secrets_out_of_log, public_href, redacted
from .query import REFUSED, QueryRefused, by_date, own_host_only, retries, rfc3339, was_interrupted
from .stac_geoparquet import is_parquet, read_items

PAGE_SIZE = 200
"""Items asked for in one answer, up to 40 kB each; services may give fewer."""

keep_secrets_out_of_log("urllib3.connectionpool")


def search_items(
    location: str,
    collection: str,
    box: tuple[float, float, float, float],
    period: Period,
    download: Download,
) -> Iterator[dict[str, Any]]:
    """Items as plain documents with absolute asset addresses, from whatever `location` is.

    A STAC API is asked for the collection, box and period; a catalog, an item collection or a
    stac-geoparquet file gives all its items. A page of an API may repeat items.

    Args:
        location: URL, or absolute path. Credentials in it go to its own host only.
        collection: to ask an API for.
        box: (west, south, east, north) in degrees.
        period: both days included.
        download: timeout and attempts of each request.

    Raises:
        ItemError: `location` cannot be reached or is none of these.
    """
    where = public_href(location)
    stac_io = _stac_io(location, download)
    try:
        yield from _items_at(location, stac_io, collection, box, period, download)
    except FileNotFoundError as error:
        raise ItemError(
            f"{where} does not exist: check `location` (a relative path is relative to "
            f"{Path.cwd()})."
        ) from error
    except (APIError, OSError, QueryRefused) as error:
        raise ItemError(
            f"Searching {collection} at {where} failed ({_cause(error, location)}): check the "
            "address and the network, and run again."
        ) from error
    except (ValueError, KeyError, pystac.STACError) as error:
        raise ItemError(
            f"{where} is not a whole STAC document ({_cause(error, location)}): give a STAC API, a "
            "catalog, an item collection or a stac-geoparquet file."
        ) from error


def _items_at(
    location: str,
    stac_io: StacApiIO,
    collection: str,
    box: tuple[float, float, float, float],
    period: Period,
    download: Download,
) -> Iterator[dict[str, Any]]:
    """The items, whatever kind of archive there is; errors are those of the libraries."""
    if _names_parquet(location):
        yield from _parquet_items(location, stac_io)
        return
    document = json.loads(stac_io.read_text(location))
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection":
        for item in document.get("features") or []:
            if not isinstance(item, dict):
                raise ValueError("one of its features is not an item")
            yield _with_absolute_hrefs(item, location)
    elif kind not in ("Catalog", "Collection"):
        raise ItemError(
            f"{public_href(location)} is neither a STAC API, a catalog nor an item collection: "
            "give the address of one as `location`."
        )
    elif is_url(location) and _is_api(document):
        yield from _search_api(location, stac_io, collection, box, period, download)
    else:
        root = pystac.Catalog if kind == "Catalog" else pystac.Collection
        catalog = root.from_file(location, stac_io=_CatalogIO(stac_io))
        for found in catalog.get_items(recursive=True):
            found.make_asset_hrefs_absolute()
            yield found.to_dict(include_self_link=False)


def _names_parquet(location: str) -> bool:
    if is_url(location):
        return urlsplit(location).path.endswith((".parquet", ".geoparquet"))
    return is_parquet(Path(location))


def _parquet_items(location: str, stac_io: StacApiIO) -> Iterator[dict[str, Any]]:
    """Items of a stac-geoparquet file; one at a URL is fetched whole, since its columns lie
    all over it."""
    if not is_url(location):
        for item in read_items(Path(location)):
            yield _with_absolute_hrefs(item, location)
        return
    request = requests.Request("GET", location.partition("?")[0])
    own_host_only(location)(request)
    prepared = stac_io.session.prepare_request(request)
    settings = stac_io.session.merge_environment_settings(str(prepared.url), {}, True, None, None)
    with (
        stac_io.session.send(prepared, timeout=stac_io.timeout, **settings) as answer,
        tempfile.NamedTemporaryFile(suffix=".parquet") as copy,
    ):
        answer.raise_for_status()
        for part in answer.iter_content(1 << 20):
            copy.write(part)
        copy.flush()
        for item in read_items(Path(copy.name)):
            yield _with_absolute_hrefs(item, location)


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
    return StacApiIO(
        timeout=download.timeout,
        max_retries=retries(download),
        request_modifier=own_host_only(location),
    )


def _cause(error: Exception, location: str) -> str:
    """The error's first line without anything secret."""
    text = str(error).strip() or type(error).__name__
    status = getattr(error, "status_code", None)
    text = text if status is None else f"answer {status}: {text}"
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
    # Client.open resets whatever it is not told.
    client = Client.open(
        location,
        stac_io=stac_io,
        timeout=download.timeout,
        request_modifier=own_host_only(location),
    )
    # Every API can be searched by GET, some by POST as well, which has no limit of length.
    methods = {
        link.extra_fields.get("method", "GET") for link in client.links if link.rel == "search"
    }

    def search(part: Period) -> Iterator[dict[str, Any]]:
        found = client.search(
            method="POST" if "POST" in methods else "GET",
            collections=[collection],
            bbox=list(box),
            datetime="/".join(rfc3339(part)),
            limit=PAGE_SIZE,
        )
        try:
            yield from found.items_as_dicts()
        except (APIError, ValueError) as error:
            if _is_refusal(error):
                raise QueryRefused(_cause(error, location)) from error
            raise

    for item in by_date(search, period, box):
        yield _with_absolute_hrefs(item, location)


def _is_refusal(error: Exception) -> bool:
    """Whether a smaller query may pass: a bad answer, none in time, or a page cut short."""
    if isinstance(error, json.JSONDecodeError):
        return True
    status = getattr(error, "status_code", None)
    return status in REFUSED or (status is None and was_interrupted(error))


def _with_absolute_hrefs(item: dict[str, Any], base: str) -> dict[str, Any]:
    """The item; an asset without an address is no asset."""
    assets = item.get("assets") or {}
    item["assets"] = {
        key: asset | {"href": absolute_href(asset["href"], base)}
        for key, asset in assets.items()
        if asset.get("href")
    }
    return item
