"""Paging of a search: which answers are complete, and what is asked again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from tessera_flow.archives.paging import MAX_REFUSED, CompleteSearch, Page, SearchTooLong
from tessera_flow.archives.query import Query, QueryRefused, dateline_free
from tessera_flow.archives.stac_api import _matched, _next
from tessera_flow.config.sections import Period

BOX = (4.0, 51.0, 5.0, 52.0)
LIMIT = 20

Respond = Callable[[Query, Any, int], Page]


def document(number: int, day: int, second: int = 0) -> dict[str, Any]:
    moment = dt.datetime(2021, 1, 1, 10, tzinfo=dt.UTC) + dt.timedelta(day, second)
    return {"id": f"item{number}", "time": moment.isoformat()}


ITEMS = [document(number, number * 3) for number in range(100)]


def within(items: list[dict[str, Any]], query: Query) -> list[dict[str, Any]]:
    """Return the items of a query, newest first."""
    first, last = query.start.isoformat(), query.end.isoformat()
    return [item for item in reversed(items) if first <= item["time"] <= last]


def searched(respond: Respond, seconds: float = 30.0, days: int = 365) -> list[str]:
    end = dt.date(2021, 1, 1) + dt.timedelta(days - 1)
    period = Period.model_validate({"start": "2021-01-01", "end": end.isoformat()})
    search = CompleteSearch(respond, lambda item: (item["id"], item["time"]), LIMIT, seconds)
    return [item["id"] for item in search.documents(Query.of(BOX, period))]


def every() -> list[str]:
    return sorted(item["id"] for item in ITEMS)


@pytest.mark.parametrize("cap", [3, 7, 10, 19, LIMIT, 37])
@pytest.mark.parametrize("order", [1, -1])
def test_cut_answers_without_next_page_are_completed(cap: int, order: int) -> None:
    """The service never has a next page, announces nothing, and returns at most `cap` items."""

    def respond(query: Query, following: Any, limit: int) -> Page:
        return Page(within(ITEMS, query)[::order][:cap], None, None)

    assert sorted(searched(respond)) == every()


@pytest.mark.parametrize("matched", [True, False])
def test_next_page_that_is_lost_once_is_noticed(matched: bool) -> None:
    lost = [True]

    def respond(query: Query, following: Any, limit: int) -> Page:
        found = within(ITEMS, query)
        start = following or 0
        stop = start + 9
        following = stop if stop < len(found) else None
        if start == 18 and lost:
            following = lost.clear()
        return Page(found[start:stop], following, len(found) if matched else None)

    assert sorted(searched(respond)) == every()


def test_fewer_items_than_announced_are_an_error() -> None:
    def respond(query: Query, following: Any, limit: int) -> Page:
        found = within(ITEMS, query)
        return Page([item for item in found if item["id"] != "item50"], None, len(found))

    with pytest.raises(
        QueryRefused,
        match=r"the query for 2021-05-31 to 2021-05-31 in the box 4\.000, 51\.000, 4\.250, 51\.250 "
        r"was refused: the service announced 1 items but returned 0 on 1 page",
    ):
        searched(respond)


@pytest.mark.parametrize(
    ("number", "announced", "requests"),
    [
        (0, True, 1),
        (0, False, 3),
        (17, True, 3),
        (17, False, 3),
        (97, True, 5),
        (97, False, 11),
    ],
)
def test_number_of_requests(number: int, announced: bool, requests: int) -> None:
    """One page is compared with the halves of the period; several announced pages are not."""
    pages = []

    def respond(query: Query, following: Any, limit: int) -> Page:
        found, start = within(ITEMS[:number], query), following or 0
        pages.append(query)
        stop = start + limit
        following = stop if stop < len(found) else None
        return Page(found[start:stop], following, len(found) if announced else None)

    assert len(searched(respond)) == number
    assert len(pages) == requests


@pytest.mark.parametrize("cap", [3, 7, 10, 19])
def test_number_of_the_page_instead_of_that_of_the_query_is_noticed(cap: int) -> None:
    def respond(query: Query, following: Any, limit: int) -> Page:
        found = within(ITEMS, query)[:cap]
        return Page(found, None, len(found))

    assert sorted(searched(respond)) == every()


def test_fewer_items_in_the_parts_than_announced_are_an_error() -> None:
    """Only queries for more than a month count all items."""

    def respond(query: Query, following: Any, limit: int) -> Page:
        found = [item for item in within(ITEMS, query) if item["id"] != "item50"]
        start = following or 0
        stop = start + limit
        following = stop if stop < len(found) else None
        return Page(found[start:stop], following, len(found) + (query.days > 31))

    with pytest.raises(
        QueryRefused, match=r"the service announced \d+ items but its parts have \d+"
    ):
        searched(respond)


def test_items_of_one_day_are_compared_with_those_of_parts_of_the_day() -> None:
    items = [document(number, 4, 10 * number) for number in range(19)]

    def respond(query: Query, following: Any, limit: int) -> Page:
        return Page(within(items, query)[:7], None, None)

    assert len(set(searched(respond))) == 19


def test_usual_number_of_items_of_one_moment_is_not_taken_as_complete() -> None:
    items = [document(number, 4) for number in range(19)]

    def cut(query: Query, following: Any, limit: int) -> Page:
        return Page(within(items, query)[: min(limit, 10)], None, None)

    with pytest.raises(QueryRefused, match="1 pages have 10 items"):
        searched(cut)
    items = items[:10]

    def paged(query: Query, following: Any, limit: int) -> Page:
        found, start = within(items, query), following or 0
        stop = start + limit
        return Page(found[start:stop], stop if stop < len(found) else None, None)

    assert len(set(searched(paged))) == 10


def test_pages_that_link_to_themselves_end() -> None:
    pages = []

    def respond(query: Query, following: Any, limit: int) -> Page:
        pages.append(query)
        return Page(within(ITEMS[:5], query), "same", None)

    assert len(searched(respond)) == 5
    assert len(pages) < 40


def test_endless_different_pages_without_new_items_end() -> None:
    pages = []

    def respond(query: Query, following: Any, limit: int) -> Page:
        pages.append(query)
        return Page(within(ITEMS[:5], query), len(pages), None)

    assert len(searched(respond)) == 5
    assert len(pages) < 100


def test_empty_page_with_a_next_page_is_followed() -> None:
    def respond(query: Query, following: Any, limit: int) -> Page:
        found = within(ITEMS, query)
        step = following or 0
        if step == 1:
            return Page([], 2, None)
        start = 0 if step == 0 else (step - 1) * 8
        following = step + 1 if start + 8 < len(found) else None
        return Page(found[start : start + 8], following, None)

    assert sorted(searched(respond)) == every()


def test_item_deleted_between_pages_does_not_hide_another_one() -> None:
    """With offsets, the items after a deleted one move; the announced number follows."""
    pages = []

    def respond(query: Query, following: Any, limit: int) -> Page:
        pages.append(query)
        items = ITEMS if len(pages) == 1 else [item for item in ITEMS if item["id"] != "item99"]
        found = within(items, query)
        start = following or 0
        following = start + 10 if start + 10 < len(found) else None
        return Page(found[start : start + 10], following, len(found))

    assert sorted(searched(respond)) == every()


def test_items_of_one_moment_are_divided_by_area() -> None:
    corners = [(4.1 + 0.2 * (n % 5), 51.1 + 0.2 * (n // 5)) for n in range(25)]
    items = [document(n, 4) | {"at": at} for n, at in enumerate(corners)]

    def respond(query: Query, following: Any, limit: int) -> Page:
        west, south, east, north = query.box
        found = [
            item for item in within(items, query)
            if west <= item["at"][0] <= east and south <= item["at"][1] <= north
        ]  # fmt: skip
        return Page(found[:limit], None, None)

    assert len(set(searched(respond))) == 25


def test_full_page_of_one_place_and_moment_is_an_error() -> None:
    items = [document(number, 4) for number in range(LIMIT + 5)]

    def respond(query: Query, following: Any, limit: int) -> Page:
        return Page(within(items, query)[:limit], None, None)

    with pytest.raises(QueryRefused, match=r"2021-01-05.* 1 pages have 20 items, the last page"):
        searched(respond)


def test_full_page_of_a_service_with_next_pages_is_accepted() -> None:
    items = [document(number, 4) for number in range(LIMIT)]

    def respond(query: Query, following: Any, limit: int) -> Page:
        found, start = within(items, query), following or 0
        stop = start + limit
        return Page(found[start:stop], stop if stop < len(found) else None, None)

    assert len(searched(respond)) == LIMIT


def test_search_that_is_always_refused_ends() -> None:
    asked = []

    def respond(query: Query, following: Any, limit: int) -> Page:
        asked.append(query.days)
        if query.days > 1:
            raise QueryRefused("too large")
        return Page([], None, 0)

    searched(respond, days=20)
    assert len([days for days in asked if days > 1]) == 19
    asked.clear()
    with pytest.raises(QueryRefused, match=r"in the box 4\.000, .* was refused: too large"):
        searched(respond)
    assert len([days for days in asked if days > 1]) == MAX_REFUSED


def test_search_without_end_stops_at_the_deadline() -> None:
    def respond(query: Query, following: Any, limit: int) -> Page:
        number = (following or 0) + 1
        return Page([document(number, number % 300)], number, None)

    with pytest.raises(SearchTooLong, match=r"2021-01-01 to 2021-12-31 .* more than 0 s"):
        searched(respond, seconds=0.2)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((4.0, 5.0), [(4.0, 5.0)]),
        ((179.5, 180.01), [(179.5, 180.0), (-180.0, -179.99)]),
        ((-180.01, -179.5), [(179.99, 180.0), (-180.0, -179.5)]),
        ((181.0, 182.0), [(-179.0, -178.0)]),
        ((-200.0, 200.0), [(-180.0, 180.0)]),
    ],
)
def test_longitudes_are_divided_at_180_degrees(
    bounds: tuple[float, float], expected: list[tuple[float, float]]
) -> None:
    actual = dateline_free(*bounds)
    assert [pytest.approx(interval) for interval in expected] == actual


def test_links_to_the_next_page() -> None:
    get = {"href": "http://a.example/v1/search", "method": "GET", "headers": {}, "body": {"q": 1}}
    post = get | {"method": "POST"}

    def following(link: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        result = _next({"links": [{"rel": "self"}, {"rel": "next", **link}]}, request)
        assert result is not None
        return result

    assert following({"href": "?token=2"}, get) == get | {
        "href": "http://a.example/v1/search?token=2", "body": {},
    }  # fmt: skip
    assert following({"href": "/x?t=2"}, get)["href"] == "http://a.example/x?t=2"
    link = {"href": "search", "method": "POST", "body": {"token": 2}}
    assert following(link, post)["body"] == {"token": 2}
    assert following(link | {"merge": True}, post)["body"] == {"q": 1, "token": 2}
    # Without a body, the query would be empty and match everything.
    assert following({"href": "search?t=2", "method": "post"}, post)["body"] == {"q": 1}
    headers = {"headers": {"X-Page": "2"}, "merge": True}
    assert following(link | headers, post)["headers"] == {"X-Page": "2"}
    assert _next({"links": [{"rel": "next", "href": None}, "x"]}, get) is None


@pytest.mark.parametrize(
    ("page", "matched"),
    [
        ({"numberMatched": 7}, 7),
        ({"numberMatched": "12"}, 12),
        ({"numberMatched": None, "context": {"matched": 9}}, 9),
        ({"numberMatched": -1}, None),
        ({"numberMatched": "many", "context": None}, None),
        ({}, None),
    ],
)
def test_announced_number_of_items(page: dict[str, Any], matched: int | None) -> None:
    assert _matched(page) == matched
