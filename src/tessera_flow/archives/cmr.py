"""Search granules in NASA's Common Metadata Repository (CMR), `granules.umm_json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from ..config.sections import Download, Period
from ..errors import ItemError
from ..urls import public_href, redacted
from .query import REFUSED, QueryRefused, by_date, own_host_only, retries, rfc3339, was_interrupted

PAGE_SIZE = 1000
"""Granules per response, about 14 kB each; CMR allows 2000."""

SEARCH_AFTER = "CMR-Search-After"
HITS = "CMR-Hits"


def search_granules(
    location: str,
    concept: str,
    box: tuple[float, float, float, float],
    period: Period,
    download: Download,
    attributes: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the granules of a collection that intersect a box and a period, as CMR returns them.

    Paging uses the `CMR-Search-After` header, or `page_num` if the service does not send it. A
    granule may be yielded more than once.

    Args:
        location: URL of `granules.umm_json`.
        concept: concept ID of the collection.
        box: (west, south, east, north) in degrees.
        period: first and last day, both inclusive.
        download: timeout and number of attempts of each request.
        attributes: value by name of a text attribute that granules must have.

    Raises:
        ItemError: the service cannot be reached, refuses queries for single days, or returns
            fewer granules than it announces.
    """
    where = public_href(location)
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries(download)))
        fetch = partial(_fetch_page, session, location, download.timeout)
        query: dict[str, str | list[str]] = {
            "collection_concept_id": concept,
            "bounding_box": ",".join(f"{value:.6f}" for value in box),
            "page_size": str(PAGE_SIZE),
        }
        filters = [f"string,{name},{value}" for name, value in (attributes or {}).items()]
        if filters:
            query["attribute[]"] = filters

        def search(interval: Period) -> Iterator[dict[str, Any]]:
            return _pages(fetch, query | {"temporal": ",".join(rfc3339(interval))})

        try:
            yield from by_date(search, period, box)
        except (QueryRefused, requests.RequestException) as error:
            cause = redacted(str(error).splitlines()[0], location)[:600]
            raise ItemError(
                f"Searching {concept} at {where} failed ({cause}): check the URL and the "
                "network, and run again."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ItemError(
                f"{where} did not respond like CMR's granules.umm_json "
                f"({type(error).__name__}: {str(error)[:200]}): check `sentinel1.location`."
            ) from None


def _fetch_page(
    session: requests.Session,
    location: str,
    timeout: float,
    query: dict[str, str | list[str]],
    headers: dict[str, str],
) -> tuple[list[dict[str, Any]], str | None, int | None]:
    """Return the granules of a page, the start of the next page, and the total number."""
    url = location.partition("?")[0]
    request = requests.Request("GET", url, params=dict(query), headers=headers)
    own_host_only(location)(request)
    prepared = session.prepare_request(request)
    settings = session.merge_environment_settings(str(prepared.url), {}, None, None, None)
    try:
        response = session.send(prepared, timeout=timeout, **settings)
    except requests.RequestException as error:
        if was_interrupted(error):
            raise QueryRefused("the response timed out or was cut off") from error
        raise
    if response.status_code in REFUSED:
        raise QueryRefused(f"HTTP status {response.status_code}")
    if response.status_code != 200:
        raise requests.HTTPError(f"HTTP status {response.status_code}: {_errors(response)}")
    try:
        document = json.loads(response.content)
    except ValueError as error:
        raise QueryRefused("the response is not JSON") from error
    entries = document["items"]
    hits = response.headers.get(HITS, "")
    return entries, response.headers.get(SEARCH_AFTER), int(hits) if hits.isdigit() else None


def _errors(response: requests.Response) -> str:
    """Return the error text of a response on one line."""
    return re.sub(r"\s+", " ", response.text)[:300]


def _pages(fetch: Any, query: dict[str, str | list[str]]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    after: str | None = None
    number = 1
    while True:
        page = {} if number == 1 or after else {"page_num": str(number)}
        headers = {SEARCH_AFTER: after} if after else {}
        entries, following, hits = fetch({**query, **page}, headers)
        new = [entry for entry in entries if entry["meta"]["concept-id"] not in seen]
        seen.update(entry["meta"]["concept-id"] for entry in entries)
        yield from new
        if not entries or (not new and following in (None, after)):
            break
        if following is None and (after or (hits is not None and len(seen) >= hits)):
            break
        after, number = following, number + 1
    if hits is not None and len(seen) < hits:
        raise QueryRefused(f"the service announced {hits} granules but returned {len(seen)}")
