"""Search of granules: pages, repeated granules, refused queries, missing granules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely

from tessera_flow.archives.cmr import search_granules
from tessera_flow.archives.opera import Opera, granule_item
from tessera_flow.config.configuration import load_config
from tessera_flow.config.sections import Download, Period
from tessera_flow.errors import ConfigError, ItemError

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


def titles(api: CmrServer, attempts: int = 1, timeout: float = 10.0) -> list[str]:
    download = Download(attempts=attempts, timeout=timeout)
    location = f"{api.url}/search/granules.umm_json"
    return [
        g["umm"]["GranuleUR"] for g in search_granules(location, CONCEPT, [BOX], period(), download)
    ]


@pytest.mark.parametrize("search_after", [True, False])
@pytest.mark.parametrize("hits", [True, False])
@pytest.mark.parametrize("overlap", [0, 1])
def test_every_granule_is_returned_once_over_all_pages(
    search_after: bool, hits: bool, overlap: int
) -> None:
    """Seven granules, three per page, with each way of paging."""
    all_granules = granules()
    with serve_cmr(
        all_granules, page_size=3, search_after=search_after, hits=hits, overlap=overlap
    ) as api:
        assert titles(api) == [g["umm"]["GranuleUR"] for g in all_granules]
        first, second = api.requests[:2]
    assert "bounding_box=4.000000%2C51.000000%2C5.000000%2C52.000000" in first.path
    assert "temporal=2023-06-01T00%3A00%3A00Z%2C2023-07-01T00%3A00%3A00Z" in first.path
    assert "page_num" not in first.path
    if search_after:
        assert json.loads(second.headers["cmr-search-after"]) == [3 - overlap]
    else:
        assert "page_num=2" in second.path


def test_only_granules_of_the_box_and_period_are_searched() -> None:
    moment = "2023-07-02T05:30:00"
    late = granule(opera_title(moment), f"{moment}Z", OUTLINE)
    far = granule(opera_title("2023-06-02T05:30:00"), "2023-06-02T05:30:00Z",
                  shapely.box(8, 51, 9, 52))  # fmt: skip
    with serve_cmr([late, far, *granules(2)]) as api:
        assert titles(api) == [g["umm"]["GranuleUR"] for g in granules(2)]


def test_page_that_is_always_refused_is_searched_by_smaller_queries() -> None:
    all_granules = granules()
    with serve_cmr(all_granules, broken=lambda days, page: days > 20 and page == 2) as api:
        results = titles(api)
        statuses = [r.status for r in api.requests]
    assert sorted(set(results)) == [g["umm"]["GranuleUR"] for g in all_granules]
    assert statuses.count(502) == 1


def test_error_of_a_query_that_is_always_refused_has_the_query() -> None:
    with (
        serve_cmr(granules(), broken=lambda days, page: True) as api,
        pytest.raises(
            ItemError,
            match=r"Searching C2777436413-ASF at http://127\S+/granules\.umm_json failed "
            r"\(the query for 2023-06-01 to 2023-06-01 in the box 4\.000, 51\.000, 4\.250, "
            r"51\.250 was refused: HTTP status 502\)",
        ),
    ):
        titles(api)
    assert len(api.requests) <= 8  # 30 days, halved down to one; then its area is divided twice


def test_request_is_retried_if_the_service_is_busy() -> None:
    with serve_cmr(granules(3), unavailable=2) as api:
        assert len(titles(api, attempts=3)) == 3
        assert [r.status for r in api.requests][:3] == [503, 503, 200]


def test_announced_granules_that_are_not_returned_are_an_error() -> None:
    with (
        serve_cmr(granules(), missing=1) as api,
        pytest.raises(ItemError, match=r"announced 1 granules but returned 0"),
    ):
        titles(api)


def test_unreachable_service_is_not_queried_for_shorter_periods() -> None:
    with serve_cmr([]) as api:
        pass
    with pytest.raises(ItemError, match="check the URL and the network"):
        titles(api)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Sign in</html>", "the response is not JSON"),
        (b'{"hits": 1}', "did not respond like CMR"),
        (b"[]", "did not respond like CMR"),
    ],
)
def test_unexpected_response_has_one_clear_message(content: bytes, message: str) -> None:
    with serve_cmr([]) as api:
        api.respond = lambda *_: (200, {}, content)  # type: ignore[method-assign]
        with pytest.raises(ItemError, match=message) as raised:
            titles(api)
    assert "\n" not in str(raised.value)


def recorded() -> dict[str, Any]:
    path = ITEMS / "opera_rtc-s1.umm_json.granule.json"
    if not path.is_file():
        pytest.skip(f"no recorded granule at {ITEMS}")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_synthetic_granules_have_the_format_of_the_recorded_one() -> None:
    real = recorded()
    times = real["umm"]["TemporalExtent"]["RangeDateTime"]
    synthetic = granule(real["umm"]["GranuleUR"], times["BeginningDateTime"], OUTLINE)
    assert list(synthetic["meta"]) == list(real["meta"])
    assert set(synthetic["umm"]) < set(real["umm"])
    for key in ("concept-type", "native-id", "provider-id", "format"):
        assert synthetic["meta"][key] == real["meta"][key], key
    free = {"SpatialExtent", "RelatedUrls", "ProviderDates"}
    for key in set(synthetic["umm"]) - free:
        assert synthetic["umm"][key] == real["umm"][key], key
    ours, theirs = (
        document["umm"]["SpatialExtent"]["HorizontalSpatialDomain"]["Geometry"]["GPolygons"][0]
        for document in (synthetic, real)
    )
    assert set(ours["Boundary"]["Points"][0]) == set(theirs["Boundary"]["Points"][0])
    links = {link["URL"]: link for link in real["umm"]["RelatedUrls"]}
    for link in synthetic["umm"]["RelatedUrls"]:
        assert links[link["URL"]] == link


def test_recorded_granule_as_an_item() -> None:
    item = granule_item(recorded(), CONCEPT)
    title = "OPERA_L2_RTC-S1_T131-279916-IW1_20231202T162856Z_20231202T232622Z_S1A_30_v1.0"
    root = f"https://cumulus.asf.earthdatacloud.nasa.gov/OPERA/OPERA_L2_RTC-S1/{title}/{title}"
    assert item["id"] == title
    assert item["properties"] == {
        "datetime": "2023-12-02T16:28:56Z",
        "start_datetime": "2023-12-02T16:28:56Z",
        "end_datetime": "2023-12-02T16:28:59Z",
        "platform": "sentinel-1a",
        "sat:orbit_state": "descending",
        "sar:polarizations": ["VV", "VH"],
    }
    assert {key: asset["href"] for key, asset in item["assets"].items()} == {
        key: f"{root}_{key}.tif" for key in ("VV", "VH", "mask")
    }
    west, south, east, north = item["bbox"]
    assert west < -149.02983 and east > -147.09242 and south < 64.76151 and north > 65.10709
    assert max(-149.02983 - west, east + 147.09242, 64.76151 - south, north - 65.10709) < 0.06


def bounds(outline: shapely.Geometry) -> list[float]:
    box: list[float] = granule_item(granule("x", "2023-06-01T00:00:00Z", outline), CONCEPT)["bbox"]
    return box


def test_footprint_across_the_antimeridian_remains_narrow() -> None:
    """One outline that jumps from 179 to -179, and one that is cut into two polygons."""
    whole = shapely.Polygon([(179.5, 65), (-179.6, 65), (-179.7, 64), (179.4, 64)])
    halves = shapely.union_all([shapely.box(179.4, 64, 180, 65), shapely.box(-180, 64, -179.6, 65)])
    for outline in (whole, halves):
        west, south, east, north = bounds(outline)
        assert 179.3 < west < 179.4 and -179.6 < east < -179.5
        assert (round(south, 6), round(north, 6)) == (63.98, 65.02)


def test_footprint_that_is_cut_at_the_antimeridian_reaches_across() -> None:
    """CMR cuts at 179.999, and some granules have only the larger part of their burst."""
    west, _, east, _ = bounds(shapely.box(-179.999, 52.2, -179.4, 52.4))
    assert 178 < west < 179 and -179.4 < east < -179.3
    west, _, east, _ = bounds(shapely.box(179.4, 52.2, 179.999, 52.4))
    assert 179.3 < west < 179.4 and -179 < east < -178


def test_links_of_a_mirror_are_not_changed() -> None:
    entry = granule("x", "2023-06-01T00:00:00Z", OUTLINE)
    for link in entry["umm"]["RelatedUrls"]:
        link["URL"] = link["URL"].replace("https://datapool.asf.alaska.edu", "http://mirror:80")
    assert granule_item(entry, CONCEPT)["assets"]["VV"]["href"] == (
        "http://mirror:80/RTC/OPERA-S1/x_VV.tif"
    )


def test_only_links_to_data_by_http_are_used() -> None:
    entry = granule("x", "2023-06-01T00:00:00Z", OUTLINE)
    links = entry["umm"]["RelatedUrls"]
    vv = next(link for link in links if link["URL"].endswith("_VV.tif"))
    links.insert(0, vv | {"URL": "https://browse/x_VV.tif", "Type": "GET RELATED VISUALIZATION"})
    links.remove(next(link for link in links if link["URL"].endswith("/RTC/OPERA-S1/x_VH.tif")))
    assets = granule_item(entry, CONCEPT)["assets"]
    assert assets["VV"]["href"].startswith("https://cumulus.asf.earthdatacloud.nasa.gov/")
    assert "VH" not in assets  # only the link to S3 is left


@pytest.mark.parametrize("direction", ["ASCENDING", "DESCENDING"])
def test_direction_is_filtered_by_the_service(direction: str) -> None:
    entries = granules(4)
    for entry in entries[:3]:
        attribute = entry["umm"]["AdditionalAttributes"][0]
        assert attribute == {"Name": "ASCENDING_DESCENDING", "Values": ["DESCENDING"]}
        attribute["Values"] = ["ASCENDING"]
    with serve_cmr(entries, page_size=2) as api:
        found = search_granules(
            f"{api.url}/search/granules.umm_json", CONCEPT, [BOX], period(), Download(),
            {"ASCENDING_DESCENDING": direction},
        )  # fmt: skip
        expected = entries[:3] if direction == "ASCENDING" else entries[3:]
        assert [g["meta"]["native-id"] for g in found] == [g["meta"]["native-id"] for g in expected]


def test_granule_that_is_not_understood_is_an_error_that_names_it() -> None:
    entry = granules(1)[0]
    name = entry["meta"]["concept-id"]
    times = entry["umm"]["TemporalExtent"].pop("RangeDateTime")
    with serve_cmr([]) as api:
        body = json.dumps({"hits": 1, "items": [entry]}).encode()
        api.respond = lambda *_: (200, {"CMR-Hits": "1"}, body)  # type: ignore[method-assign]
        location = f"{api.url}/search/granules.umm_json"
        with pytest.raises(ItemError, match=rf"Granule {name} .*SingleDateTime"):
            list(Opera().search(location, CONCEPT, [BOX], period(), Download()))
    entry["umm"]["TemporalExtent"]["SingleDateTime"] = times["BeginningDateTime"]
    assert granule_item(entry, CONCEPT)["properties"]["datetime"] == times["BeginningDateTime"]


def test_location_of_the_older_format_is_refused() -> None:
    """`granules.json` does not state directions; the message names what to set."""
    for name in ("granules.json", "granules.stac"):
        document = {
            "regions": {"here": {"roi": "a.geojson"}},
            "periods": {"then": JUNE},
            "model": {"weights": "x.pt"},
            "sentinel1": {"provider": "opera", "location": f"https://mirror/search/{name}"},
        }
        with pytest.raises(ConfigError, match=rf"sentinel1: location ends in {name}.*umm_json"):
            load_config(document)


def test_configuration_with_both_sensors_from_other_archives() -> None:
    document = {
        "regions": {"here": {"roi": "a.geojson"}},
        "periods": {"then": JUNE},
        "model": {"weights": "x.pt", "statistics": "aws"},
        "sentinel2": {"provider": "earth-search"},
        "sentinel1": {"provider": "opera"},
    }
    config = load_config(document)
    assert (config.sentinel2.data_source, config.sentinel1.data_source) == ("aws", "aws")
