"""Query search services: retry requests, and divide the period of a refused query."""

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
"""HTTP status codes that a smaller query may avoid."""

MAX_REFUSED = 24
"""Number of refused queries after which a search fails: the service is probably down."""

_INTERRUPTED = re.compile(r"timed out|connection broken|IncompleteRead|aborted|reset by", re.I)


class QueryRefused(Exception):
    """The service refused this query at every attempt."""


def retries(download: Download) -> Retry:
    """Return the retry policy of a request: exponential pauses with jitter, `Retry-After`."""
    return Retry(
        total=download.attempts - 1,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        status_forcelist=RETRIED,
        allowed_methods=None,
        respect_retry_after_header=True,
        retry_after_max=int(download.deadline),
        # Return the last response, so that its status can be read.
        raise_on_status=False,
    )


def own_host_only(location: str) -> Callable[[Any], None]:
    """Return a modifier of `requests.Request` that adds the credentials of `location`.

    User, password and query of `location` are added to each request to its host, because links
    in responses do not contain them. Other hosts never receive them.
    """
    home = urlsplit(location)
    host = home.netloc.rpartition("@")[2]
    query = parse_qsl(home.query)

    def modify(request: Any) -> None:
        parts = urlsplit(request.url)
        if (parts.scheme, parts.netloc.rpartition("@")[2]) != (home.scheme, host):
            return
        if home.username is not None:
            request.auth = (unquote(home.username), unquote(home.password or ""))
        present = {name for name, _ in parse_qsl(parts.query)} | set(request.params)
        request.params.update((name, value) for name, value in query if name not in present)

    return modify


def was_interrupted(error: Exception) -> bool:
    """Return whether a response timed out or was cut off; False if the host is unreachable."""
    return _INTERRUPTED.search(str(error)) is not None


def by_date(
    search: Callable[[Period], Iterator[dict[str, Any]]],
    period: Period,
    box: tuple[float, float, float, float],
) -> Iterator[dict[str, Any]]:
    """Yield the results of `search` for a period; if it is refused, for each half, recursively.

    A service can return 502 for a page of a large query for hours, but answer two smaller
    queries. Documents returned before a refusal are yielded again.

    Args:
        search: runs the query for one interval.
        period: complete period.
        box: (west, south, east, north) of the query in degrees, for messages.

    Raises:
        QueryRefused: the query for a single day, or the MAX_REFUSED-th query, was refused.
    """
    waiting = [period]
    refused = 0
    while waiting:
        interval = waiting.pop()
        try:
            yield from search(interval)
        except QueryRefused as error:
            refused += 1
            if interval.start == interval.end or refused == MAX_REFUSED:
                bounds = ", ".join(f"{value:.3f}" for value in box)
                raise QueryRefused(
                    f"the query for {interval.start} to {interval.end} in the box {bounds} was "
                    f"refused: {error}"
                ) from error
            middle = interval.start + (interval.end - interval.start) // 2
            log.warning(
                "the query for %s to %s was refused (%s); querying each half",
                interval.start, interval.end, error,
            )  # fmt: skip
            waiting.append(Period(start=middle + datetime.timedelta(days=1), end=interval.end))
            waiting.append(Period(start=interval.start, end=middle))


def rfc3339(period: Period) -> tuple[str, str]:
    """Return the start and the end of a period as RFC 3339 times.

    The end is midnight after the last day; with a bare date, services may omit that day.
    """
    until = period.end + datetime.timedelta(days=1)
    return f"{period.start}T00:00:00Z", f"{until}T00:00:00Z"
