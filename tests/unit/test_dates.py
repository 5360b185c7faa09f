"""Dates: slices of periods, UTC days, days of the year."""

from __future__ import annotations

import datetime as dt

import pytest

from tessera_flow.dates import Slice, day_of_year, period_slices, utc_date


def test_year_in_slices_of_two_months() -> None:
    slices = period_slices(dt.date(2023, 7, 1), dt.date(2024, 6, 30), 2)
    assert [s.name for s in slices] == [
        "2023-07-01_2023-08-31",
        "2023-09-01_2023-10-31",
        "2023-11-01_2023-12-31",
        "2024-01-01_2024-02-29",
        "2024-03-01_2024-04-30",
        "2024-05-01_2024-06-30",
    ]
    assert Slice.from_name(slices[3].name) == slices[3]


@pytest.mark.parametrize("months", [1, 2, 5, 12, 40])
@pytest.mark.parametrize(
    ("start", "end"),
    [("2021-01-31", "2021-12-31"), ("2021-07-15", "2022-06-30"), ("2024-02-29", "2024-02-29")],
)
def test_every_day_is_in_exactly_one_slice(start: str, end: str, months: int) -> None:
    first, last = dt.date.fromisoformat(start), dt.date.fromisoformat(end)
    slices = period_slices(first, last, months)
    day = first
    while day <= last:
        assert sum(day in slice_ for slice_ in slices) == 1
        day += dt.timedelta(days=1)
    assert (slices[0].start, slices[-1].end) == (first, last)


@pytest.mark.parametrize(
    ("stamp", "day"),
    [
        ("2024-08-25T17:39:09.024000Z", "2024-08-25"),
        ("2024-08-25T23:30:00-02:00", "2024-08-26"),
        ("2024-08-25T00:30:00+02:00", "2024-08-24"),
        ("2024-08-25T23:59:59", "2024-08-25"),
    ],
)
def test_utc_day_of_a_time_stamp(stamp: str, day: str) -> None:
    assert utc_date(stamp) == dt.date.fromisoformat(day)


def test_day_of_year() -> None:
    assert day_of_year(dt.date(2023, 1, 1)) == 1
    assert day_of_year(dt.date(2023, 12, 31)) == 365
    assert day_of_year(dt.date(2024, 12, 31)) == 366
