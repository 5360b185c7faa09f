"""Query search services: retry requests; divide the period and the area of a query."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from ..config.sections import Download, Period
from .credentials import netrc_login

RETRIED = (429, 500, 502, 503, 504)

REFUSED = (408, 413, 500, 502, 503, 504)
"""HTTP status codes that a smaller query may avoid."""

MAX_DIVISIONS = 2
"""Number of times that the area of a query for a single day is divided into quarters."""

MAX_SEARCH_DEADLINES = 4
"""Time limit of a search in units of `download.deadline`."""

BAD_RESPONSE_ATTEMPTS = 3
"""Maximum number of attempts if a response is cut off or is not JSON."""

PAUSE = 0.5
"""Seconds before the second attempt; doubled for each further one."""

Box = tuple[float, float, float, float]
"""(west, south, east, north) in degrees."""

_DAY = datetime.timedelta(days=1)

T = TypeVar("T")

_INTERRUPTED = re.compile(r"timed out|connection broken|IncompleteRead|aborted|reset by", re.I)


class QueryRefused(Exception):
    """The service refused this query at every attempt, or its answer is incomplete."""


class BadResponse(Exception):
    """A response was cut off or is not of the expected format; another attempt may succeed."""


def own_host_only(location: str) -> Callable[[Any], None]:
    """Return a modifier of `requests.Request` that adds the credentials of `location`.

    User, password and query of `location` are added to each request to its host, because links
    in responses do not contain them. Other hosts never receive them. Without a user, `requests`
    takes one from ~/.netrc.

    Raises:
        CredentialsError: see `netrc_login`.
    """
    netrc_login(location)
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


def attempt(request: Callable[[], T], download: Download) -> T:
    """Return the result of `request`, repeated if it raises `BadResponse`.

    Raises:
        QueryRefused: every attempt failed.
    """
    last = min(download.attempts, BAD_RESPONSE_ATTEMPTS) - 1
    for number in itertools.count():
        try:
            return request()
        except BadResponse as error:
            if number >= last:
                raise QueryRefused(str(error)) from error
        time.sleep(PAUSE * 2**number)
    raise AssertionError("unreachable")


def was_interrupted(error: Exception) -> bool:
    """Return whether a response timed out or was cut off; False if the host is unreachable."""
    return _INTERRUPTED.search(str(error)) is not None


def dateline_free(west: float, east: float) -> list[tuple[float, float]]:
    """Return intervals of longitude with west <= east between -180 and 180.

    Args:
        west, east: degrees; `east` is greater than 180 if the interval crosses the antimeridian.
    """
    if east - west >= 360:
        return [(-180.0, 180.0)]
    shift = 360.0 * ((west + 180.0) // 360.0)
    west, east = west - shift, east - shift
    return [(west, east)] if east <= 180 else [(west, 180.0), (-180.0, east - 360.0)]


@dataclass(frozen=True)
class Query:
    """A box and an interval of time of a search.

    Attributes:
        box: (west, south, east, north) in degrees, west <= east.
        start, end: UTC times, both inclusive.
        divisions: number of times that an area was divided.
    """

    box: Box
    start: datetime.datetime
    end: datetime.datetime
    divisions: int = 0

    @classmethod
    def of(cls, box: Box, period: Period) -> Query:
        """Return the query of a period.

        The end is midnight after the last day; with a bare date, services may omit that day.
        """
        midnight = datetime.time(tzinfo=datetime.UTC)
        until = period.end + datetime.timedelta(days=1)
        return cls(
            box,
            datetime.datetime.combine(period.start, midnight),
            datetime.datetime.combine(until, midnight),
        )

    def __str__(self) -> str:
        """Return the query for messages."""
        bounds = ", ".join(f"{value:.3f}" for value in self.box)
        first, last = str(self.start.date()), str(self.end.date() - _DAY)
        if any(moment.time() != datetime.time() for moment in (self.start, self.end)):
            first, last = self.interval
        return f"the query for {first} to {last} in the box {bounds}"

    @property
    def interval(self) -> tuple[str, str]:
        """Start and end as RFC 3339 times."""
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ}", f"{self.end:%Y-%m-%dT%H:%M:%SZ}"

    @property
    def days(self) -> int:
        """Number of days, rounded down."""
        return (self.end - self.start).days

    def excludes(self, time: str) -> bool:
        """Return whether an RFC 3339 time is more than a day before or after the interval."""
        moment = _second(time)
        return moment is not None and not self.start - _DAY <= moment <= self.end + _DAY

    def by_days(self) -> list[Query]:
        """Return the first and the second half; nothing for a single day."""
        if self.days < 2:
            return []
        return self._divided([self.start + _DAY * ((self.days + 1) // 2)])

    def by_times(self, times: Iterable[str]) -> list[Query]:
        """Return parts such that no part has all items, unless all are of one second.

        Items of one day are in a part of their own. Nothing is returned if the query is not longer
        than a day and all items are of one second.

        Args:
            times: RFC 3339 times of the items; empty texts are ignored.
        """
        moments = sorted(filter(None, map(_second, times)))
        moments = [moment for moment in moments if self.start <= moment < self.end]
        if self.days > 1:
            if not moments:
                return self.by_days()
            days = [
                datetime.datetime.combine(m.date(), m.min.time(), datetime.UTC) for m in moments
            ]
            cuts = [_middle(days)] if days[0] < days[-1] else [days[0], days[0] + _DAY]
            if days[0] == days[-1] and moments[0] < moments[-1]:
                cuts.insert(1, _middle(moments))
            cuts = [cut for cut in cuts if self.start < cut < self.end]
            return self._divided(cuts)
        if not moments or moments[0] == moments[-1]:
            return []
        return self._divided([_middle(moments)])

    def by_area(self) -> list[Query]:
        """Return the quarters of the box; nothing if it was divided MAX_DIVISIONS times."""
        if self.divisions >= MAX_DIVISIONS:
            return []
        west, south, east, north = self.box
        x, y = (west + east) / 2, (south + north) / 2
        boxes = ((west, south, x, y), (x, south, east, y), (west, y, x, north), (x, y, east, north))
        return [dataclasses.replace(self, box=box, divisions=self.divisions + 1) for box in boxes]

    def _divided(self, cuts: list[datetime.datetime]) -> list[Query]:
        moments = [self.start, *cuts, self.end]
        return [
            dataclasses.replace(self, start=start, end=end)
            for start, end in itertools.pairwise(moments)
        ]


def _middle(moments: list[datetime.datetime]) -> datetime.datetime:
    """Return the median of sorted times, but not the first one."""
    middle = moments[len(moments) // 2]
    return middle if middle > moments[0] else next(m for m in moments if m > moments[0])


def _second(text: str) -> datetime.datetime | None:
    """Return an RFC 3339 time without the fraction of a second; None if it is invalid."""
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    utc = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return utc.astimezone(datetime.UTC).replace(microsecond=0)
