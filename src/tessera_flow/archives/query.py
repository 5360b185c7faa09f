"""Asking a search service: retries of one request, and smaller windows for a refused query."""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from urllib3.util import Retry

from ..config.sections import Download, Period

log = logging.getLogger(__name__)

RETRIED = (429, 500, 502, 503, 504)

REFUSED = (408, 413, 500, 502, 503, 504)
"""Answers that a smaller query may not get."""

MOST_REFUSED = 24
"""Refused queries of one search, after which it fails: the service is down, not choosy."""


_INTERRUPTED = re.compile(r"timed out|connection broken|IncompleteRead|aborted|reset by", re.I)


class QueryRefused(Exception):
    """The service would not answer this query, however often it was asked."""


def retries(download: Download) -> Retry:
    """How one request is repeated: exponential pauses with jitter, `Retry-After` honoured."""
    return Retry(
        total=download.attempts - 1,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        status_forcelist=RETRIED,
        allowed_methods=None,
        respect_retry_after_header=True,
        retry_after_max=int(download.deadline),
        # The last answer itself is wanted, for its status.
        raise_on_status=False,
    )


def own_host_only(location: str) -> Callable[[Any], None]:
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


def was_interrupted(error: Exception) -> bool:
    """Whether an answer was too slow or broke off, as large ones do; not: nobody is there."""
    return _INTERRUPTED.search(str(error)) is not None


def by_date(
    search: Callable[[Period], Iterator[dict[str, Any]]],
    period: Period,
    box: tuple[float, float, float, float],
) -> Iterator[dict[str, Any]]:
    """What `search` gives for a period; where it is refused, for each half, and so on.

    A service can answer 502 for one page of a large query for hours, and answer two smaller
    queries. Documents that came before a refusal come again.

    Args:
        search: asks for one period.
        period: the whole of it.
        box: (west, south, east, north) of the query, for messages.

    Raises:
        QueryRefused: the query for a single day was refused, or MOST_REFUSED queries were.
    """
    waiting = [period]
    refused = 0
    while waiting:
        part = waiting.pop()
        try:
            yield from search(part)
        except QueryRefused as error:
            refused += 1
            if part.start == part.end or refused == MOST_REFUSED:
                place = ", ".join(f"{value:.3f}" for value in box)
                raise QueryRefused(
                    f"the query for {part.start} to {part.end} in the box {place} was refused: "
                    f"{error}"
                ) from error
            middle = part.start + (part.end - part.start) // 2
            log.warning(
                "the query for %s to %s was refused (%s); asking for each half",
                part.start, part.end, error,
            )  # fmt: skip
            waiting.append(Period(start=middle + datetime.timedelta(days=1), end=part.end))
            waiting.append(Period(start=part.start, end=middle))


def rfc3339(period: Period) -> tuple[str, str]:
    """First and last moment of a period.

    The last is midnight after its last day: a bare date can lose that day.
    """
    until = period.end + datetime.timedelta(days=1)
    return f"{period.start}T00:00:00Z", f"{until}T00:00:00Z"
