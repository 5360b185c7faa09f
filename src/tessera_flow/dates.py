"""Compute calendar days of scenes and the time slices of a period."""

from __future__ import annotations

import calendar
import datetime
from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """Consecutive days read by one download job; both ends included."""

    start: datetime.date
    end: datetime.date

    @property
    def name(self) -> str:
        """The name used in file names: `<first day>_<last day>`."""
        return f"{self.start.isoformat()}_{self.end.isoformat()}"

    @classmethod
    def from_name(cls, name: str) -> Slice:
        """Return the slice with this name."""
        start, end = name.split("_")
        return cls(datetime.date.fromisoformat(start), datetime.date.fromisoformat(end))

    def __contains__(self, day: datetime.date) -> bool:
        return self.start <= day <= self.end


def _add_months(day: datetime.date, months: int) -> datetime.date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return datetime.date(year, month + 1, min(day.day, last))


def period_slices(start: datetime.date, end: datetime.date, months: int) -> list[Slice]:
    """Divide start..end (both included) into slices of `months` months, counted from `start`."""
    slices = []
    count = 0
    first = start
    while first <= end:
        count += 1
        following = _add_months(start, months * count)
        slices.append(Slice(first, min(end, following - datetime.timedelta(days=1))))
        first = following
    return slices


def utc_today() -> datetime.date:
    """Return the present day (UTC)."""
    return datetime.datetime.now(datetime.UTC).date()


def utc_date(timestamp: str) -> datetime.date:
    """Return the UTC calendar day of an RFC 3339 time stamp, as in a STAC item's `datetime`.

    A time stamp without a zone is UTC.

    Raises:
        ValueError: not a time stamp.
    """
    moment = datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC)
    return moment.date()


def day_of_year(day: datetime.date) -> int:
    """Return the day of the year, 1 .. 366."""
    return day.timetuple().tm_yday
