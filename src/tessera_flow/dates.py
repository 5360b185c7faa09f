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


MOST_MONTHS = 32
"""Most calendar months of a period that a mask of months has bits for."""


def period_months(start: datetime.date, end: datetime.date) -> list[str]:
    """Return the calendar months (`YYYY-MM`) of which the period has a day, in order."""
    count = 12 * (end.year - start.year) + end.month - start.month + 1
    numbers = (start.month - 1 + n for n in range(count))
    return [f"{start.year + n // 12:04d}-{n % 12 + 1:02d}" for n in numbers]


def complete_months(start: datetime.date, end: datetime.date) -> list[str]:
    """Return the months (`YYYY-MM`) all days of which are in the period, in order."""
    months = period_months(start, end)
    if start.day > 1:
        months = months[1:]
    if months and end.day < calendar.monthrange(end.year, end.month)[1]:
        months = months[:-1]
    return months


def main_year(start: datetime.date, end: datetime.date) -> int:
    """Return the calendar year with most days of a period; the earlier one of two equals."""
    days = {
        year: (min(end, datetime.date(year, 12, 31)) - max(start, datetime.date(year, 1, 1))).days
        for year in range(start.year, end.year + 1)
    }
    return max(days, key=lambda year: (days[year], -year))


def mask_months(source: str, start: datetime.date, end: datetime.date) -> list[str]:
    """Return the months of a period that have a bit in masks of months; empty if there are none.

    There are none of more than `MOST_MONTHS`, of published embeddings, and of tile folders for
    periods in which a day of the year occurs twice: they state no years.

    Args:
        source: `scenes`, `tiles` or `geotessera`.
        start, end: first and last day of the period, both included.
    """
    months = period_months(start, end)
    repeated = source == "tiles" and len(days_of_year(start, end)) <= (end - start).days
    return [] if source == "geotessera" or repeated or len(months) > MOST_MONTHS else months


def days_of_year(start: datetime.date, end: datetime.date) -> dict[int, datetime.date]:
    """Return the days of a period by day of the year, the last one if it occurs more than once."""
    days = (start + datetime.timedelta(days=n) for n in range((end - start).days + 1))
    return {day_of_year(day): day for day in days}


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
