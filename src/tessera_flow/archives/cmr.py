"""Search granules in NASA's Common Metadata Repository (CMR), `granules.umm_json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import requests

from ..config.sections import Download, Period
from ..errors import ItemError
from ..urls import public_href, redacted
from .paging import CompleteSearch, Page, SearchTooLong
from .query import (
    MAX_SEARCH_DEADLINES,
    REFUSED,
    BadResponse,
    Box,
    Query,
    QueryRefused,
    attempt,
    own_host_only,
    was_interrupted,
)
from .transfer import TimeLimit, receive, session_of

PAGE_SIZE = 1000
"""Granules per response, about 14 kB each; CMR allows 2000."""

SEARCH_AFTER = "CMR-Search-After"
HITS = "CMR-Hits"


def search_granules(
    location: str,
    concept: str,
    boxes: Sequence[Box],
    period: Period,
    download: Download,
    attributes: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the granules of a collection in some boxes and a period, as CMR returns them.

    Paging uses the `CMR-Search-After` header, or `page_num` if the service does not send it. The
    result is complete, see `paging`.

    Args:
        location: URL of `granules.umm_json`.
        concept: concept ID of the collection.
        boxes: (west, south, east, north) in degrees, west <= east.
        period: first and last day, both inclusive.
        download: timeout, number of attempts and time limit.
        attributes: value by name of a text attribute that granules must have.

    Raises:
        ItemError: the service cannot be reached, refuses queries for single days, or does not
            return all granules.
    """
    where = public_href(location)
    time_limit = TimeLimit(download)
    with session_of(download, time_limit) as session:
        names = [f"string,{name},{value}" for name, value in (attributes or {}).items()]

        def fetch(query: Query, following: Any, limit: int) -> Page:
            parameters: dict[str, str | list[str]] = {
                "collection_concept_id": concept,
                "bounding_box": ",".join(f"{value:.6f}" for value in query.box),
                "page_size": str(limit),
                "temporal": ",".join(query.interval),
                **({"attribute[]": names} if names else {}),
            }
            return attempt(
                partial(
                    _page, session, location, download.timeout, time_limit, parameters, following
                ),
                download,
            )

        seconds = MAX_SEARCH_DEADLINES * download.deadline
        search = CompleteSearch(fetch, _key, PAGE_SIZE, seconds, "granules")
        try:
            for box in boxes:
                yield from search.documents(Query.of(box, period))
        except (QueryRefused, SearchTooLong) as error:
            cause = redacted(str(error).splitlines()[0], location)[:600]
            raise ItemError(
                f"Searching {concept} at {where} failed ({cause}): run again, or use another "
                "service or a shorter period."
            ) from None
        except requests.RequestException as error:
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


def _key(granule: Mapping[str, Any]) -> tuple[str, str]:
    extent = granule["umm"].get("TemporalExtent") or {}
    interval = extent.get("RangeDateTime") or {}
    time = interval.get("BeginningDateTime") or extent.get("SingleDateTime") or ""
    return str(granule["meta"]["concept-id"]), str(time)


def _page(
    session: requests.Session,
    location: str,
    timeout: float,
    limit: TimeLimit,
    query: dict[str, str | list[str]],
    following: Any,
) -> Page:
    """Return a page. `following` is the value of the header or the number of the page."""
    headers = {}
    if isinstance(following, str):
        headers = {SEARCH_AFTER: following}
    elif following is not None:
        query = query | {"page_num": str(following)}
    url = location.partition("?")[0]
    request = requests.Request("GET", url, params=dict(query), headers=headers)
    own_host_only(location)(request)
    prepared = session.prepare_request(request)
    try:
        response, body = receive(session, prepared, timeout, limit)
    except requests.RequestException as error:
        if was_interrupted(error):
            raise QueryRefused("the response timed out or was cut off") from error
        raise
    if response.status_code in REFUSED:
        raise QueryRefused(f"HTTP status {response.status_code}")
    if response.status_code != 200:
        raise requests.HTTPError(f"HTTP status {response.status_code}: {_errors(body)}")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise BadResponse("the response is not JSON") from error
    entries = document["items"]
    hits = response.headers.get(HITS, "")
    after: str | int | None = response.headers.get(SEARCH_AFTER)
    if after is None and entries and not headers:
        after = 1 + (following or 1)
    return Page(entries, after, int(hits) if hits.isdigit() else None)


def _errors(body: bytes) -> str:
    """Return the error text of a response on one line."""
    return re.sub(r"\s+", " ", body.decode("utf-8", "replace"))[:300]
