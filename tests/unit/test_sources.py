"""Archives reached in every way: files, catalogs, HTTP range reads and STAC APIs."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_flow.archives.signing import Access
from tessera_flow.config.configuration import Config
from tessera_flow.demo.archive import write_item_collection
from tessera_flow.errors import ItemError, ReadError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.raster.reader import Asset, Reader
from tessera_flow.raster.resample import ReadOptions
from tessera_flow.raster.retry import RetryPolicy
from tessera_flow.region.mask import mask_geobox
from tessera_flow.sensors.sentinel1 import power_to_scaled_decibels

from ..support.pipeline import ORIGIN, configuration, ingest, manifest, stacked, write_box
from ..support.scenes import optical, radar
from ..support.servers import FileServer, closed_port, serve_files, serve_stac
from ..support.static_catalog import write_static_catalog

LEFT, TOP = ORIGIN
SHAPE = (40, 50)
START, END = "2021-06-01", "2021-06-30"
PASSWORD, TOKEN = "hunter2", "t0ken-abc"

Items = list[dict[str, Any]]


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    """Exactly the 50 x 40 pixels of the scenes."""
    return write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return tmp_path / "scenes"


@pytest.fixture
def archive(scenes: Path) -> Items:
    """Three days of optical scenes (one day with two), two of radar, one scene too late and
    one too far away."""
    rng = np.random.default_rng(7)

    def noise() -> np.ndarray:
        return rng.integers(1, 10_000, (*SHAPE, 10)).astype(np.uint16)

    cloudy = np.full(SHAPE, 4, np.uint8)
    cloudy[:, 20:] = 9
    return [
        optical(scenes, f"{END}T23:59:59", noise(), baseline="05.11"),
        optical(scenes, "2021-06-10T10:00:00", noise(), cloudy, mgrs_tile="31UFU"),
        optical(scenes, "2021-06-10T10:00:20", noise(), mgrs_tile="31UFT"),
        optical(scenes, "2021-06-01T10:00:00", noise()),
        optical(scenes, "2021-07-01T00:00:00", noise()),
        optical(scenes, "2021-06-20T10:00:00", noise(), origin=(LEFT + 90_000, TOP)),
        radar(scenes, "2021-06-15T17:00:00", rng.uniform(0.01, 1, SHAPE), 0.02),
        radar(scenes, "2021-06-12T05:00:00", rng.uniform(0.01, 1, SHAPE), 0.03, "descending"),
    ]


def rehomed(items: Items, folder: Path, prefix: str, suffix: str = "") -> Items:
    """The items with hrefs `prefix`, path below `folder`, `suffix`."""
    text = json.dumps(items)
    moved: Items = json.loads(text.replace(f"{folder.absolute().as_posix()}/", prefix))
    for item in moved:
        for asset in item["assets"].values():
            if asset["href"].startswith(prefix):
                asset["href"] += suffix
    return moved


def located(folder: Path, roi: Path, location: object, **sections: Any) -> Config:
    """A configuration whose two sensors come from `location`."""
    place = {"location": str(location)}
    sections["sentinel2"] = place | sections.get("sentinel2", {})
    sections["sentinel1"] = place | sections.get("sentinel1", {})
    return configuration(folder, roi, [], START, END, **sections)


def searched(folder: Path, roi: Path, location: object, **sections: Any) -> RunFiles:
    """Only the lists of scenes, for Sentinel-2 alone."""
    sections = {"sentinel1": {"enabled": False}, **sections}
    return ingest(located(folder, roi, location, **sections), until="items")


def ids(layout: RunFiles, sensor: str = "sentinel2") -> list[str]:
    return [item.id for item in manifest(layout, sensor).items]


def outcome(layout: RunFiles) -> dict[str, Any]:
    """Stacks and manifest order of both sensors."""
    return {
        sensor: (ids(layout, sensor), stacked(layout, sensor))
        for sensor in ("sentinel2", "sentinel1")
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for sensor, (order, stack) in expected.items():
        assert found[sensor][0] == order
        assert found[sensor][1].keys() == stack.keys()
        for name, array in stack.items():
            np.testing.assert_array_equal(found[sensor][1][name], array, err_msg=name)


@pytest.fixture
def expected(tmp_path: Path, roi: Path, archive: Items) -> dict[str, Any]:
    """What a collection file with absolute paths gives."""
    result = outcome(ingest(configuration(tmp_path / "paths", roi, archive, START, END)))
    order, stack = result["sentinel2"]
    assert order == [archive[i]["id"] for i in (3, 1, 2, 0)]
    assert stack["dates"] == ["2021-06-01", "2021-06-10", "2021-06-30"]
    assert stack["masks"].all() and stack["bands"].any(axis=(1, 2)).all()
    assert result["sentinel1"][0] == [archive[i]["id"] for i in (7, 6)]
    return result


@pytest.fixture
def server(scenes: Path) -> Iterator[FileServer]:
    with serve_files(scenes) as running:
        yield running


# One archive, reached in different ways


def test_hrefs_relative_to_the_collection_file(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, expected: dict[str, Any]
) -> None:
    collection = tmp_path / "lists" / "all.json"
    write_item_collection(collection, rehomed(archive, scenes, "../scenes/"))
    assert '"../scenes/S2B' in collection.read_text()
    assert_same(outcome(ingest(located(tmp_path / "x", roi, collection))), expected)


def test_static_catalog_on_disk_and_over_http(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, expected: dict[str, Any]
) -> None:
    catalog = write_static_catalog(scenes / "catalog", archive)
    assert_same(outcome(ingest(located(tmp_path / "disk", roi, catalog))), expected)
    with serve_files(scenes) as server:
        location = f"{server.url}/catalog/catalog.json"
        layout = ingest(located(tmp_path / "http", roi, location))
        assert_same(outcome(layout), expected)
        assert server.asked(".tif")
        collection = f"{server.url}/catalog/sentinel-2-l2a/collection.json"
        layout = searched(tmp_path / "one", roi, collection)
        assert ids(layout) == expected["sentinel2"][0]


def test_collection_file_by_url_with_scenes_by_url(
    tmp_path: Path,
    roi: Path,
    archive: Items,
    scenes: Path,
    server: FileServer,
    expected: dict[str, Any],
) -> None:
    write_item_collection(scenes / "items.json", rehomed(archive, scenes, f"{server.url}/"))
    layout = ingest(located(tmp_path / "x", roi, f"{server.url}/items.json"))
    assert_same(outcome(layout), expected)
    assert server.asked("_B04_")


@pytest.mark.parametrize("post", [True, False])
def test_api_with_paging_and_repeated_items(
    tmp_path: Path,
    roi: Path,
    archive: Items,
    scenes: Path,
    server: FileServer,
    expected: dict[str, Any],
    post: bool,
) -> None:
    items = rehomed(archive, scenes, f"{server.url}/")
    with serve_stac(items, page_size=2, overlap=1, post=post) as api:
        layout = ingest(located(tmp_path / "x", roi, api.url))
        assert_same(outcome(layout), expected)
        # Five scenes (midnight after the end is among them), two to a page, each page
        # beginning with the last of the one before; then both radar scenes on one page.
        assert len(api.searches()) == 4 + 1
        assert {r.method for r in api.searches()} == {"POST" if post else "GET"}


def test_api_is_asked_for_the_whole_last_day(tmp_path: Path, roi: Path, archive: Items) -> None:
    with serve_stac(archive) as api:
        layout = searched(tmp_path, roi, api.url)
        assert api.searches()[0].body["datetime"] == "2021-06-01T00:00:00Z/2021-07-01T00:00:00Z"
    assert ids(layout)[-1] == archive[0]["id"]
    # The answer also holds midnight of 1 July, which is not in the period.
    assert archive[4]["id"] not in ids(layout)


# Failing services


def test_search_is_tried_again_when_the_service_is_busy(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with serve_stac(archive, unavailable=2) as api:
        layout = searched(tmp_path, roi, api.url, download={"attempts": 3})
        assert [r.status for r in api.requests[:3]] == [503, 503, 200]
    assert len(ids(layout)) == 4


def test_search_gives_up_after_the_stated_number_of_tries(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with (
        serve_stac(archive, unavailable=99) as api,
        pytest.raises(ItemError, match=r"Searching sentinel-2-l2a at http://127.*503"),
    ):
        searched(tmp_path, roi, api.url, download={"attempts": 2})
    assert len(api.requests) == 2


def test_search_stops_waiting_after_the_timeout(tmp_path: Path, roi: Path, archive: Items) -> None:
    """On every request, not only on the first one (the landing page)."""
    with serve_stac(archive) as api:
        respond = api.respond

        def slow_search(method: str, path: str, *rest: Any) -> Any:
            if path.startswith("/search"):
                time.sleep(1.0)
            return respond(method, path, *rest)

        api.respond = slow_search  # type: ignore[method-assign]
        with pytest.raises(ItemError, match=r"Searching sentinel-2-l2a.*2021-06-01.*timed out"):
            searched(tmp_path, roi, api.url, download={"attempts": 1, "timeout": 0.2})


def with_secrets(url: str) -> str:
    return f"{url.replace('http://', f'http://user:{PASSWORD}@')}/?token={TOKEN}"


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        assert PASSWORD not in text
        assert TOKEN not in text


@pytest.mark.parametrize("trouble", ["dead", "busy", "refused"])
def test_a_failing_service_is_named_without_its_secrets(
    tmp_path: Path, roi: Path, archive: Items, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    caplog.set_level(logging.INFO)
    with serve_stac(archive, unavailable=9) as api:
        port = closed_port() if trouble == "dead" else api.port
        location = with_secrets(f"http://127.0.0.1:{port}")
        if trouble == "refused":
            api.unavailable = 0
            api.respond = lambda *_: (403, {}, f"bad token {TOKEN}".encode())  # type: ignore
        with pytest.raises(ItemError, match=rf"http://127\.0\.0\.1:{port}/") as raised:
            searched(tmp_path, roi, location, download={"attempts": 2})
    assert_no_secret(str(raised.value), caplog.text)
    assert "\n" not in str(raised.value)
    if trouble == "dead":
        assert "Retrying" in caplog.text


def test_secrets_of_the_address_reach_the_service_and_nothing_else(
    tmp_path: Path, roi: Path, archive: Items, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serve_stac(archive, unavailable=1) as api:
        searched(tmp_path, roi, with_secrets(api.url), download={"attempts": 2})
        assert len(api.searches()) == 3
        for request in api.requests:
            assert f"token={TOKEN}" in request.path
            assert "authorization" in request.headers
    written = [p.read_bytes().decode("latin-1") for p in tmp_path.rglob("work/**/*.*")]
    assert len(written) >= 2
    assert_no_secret(caplog.text, *written)


def test_secrets_of_the_address_are_not_sent_to_another_host(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with serve_stac(archive) as api, serve_stac(archive) as other:
        landing = api.respond("GET", "/", {}, None)[2].replace(
            f"{api.url}/search".encode(), f"{other.url}/search".encode()
        )
        api.respond = lambda *_: (200, {}, landing)  # type: ignore[method-assign]
        searched(tmp_path, roi, with_secrets(api.url))
        assert "authorization" in api.requests[0].headers
        assert len(other.searches()) == 3
        for request in other.requests:
            assert "authorization" not in request.headers
            assert_no_secret(request.path)


def test_signed_hrefs_never_reach_the_manifest(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path
) -> None:
    signed = rehomed(
        archive,
        scenes,
        f"https://user:{PASSWORD}@blobs.example/a/",
        f"?sig={TOKEN}&se=2030#{TOKEN}",
    )
    with serve_stac(signed) as api:
        layout = searched(tmp_path, roi, api.url)
    path = Path(layout.paths.items.format(region="here", period="then", sensor="sentinel2"))
    assert_no_secret(path.read_text())
    hrefs = [
        a["href"] for i in manifest(layout, "sentinel2").items for a in i.stac["assets"].values()
    ]
    assert len(hrefs) == 4 * 11
    assert all(re.fullmatch(r"https://blobs\.example/a/S2B_\w+/\w+\.tif", href) for href in hrefs)


# Locations that are something else


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"place\.json does not exist: check `location`"),
        ("<!doctype html><title>Sign in</title>", r"place\.json is not a whole STAC document"),
        ('{"type": "Feature"}', "is neither a STAC API, a catalog nor an item collection"),
        ("[1, 2]", "is neither a STAC API, a catalog nor an item collection"),
        ('{"type": "Feature', r"place\.json is not a whole STAC document"),
    ],
)
@pytest.mark.parametrize("by", ["path", "url"])
def test_a_location_that_is_something_else_is_one_clear_sentence(
    tmp_path: Path, roi: Path, content: str | None, sentence: str, by: str
) -> None:
    place = tmp_path / "there" / "place.json"
    place.parent.mkdir()
    if content is not None:
        place.write_bytes(content.encode("latin-1"))
    elif by == "url":
        sentence = r"at http://127\S+/place\.json failed \(answer 404: not found\)"
    with serve_files(place.parent) as server, pytest.raises(ItemError, match=sentence) as raised:
        searched(tmp_path, roi, place if by == "path" else f"{server.url}/place.json")
    assert "\n" not in str(raised.value)


def test_a_catalog_that_links_a_missing_file_names_that_file(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path
) -> None:
    catalog = write_static_catalog(scenes / "catalog", archive)
    lost = scenes / "catalog" / "sentinel-2-l2a" / archive[1]["id"] / f"{archive[1]['id']}.json"
    lost.unlink()
    with pytest.raises(ItemError, match=lost.name) as raised:
        searched(tmp_path, roi, catalog)
    assert "\n" not in str(raised.value)


def test_a_collection_that_is_not_there_is_one_clear_sentence(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with (
        serve_stac(archive) as api,
        pytest.raises(
            ItemError,
            match=r"No Sentinel-2 scene covers region here .* in collection sentinel-2-l1c of "
            rf"http://127\.0\.0\.1:{api.port} .*`sentinel2\.collection`",
        ),
    ):
        searched(tmp_path, roi, api.url, sentinel2={"collection": "sentinel-2-l1c"})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda item: item.pop("properties"),
        lambda item: item["properties"].update(datetime="yesterday"),
        lambda item: item["properties"].update({"proj:epsg": "no such system"}),
    ],
)
def test_a_spoilt_item_is_named(tmp_path: Path, roi: Path, archive: Items, spoil: Any) -> None:
    spoil(archive[1])
    collection = tmp_path / "items.json"
    write_item_collection(collection, archive)
    with pytest.raises(ItemError, match=archive[1]["id"]) as raised:
        searched(tmp_path / "x", roi, collection)
    assert "\n" not in str(raised.value)


def test_an_item_without_an_asset_or_its_address_is_left_out_and_recorded(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    del archive[1]["assets"]
    del archive[2]["assets"]["B11"]["href"]
    collection = tmp_path / "items.json"
    write_item_collection(collection, archive)
    found = manifest(searched(tmp_path / "x", roi, collection), "sentinel2")
    assert [item.id for item in found.items] == [archive[3]["id"], archive[0]["id"]]
    reasons = dict(found.left_out)
    assert reasons[archive[1]["id"]].startswith("lists no asset B04, B02, B03")
    assert reasons[archive[2]["id"]] == "lists no asset B11"


# What is read


def test_a_footprint_smaller_than_the_raster_loses_no_pixel(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, expected: dict[str, Any]
) -> None:
    """Published footprints are simplified; the raster decides, whatever the blocks."""
    for item in archive:
        west, south = item["bbox"][:2]
        east, north = west + 1e-4, south + 1e-4
        item["bbox"] = [west, south, east, north]
        ring = [[west, south], [east, south], [east, north], [west, south]]
        item["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    prefix = scenes.absolute().as_uri() + "/"
    with serve_stac(rehomed(archive, scenes, prefix)) as api:
        for size in (25, 100):
            grid = {"block_size": size}
            layout = ingest(located(tmp_path / str(size), roi, api.url, grid=grid))
            assert len(layout.grids["here"].blocks) == (4 if size == 25 else 1)
            assert_same(outcome(layout), expected)


def test_only_scenes_over_a_block_are_read_for_it(
    tmp_path: Path, archive: Items, scenes: Path, server: FileServer
) -> None:
    """A scene elsewhere may be unreadable; one over the other block is not asked for."""
    roi = write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 2000, TOP)
    second = optical(scenes, "2021-06-03T10:00:00", 3000, origin=(LEFT + 1500, TOP))
    far = scenes / archive[5]["id"]
    for path in far.iterdir():
        path.write_bytes(b"unreadable")
    items = rehomed([archive[3], archive[5], second], scenes, f"{server.url}/")
    config = configuration(
        tmp_path / "x", roi, items, START, END,
        sentinel1={"enabled": False}, grid={"block_size": 100},
    )  # fmt: skip
    layout = ingest(config)
    stack = stacked(layout, "sentinel2")
    assert stack["dates"] == ["2021-06-01", "2021-06-03"]
    assert stack["masks"][0].any(axis=0).nonzero()[0].tolist() == list(range(50))
    assert stack["masks"][1].any(axis=0).nonzero()[0].tolist() == list(range(150, 200))
    assert not server.asked(archive[5]["id"])
    # Two blocks, each with one scene over it: nothing is opened twice.
    headers = [
        r for r in server.asked("_B11_") if r.headers.get("range", "").startswith("bytes=0-")
    ]
    assert len(headers) == 2


def test_reading_asks_for_ranges_not_for_whole_files(tmp_path: Path, scenes: Path) -> None:
    rng = np.random.default_rng(0)
    power = rng.uniform(0.01, 1, (1200, 1500)).astype(np.float32)
    item = radar(scenes, "2021-06-04T06:00:00", power, power[::-1], shape=power.shape)
    roi = write_box(tmp_path / "roi.geojson", LEFT + 7000, TOP - 6400, LEFT + 7400, TOP - 6000)
    with serve_files(scenes) as server:
        config = configuration(
            tmp_path / "x", roi, rehomed([item], scenes, f"{server.url}/"), START, END,
            sentinel2={"enabled": False},
            model={"min_observations": {"s2": 0}},
        )  # fmt: skip
        stack = stacked(ingest(config), "sentinel1")
        requests = list(server.requests)
    window = np.s_[600:640, 700:740]
    np.testing.assert_array_equal(
        stack["sar_ascending"][0],
        np.stack([power_to_scaled_decibels(p[window]) for p in (power, power[::-1])], axis=-1),
    )
    for channel in ("vv", "vh"):
        size = (scenes / item["id"] / f"iw-{channel}.rtc.tiff").stat().st_size
        asked = [r for r in requests if f"iw-{channel}" in r.path]
        assert size > 6_000_000
        assert 0 < sum(r.sent for r in asked) < size / 10
        # The header, then the blocks that the window touches, which lie side by side.
        assert [r.method for r in asked] == ["GET"] * 2
        assert all("range" in r.headers and r.status == 206 for r in asked)


def test_a_login_page_in_place_of_a_scene_is_a_failed_read(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, server: FileServer
) -> None:
    items = rehomed(archive[3:4], scenes, f"{server.url}/")
    path = items[0]["assets"]["SCL"]["href"].removeprefix(server.url)
    server.replaced[path] = b"<!doctype html><title>Sign in</title>" * 100
    config = configuration(tmp_path / "x", roi, items, START, END, sentinel1={"enabled": False})
    with pytest.raises(ReadError, match=f"asset SCL of item {items[0]['id']}"):
        ingest(config)


def test_signatures_reach_the_server_but_no_message_and_no_log(
    tmp_path: Path,
    roi: Path,
    archive: Items,
    scenes: Path,
    server: FileServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    items = rehomed(archive[3:4], scenes, f"{server.url}/")
    config = configuration(tmp_path / "x", roi, items, START, END, sentinel1={"enabled": False})
    (scene,) = manifest(ingest(config, until="items"), "sentinel2").items
    geobox = mask_geobox(Path(RunFiles(config).paths.roi.format(region="here")))

    def access(href: str, fresh: bool = False) -> Access:
        return Access(f"{href}?sv=1&sig={TOKEN}")

    def read(key: str) -> np.ndarray:
        asset = Asset(scene.id, key, scene.stac["assets"][key]["href"])
        with Reader(access, RetryPolicy(attempts=2)) as reader:
            return reader.read(asset, geobox, "uint16", ReadOptions("nearest", True))[1]

    assert read("B04").all()
    assert all(TOKEN in r.path for r in server.requests)
    server.unavailable = 99
    with pytest.raises(ReadError, match=r"asset B03 of item .*\.tif\) after 2 attempts") as raised:
        read("B03")
    assert_no_secret(str(raised.value), caplog.text)
    assert "again in" in caplog.text
