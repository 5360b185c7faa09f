"""Searching granules in NASA's Common Metadata Repository (CMR), `granules.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from ..config.sections import Download, Period
from ..errors import ItemError
from ..urls import public_href, redacted
from .query import REFUSED, QueryRefused, by_date, own_host_only, retries, rfc3339, was_interrupted

PAGE_SIZE = 1000
"""Granules of one answer, about 14 kB each; CMR allows 2000."""

SEARCH_AFTER = "CMR-Search-After"
HITS = "CMR-Hits"


def search_granules(
    location: str,
    concept: str,
    box: tuple[float, float, float, float],
    period: Period,
    download: Download,
) -> Iterator[dict[str, Any]]:
    """Granules of a collection that touch a box and a period, as CMR describes them.

    Pages follow the `CMR-Search-After` header; a service that does not send it is asked by
    `page_num`. Pages may repeat granules.

    Args:
        location: URL of `granules.json`.
        concept: concept id of the collection.
        box: (west, south, east, north) in degrees.
        period: both days included.
        download: timeout and attempts of each request.

    Raises:
        ItemError: the service cannot be reached, refuses the query also for single days, or
            gives fewer granules than it announces.
    """
    where = public_href(location)
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries(download)))
        ask = partial(_ask, session, location, download.timeout)
        query = {
            "collection_concept_id": concept,
            "bounding_box": ",".join(f"{value:.6f}" for value in box),
            "page_size": str(PAGE_SIZE),
        }

        def search(part: Period) -> Iterator[dict[str, Any]]:
            return _pages(ask, query | {"temporal": ",".join(rfc3339(part))})

        try:
            yield from by_date(search, period, box)
        except (QueryRefused, requests.RequestException) as error:
            cause = redacted(str(error).splitlines()[0], location)[:600]
            raise ItemError(
                f"Searching {concept} at {where} failed ({cause}): check the address and the "
                "network, and run again."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ItemError(
                f"{where} does not answer as CMR's granules.json does "
                f"({type(error).__name__}: {str(error)[:200]}): check `sentinel1.location`."
            ) from None


def _ask(
    session: requests.Session,
    location: str,
    timeout: float,
    query: dict[str, str],
    headers: dict[str, str],
) -> tuple[list[dict[str, Any]], str | None, int | None]:
    """Granules of one page, where the next one begins, and the number of all."""
    plain = location.partition("?")[0]
    request = requests.Request("GET", plain, params=dict(query), headers=headers)
    own_host_only(location)(request)
    prepared = session.prepare_request(request)
    settings = session.merge_environment_settings(str(prepared.url), {}, None, None, None)
    try:
        answer = session.send(prepared, timeout=timeout, **settings)
    except requests.RequestException as error:
        if was_interrupted(error):
            raise QueryRefused("the answer did not come, or broke off") from error
        raise
    if answer.status_code in REFUSED:
        raise QueryRefused(f"answer {answer.status_code}")
    if answer.status_code != 200:
        raise requests.HTTPError(f"answer {answer.status_code}: {_errors(answer)}")
    try:
        document = json.loads(answer.content)
    except ValueError as error:
        raise QueryRefused("the answer is not JSON") from error
    entries = document["feed"]["entry"]
    hits = answer.headers.get(HITS, "")
    return entries, answer.headers.get(SEARCH_AFTER), int(hits) if hits.isdigit() else None


def _errors(answer: requests.Response) -> str:
    """What CMR says is wrong, on one line."""
    return re.sub(r"\s+", " ", answer.text)[:300]


def _pages(ask: Any, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    after: str | None = None
    number = 1
    while True:
        page = {} if number == 1 or after else {"page_num": str(number)}
        headers = {SEARCH_AFTER: after} if after else {}
        entries, following, hits = ask({**query, **page}, headers)
        new = [entry for entry in entries if entry["id"] not in seen]
        seen.update(entry["id"] for entry in entries)
        yield from new
        if not entries or (not new and following in (None, after)):
            break
        if following is None and (after or (hits is not None and len(seen) >= hits)):
            break
        after, number = following, number + 1
    if hits is not None and len(seen) < hits:
        raise QueryRefused(f"{hits} granules were announced and {len(seen)} came")
