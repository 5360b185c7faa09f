"""Read STAC items from an API, a static catalog, or files: item collections, stac-geoparquet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pystac
from pystac_client.exceptions import APIError

from ..config.sections import Download, Period
from ..errors import ItemError
from ..input_files import check_input
from ..urls import is_url, keep_secrets_out_of_log, public_href, redacted
from .documents import checked_item, features_of
from .item_files import find_catalog, folder_items, items_of, read_json
from .paging import SearchTooLong
from .places import Places
from .query import Box, QueryRefused, own_host_only
from .stac_api import is_api, search_api, with_own_urls
from .stac_geoparquet import is_parquet, read_items
from .stac_io import LimitedIO
from .static_catalog import catalog_items, check_complete
from .transfer import TimeLimit

keep_secrets_out_of_log("urllib3.connectionpool")


def search_items(
    location: str,
    collection: str,
    boxes: Sequence[Box],
    period: Period,
    download: Download,
    assets: Collection[str] = (),
    places: Places | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield STAC items of `location` as dictionaries with absolute asset URLs.

    A STAC API is searched by collection, box and period. A static catalog, an item collection, a
    stac-geoparquet file or a folder of such files yields all its items. An API may return an item
    more than once, with other content.

    Args:
        location: URL or absolute path. Credentials in it are sent only to its own host.
        collection: collection to search in an API.
        boxes: (west, south, east, north) in degrees, west <= east.
        period: first and last day, both inclusive.
        download: timeout, number of attempts and time limit.
        assets: keys of the assets in use; only these are requested if the API supports it.
        places: where files of the archive may be; default: in its own folder. Assets elsewhere
            have the reason under `places.REFUSED`.

    Raises:
        ItemError: `location` cannot be read or is none of these formats.
    """
    where = public_href(location)
    limit = TimeLimit(download)
    stac_io = LimitedIO(download, own_host_only(location), limit)
    places = places or Places(location)
    try:
        yield from _items_at(location, stac_io, collection, boxes, period, download, assets, places)
    except FileNotFoundError as error:
        raise ItemError(
            f"{where} does not exist: check `location` (a relative path is relative to "
            f"{Path.cwd()})."
        ) from error
    except (QueryRefused, SearchTooLong) as error:
        raise ItemError(
            f"Searching {collection} at {where} failed ({_cause(error, location)}): run again, or "
            "use another service or a shorter period."
        ) from error
    except OSError as error:
        if is_url(location):
            raise _unreachable(collection, where, error, location) from error
        raise ItemError(f"{where} cannot be read ({error.strerror or error}).") from error
    except APIError as error:
        raise _unreachable(collection, where, error, location) from error
    except (ValueError, KeyError, pystac.STACError) as error:
        raise ItemError(
            f"{where} is not a valid STAC document ({_cause(error, location)}): set `location` to "
            "a STAC API, a catalog, an item collection, a stac-geoparquet file or a folder of them."
        ) from error


def _unreachable(collection: str, where: str, error: Exception, location: str) -> ItemError:
    return ItemError(
        f"Searching {collection} at {where} failed ({_cause(error, location)}): check the URL and "
        "the network, and run again."
    )


def _items_at(
    location: str,
    stac_io: LimitedIO,
    collection: str,
    boxes: Sequence[Box],
    period: Period,
    download: Download,
    assets: Collection[str],
    places: Places,
) -> Iterator[dict[str, Any]]:
    """Yield the items of any kind of archive; errors of the libraries are not converted."""
    if not is_url(location) and os.path.isdir(location):
        path = find_catalog(Path(location))
        if path is None:
            for item, place in folder_items(Path(location)):
                yield checked_item(item, place, places)
            return
        location = str(path)
    if not is_url(location):
        check_input(location, ItemError)
    if _names_parquet(location):
        yield from _parquet_items(location, stac_io, places)
        return
    document = read_json(stac_io.read_text(location))
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection":
        features = features_of(document, location)
        check_complete(document, location, len(features))
        for item in features:
            yield checked_item(item, location, places)
    elif kind not in ("Catalog", "Collection"):
        items = items_of(document)
        if items is None:
            raise ItemError(
                f"{public_href(location)} is neither a STAC API, a catalog nor an item "
                "collection: set `location` to the URL or path of one."
            )
        for item in items:
            yield checked_item(item, location, places)
    elif is_url(location) and is_api(document):
        for item in search_api(
            document, location, stac_io, collection, boxes, period, download, assets
        ):
            yield checked_item(with_own_urls(item), location, places)
    else:
        for item, place in catalog_items(location, document, stac_io.read_text):
            yield checked_item(item, place, places)


def _names_parquet(location: str) -> bool:
    if is_url(location):
        return urlsplit(location).path.lower().endswith((".parquet", ".geoparquet"))
    return is_parquet(Path(location))


def _parquet_items(location: str, stac_io: LimitedIO, places: Places) -> Iterator[dict[str, Any]]:
    """Yield the items of a stac-geoparquet file.

    A file at a URL is downloaded completely, because its columns are spread over the file.
    """
    if not is_url(location):
        for item in read_items(Path(location)):
            yield checked_item(item, location, places)
        return
    with tempfile.NamedTemporaryFile("w+b", suffix=".parquet") as file:
        stac_io.copy(location.partition("?")[0], file)
        file.flush()
        for item in read_items(Path(file.name)):
            yield checked_item(item, location, places)


def _cause(error: Exception, location: str) -> str:
    """Return the first line of an error without secrets."""
    text = str(error).strip() or type(error).__name__
    status = getattr(error, "status_code", None)
    text = text if status is None else f"HTTP status {status}: {text}"
    return redacted(text.splitlines()[0], location)[:600]
