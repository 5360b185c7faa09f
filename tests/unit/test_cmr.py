"""Searching granules: pages, repeated granules, refused queries, silent missing_scenes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shapely

from tessera_flow.archives.cmr import search_granules
from tessera_flow.archives.opera import granule_item
from tessera_flow.archives.query import MOST_REFUSED, QueryRefused, by_date
from tessera_flow.config.configuration import load_config
from tessera_flow.config.sections import Download, Period
from tessera_flow.errors import ItemError

from ..support.archives import opera_title
from ..support.cmr_server import CONCEPT, CmrServer, granule, serve_cmr

ITEMS = Path(__file__).parents[3] / "shared" / "items"
BOX = (4.0, 51.0, 5.0, 52.0)
OUTLINE = shapely.box(4.4, 51.4, 4.6, 51.5)
JUNE = {"start": "2023-06-01", "end": "2023-06-30"}


def period(start: str = "2023-06-01", end: str = "2023-06-30") -> Period:
    return Period.model_validate({"start": start, "end": end})


def granules(days: int = 7) -> list[dict[str, Any]]:
    moments = [f"2023-06-{1 + 4 * day:02d}T05:30:00" for day in range(days)]
    return [granule(opera_title(moment), f"{moment}Z", OUTLINE) for moment in moments]


def found(api: CmrServer, attempts: int = 1, timeout: float = 10.0) -> list[str]:
    download = Download(attempts=attempts, timeout=timeout)
    location = f"{api.url}/search/granules.json"
    return [g["title"] for g in search_granules(location, CONCEPT, BOX, period(), download)]


@pytest.mark.parametrize("search_after", [True, False])
@pytest.mark.parametrize("hits", [True, False])
@pytest.mark.parametrize("overlap", [0, 1])
def test_every_granule_comes_once_over_all_pages(
    search_after: bool, hits: bool, overlap: int
) -> None:
    """Seven granules, three to a page, whichever way the service pages."""
    everything = granules()
    with serve_cmr(
        everything, page_size=3, search_after=search_after, hits=hits, overlap=overlap
    ) as api:
        assert found(api) == [g["title"] for g in everything]
        first, second = api.requests[:2]
    assert "bounding_box=4.000000%2C51.000000%2C5.000000%2C52.000000" in first.path
    assert "temporal=2023-06-01T00%3A00%3A00Z%2C2023-07-01T00%3A00%3A00Z" in first.path
    assert "page_num" not in first.path
    if search_after:
        assert json.loads(second.headers["cmr-search-after"]) == [3 - overlap]
    else:
        assert "page_num=2" in second.path


def test_only_granules_of_the_box_and_period_are_asked_for() -> None:
    moment = "2023-07-02T05:30:00"
    late = granule(opera_title(moment), f"{moment}Z", OUTLINE)
    far = granule(opera_title("2023-06-02T05:30:00"), "2023-06-02T05:30:00Z",
                  shapely.box(8, 51, 9, 52))  # fmt: skip
    with serve_cmr([late, far, *granules(2)]) as api:
        assert found(api) == [g["title"] for g in granules(2)]


def test_a_page_that_is_always_refused_is_got_round_by_smaller_queries() -> None:
    everything = granules()
    with serve_cmr(everything, broken=lambda days, page: days > 20 and page == 2) as api:
        titles = found(api)
        statuses = [r.status for r in api.requests]
    assert sorted(set(titles)) == [g["title"] for g in everything]
    assert statuses.count(502) == 1


def test_a_query_that_is_always_refused_is_named_and_given_up() -> None:
    with (
        serve_cmr(granules(), broken=lambda days, page: True) as api,
        pytest.raises(
            ItemError,
            match=r"Searching C2777436413-ASF at http://127\S+/granules\.json failed \(the query "
            r"for 2023-06-01 to 2023-06-01 in the box 4\.000, 51\.000, 5\.000, 52\.000 was "
            r"refused: answer 502\)",
        ),
    ):
        found(api)
    assert len(api.requests) <= 6  # 30 days, halved down to one


def test_a_service_that_answers_single_days_only_is_given_up_after_a_while() -> None:
    """Else a year would cost hundreds of refused queries, each with its retries."""
    asked: list[int] = []

    def search(part: Period) -> Iterator[dict[str, Any]]:
        asked.append((part.end - part.start).days + 1)
        if asked[-1] > 1:
            raise QueryRefused("too large")
        yield {"day": part.start.day}

    assert [d["day"] for d in by_date(search, period(end="2023-06-20"), BOX)] == list(range(1, 21))
    assert len([days for days in asked if days > 1]) == 19
    asked.clear()
    with pytest.raises(QueryRefused, match=r"in the box 4\.000, .* was refused: too large"):
        list(by_date(search, period(end="2023-12-31"), BOX))
    assert len([days for days in asked if days > 1]) == MOST_REFUSED


def test_a_busy_service_is_asked_again() -> None:
    with serve_cmr(granules(3), unavailable=2) as api:
        assert len(found(api, attempts=3)) == 3
        assert [r.status for r in api.requests][:3] == [503, 503, 200]


def test_granules_that_were_announced_and_do_not_come_are_an_error() -> None:
    with (
        serve_cmr(granules(), lost=1) as api,
        pytest.raises(ItemError, match=r"1 granules were announced and 0 came"),
    ):
        found(api)


def test_a_service_that_is_not_there_is_not_asked_for_smaller_queries() -> None:
    with serve_cmr([]) as api:
        pass
    with pytest.raises(ItemError, match="check the address and the network"):
        found(api)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"<html>Sign in</html>", "the answer is not JSON"),
        (b'{"feed": {}}', "does not answer as CMR"),
        (b"[]", "does not answer as CMR"),
    ],
)
def test_an_answer_that_is_something_else_is_one_sentence(answer: bytes, sentence: str) -> None:
    with serve_cmr([]) as api:
        api.respond = lambda *_: (200, {}, answer)  # type: ignore[method-assign]
        with pytest.raises(ItemError, match=sentence) as raised:
            found(api)
    assert "\n" not in str(raised.value)


def test_our_granules_have_the_form_of_the_recorded_one() -> None:
    path = ITEMS / "opera_rtc-s1.granules_json.DERIVED.json"
    if not path.is_file():
        pytest.skip(f"no recorded granule at {ITEMS}")
    (real,) = json.loads(path.read_text())["feed"]["entry"]
    ours = granule(real["title"], real["time_start"], OUTLINE)
    assert list(ours) == list(real)
    for key, value in ours.items():
        assert type(value) is type(real[key]), key
        if key not in ("id", "polygons", "links", "updated"):
            assert value == real[key], key
    links = {link["href"]: link for link in real["links"]}
    for link in ours["links"]:
        assert links[link["href"]] == link


def test_the_recorded_granule_as_an_item() -> None:
    path = ITEMS / "opera_rtc-s1.granules_json.DERIVED.json"
    if not path.is_file():
        pytest.skip(f"no recorded granule at {ITEMS}")
    (real,) = json.loads(path.read_text())["feed"]["entry"]
    item = granule_item(real, CONCEPT)
    title = "OPERA_L2_RTC-S1_T131-279916-IW1_20231202T162856Z_20231202T232622Z_S1A_30_v1.0"
    root = f"https://cumulus.asf.earthdatacloud.nasa.gov/OPERA/OPERA_L2_RTC-S1/{title}/{title}"
    assert item["id"] == title
    assert item["properties"]["datetime"] == "2023-12-02T16:28:56.000Z"
    assert item["properties"]["platform"] == "sentinel-1a"
    assert {key: asset["href"] for key, asset in item["assets"].items()} == {
        key: f"{root}_{key}.tif" for key in ("VV", "VH", "mask")
    }
    west, south, east, north = item["bbox"]
    assert west < -149.02983 and east > -147.09242 and south < 64.76151 and north > 65.10709
    assert max(-149.02983 - west, east + 147.09242, 64.76151 - south, north - 65.10709) < 0.06


def test_a_footprint_across_the_date_line_stays_narrow() -> None:
    ring = "65.0 179.5 65.0 -179.6 64.0 -179.7 64.0 179.4 65.0 179.5"
    item = granule_item(
        {"title": "x", "time_start": "2023-06-01T00:00:00.000Z", "polygons": [[ring]]}, CONCEPT
    )
    west, _, east, _ = item["bbox"]
    assert 179.3 < west < 179.4 and -179.6 < east < -179.5


def test_links_of_a_mirror_are_used_as_they_are() -> None:
    entry = granule("x", "2023-06-01T00:00:00Z", OUTLINE)
    for link in entry["links"]:
        link["href"] = link["href"].replace("https://datapool.asf.alaska.edu", "http://mirror:80")
    assert granule_item(entry, CONCEPT)["assets"]["VV"]["href"] == (
        "http://mirror:80/RTC/OPERA-S1/x_VV.tif"
    )


def test_a_whole_configuration_with_both_sensors_from_other_archives() -> None:
    document = {
        "regions": {"here": {"roi": "a.geojson"}},
        "periods": {"then": JUNE},
        "model": {"weights": "x.pt", "statistics": "aws"},
        "sentinel2": {"provider": "earth-search"},
        "sentinel1": {"provider": "opera"},
    }
    config = load_config(document)
    assert (config.sentinel2.data_source, config.sentinel1.data_source) == ("aws", "aws")
