"""Expand periods that repeat every year, such as `years: 2017-2025`, to one period for each."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from typing import Any

from .messages import shown

FIRST_YEAR, LAST_YEAR = 2014, 2200
"""Sentinel-1 began in 2014."""

_FORM = "a year such as 2023, a range such as 2017-2025, or a list of both"
_MONTH_DAY = re.compile(r"(\d\d)-(\d\d)")


def year_list(value: Any) -> list[int]:
    """Return the years of a value: one year, a range (`2017-2025`), or a list of both.

    Raises:
        ValueError: it is none of these, or a year occurs twice; the text completes `must be`.
    """
    entries = value if isinstance(value, list | tuple) else str(value).split(",")
    years: list[int] = []
    for entry in entries:
        match = re.fullmatch(r"\s*(\d{4})\s*(?:-\s*(\d{4})\s*)?", str(entry))
        if match is None or isinstance(entry, bool):
            raise ValueError(_FORM)
        first, last = int(match[1]), int(match[2] or match[1])
        if not FIRST_YEAR <= first <= last <= LAST_YEAR:
            raise ValueError(
                f"{_FORM}, from {FIRST_YEAR} to {LAST_YEAR} and the earlier year of a range first"
            )
        years += range(first, last + 1)
    if not years:
        raise ValueError(_FORM)
    if len(set(years)) < len(years):
        raise ValueError(f"{_FORM}, with each year once")
    return years


def with_years_expanded(document: Any) -> Any:
    """Return a configuration in which each period with `years` is one period for each year.

    `summer` with `years: [2022, 2023]` becomes `summer_2022` and `summer_2023`, also in `periods`
    of regions. `start` and `end` are a month and a day; an `end` before `start` is in the next
    year. What cannot be expanded is left unchanged: validation refuses it with a message.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("periods"), Mapping):
        return document
    periods: dict[Any, Any] = {}
    names: dict[str, list[str]] = {}
    for name, period in document["periods"].items():
        one_per_year = _expanded(str(name), period)
        if one_per_year is None or any(n in document["periods"] for n in one_per_year):
            periods[name] = period
        else:
            periods |= one_per_year
            names[str(name)] = list(one_per_year)
    if not names:
        return document
    return {**document, "periods": periods, "regions": _renamed(document.get("regions"), names)}


def problem_of_years(period: Mapping[str, Any]) -> str | None:
    """Return why a period with `years` was not expanded; None if it has no `years`."""
    if period.get("years") is None:
        return None
    try:
        year_list(period["years"])
    except ValueError as error:
        return f"years is {shown(period['years'])}, but must be {error}"
    for key in ("start", "end"):
        if key in period and _month_day(period[key]) is None:
            return (
                f"{key} is {shown(period[key])}, but with `years` it must be a month and a day "
                "such as 03-31"
            )
    return "the name of one of its years is also defined under periods; rename one of them"


def _expanded(name: str, period: Any) -> dict[str, Any] | None:
    """Return the periods of the years of an entry; None if it has no `years`, or wrong ones."""
    if not isinstance(period, Mapping) or period.get("years") is None:
        return None
    try:
        years = year_list(period["years"])
    except ValueError:
        return None
    start, end = (_month_day(period.get(k, d)) for k, d in (("start", "01-01"), ("end", "12-31")))
    if start is None or end is None:
        return None
    other_keys = {key: value for key, value in period.items() if key != "years"}
    return {
        f"{name}_{year}": {
            **other_keys,
            "start": _day(year, start),
            "end": _day(year + (end < start), end),
        }
        for year in years
    }


def _month_day(value: Any) -> tuple[int, int] | None:
    match = _MONTH_DAY.fullmatch(str(value).strip())
    if match is None:
        return None
    month, day = int(match[1]), int(match[2])
    # 29 February is the last day of February in every year.
    valid = 1 <= month <= 12 and 1 <= day <= calendar.monthrange(2024, month)[1]
    return (month, day) if valid else None


def _day(year: int, month_day: tuple[int, int]) -> str:
    month, day = month_day
    return f"{year}-{month:02}-{min(day, calendar.monthrange(year, month)[1]):02}"


def _renamed(regions: Any, names: Mapping[str, list[str]]) -> Any:
    """Return regions whose `periods` have the expanded names."""
    if not isinstance(regions, Mapping):
        return regions
    result = {}
    for key, region in regions.items():
        listed = region.get("periods") if isinstance(region, Mapping) else None
        if isinstance(listed, list | tuple):
            expanded = [new for name in listed for new in names.get(str(name), [name])]
            region = {**region, "periods": expanded}
        result[key] = region
    return result
