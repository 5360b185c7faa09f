"""Sources of scenes: files, static catalogs, STAC APIs, and HTTP range reads."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

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
    """Return a region of exactly the 50 x 40 pixels of the scenes."""
    return write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return tmp_path / "scenes"


@pytest.fixture
def archive(scenes: Path) -> Items:
    """Return optical scenes of three days (one day with two scenes), two radar scenes, one scene
    after the period and one outside the region."""
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


def relocated(items: Items, folder: Path, prefix: str, suffix: str = "") -> Items:
    """Return the items with `folder` in hrefs replaced by `prefix`, and `suffix` appended."""
    text = json.dumps(items)
    moved: Items = json.loads(text.replace(f"{folder.absolute().as_posix()}/", prefix))
    for item in moved:
        for asset in item["assets"].values():
            if asset["href"].startswith(prefix):
                asset["href"] += suffix
    return moved


def located(folder: Path, roi: Path, location: object, **sections: Any) -> Config:
    """Return a configuration with `location` for both sensors."""
    source = {"location": str(location)}
    sections["sentinel2"] = source | sections.get("sentinel2", {})
    sections["sentinel1"] = source | sections.get("sentinel1", {})
    return configuration(folder, roi, [], START, END, **sections)


def search(folder: Path, roi: Path, location: object, **sections: Any) -> RunFiles:
    """Run only the search, for Sentinel-2 only."""
    sections = {"sentinel1": {"enabled": False}, **sections}
    return ingest(located(folder, roi, location, **sections), until="items")


def ids(run_files: RunFiles, sensor: str = "sentinel2") -> list[str]:
    return [item.id for item in manifest(run_files, sensor).items]


def outcome(run_files: RunFiles) -> dict[str, Any]:
    """Return the order of the manifest and the stack of both sensors."""
    return {
        sensor: (ids(run_files, sensor), stacked(run_files, sensor))
        for sensor in ("sentinel2", "sentinel1")
    }


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    for sensor, (order, stack) in expected.items():
        assert actual[sensor][0] == order
        assert actual[sensor][1].keys() == stack.keys()
        for name, array in stack.items():
            np.testing.assert_array_equal(actual[sensor][1][name], array, err_msg=name)


@pytest.fixture
def expected(tmp_path: Path, roi: Path, archive: Items) -> dict[str, Any]:
    """Return the outcome of an item collection with absolute paths."""
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


# The same archive at different kinds of locations


def test_hrefs_relative_to_the_collection_file(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, expected: dict[str, Any]
) -> None:
    collection = tmp_path / "lists" / "all.json"
    write_item_collection(collection, relocated(archive, scenes, "../scenes/"))
    assert '"../scenes/S2B' in collection.read_text()
    assert_same(outcome(ingest(located(tmp_path / "x", roi, collection))), expected)


def test_static_catalog_on_disk_and_over_http(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, expected: dict[str, Any]
) -> None:
    catalog = write_static_catalog(scenes / "catalog", archive)
    assert_same(outcome(ingest(located(tmp_path / "disk", roi, catalog))), expected)
    with serve_files(scenes) as server:
        location = f"{server.url}/catalog/catalog.json"
        run_files = ingest(located(tmp_path / "http", roi, location))
        assert_same(outcome(run_files), expected)
        assert server.asked(".tif")
        collection = f"{server.url}/catalog/sentinel-2-l2a/collection.json"
        run_files = search(tmp_path / "one", roi, collection)
        assert ids(run_files) == expected["sentinel2"][0]


def test_collection_file_by_url_with_scenes_by_url(
    tmp_path: Path,
    roi: Path,
    archive: Items,
    scenes: Path,
    server: FileServer,
    expected: dict[str, Any],
) -> None:
    write_item_collection(scenes / "items.json", relocated(archive, scenes, f"{server.url}/"))
    run_files = ingest(located(tmp_path / "x", roi, f"{server.url}/items.json"))
    assert_same(outcome(run_files), expected)
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
    items = relocated(archive, scenes, f"{server.url}/")
    with serve_stac(items, page_size=2, overlap=1, post=post) as api:
        run_files = ingest(located(tmp_path / "x", roi, api.url))
        assert_same(outcome(run_files), expected)
        # Five scenes (including midnight after the end), two per page, each page starting with
        # the last scene of the previous page. Then parts of the period confirm the list.
        first = api.searches()[:5]
        assert ["token" in json.dumps([r.path, r.body]) for r in first] == [
            False, True, True, True, False,
        ]  # fmt: skip
        assert {r.method for r in api.searches()} == {"POST" if post else "GET"}


def test_search_includes_the_complete_last_day(tmp_path: Path, roi: Path, archive: Items) -> None:
    with serve_stac(archive) as api:
        run_files = search(tmp_path, roi, api.url)
        # One day more: the time of an item can be after midnight, that of its datatake before.
        assert api.searches()[0].body["datetime"] == "2021-06-01T00:00:00Z/2021-07-02T00:00:00Z"
    assert ids(run_files)[-1] == archive[0]["id"]
    # The response also contains midnight of 1 July, which is not in the period.
    assert archive[4]["id"] not in ids(run_files)


# Failing services


def test_search_is_retried_if_the_service_is_busy(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with serve_stac(archive, unavailable=2) as api:
        run_files = search(tmp_path, roi, api.url, download={"attempts": 3})
        assert [r.status for r in api.requests[:3]] == [503, 503, 200]
    assert len(ids(run_files)) == 4


def test_search_fails_after_the_configured_number_of_attempts(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with (
        serve_stac(archive, unavailable=99) as api,
        pytest.raises(ItemError, match=r"Searching sentinel-2-l2a at http://127.*503"),
    ):
        search(tmp_path, roi, api.url, download={"attempts": 2})
    assert len(api.requests) == 2


def test_search_fails_after_the_timeout(tmp_path: Path, roi: Path, archive: Items) -> None:
    """The timeout applies to every request, not only to the first one (the landing page)."""
    with serve_stac(archive) as api:
        respond = api.respond

        def slow_search(method: str, path: str, *rest: Any) -> Any:
            if path.startswith("/search"):
                time.sleep(1.0)
            return respond(method, path, *rest)

        api.respond = slow_search  # type: ignore[method-assign]
        with pytest.raises(ItemError, match=r"Searching sentinel-2-l2a.*2021-06-01.*timed out"):
            search(tmp_path, roi, api.url, download={"attempts": 1, "timeout": 0.2})


def with_secrets(url: str) -> str:
    return f"{url.replace('http://', f'http://user:{PASSWORD}@')}/?token={TOKEN}"


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        assert PASSWORD not in text
        assert TOKEN not in text


@pytest.mark.parametrize("failure", ["dead", "busy", "refused"])
def test_error_of_a_failing_service_has_no_secrets(
    tmp_path: Path, roi: Path, archive: Items, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    caplog.set_level(logging.INFO)
    with serve_stac(archive, unavailable=9) as api:
        port = closed_port() if failure == "dead" else api.port
        location = with_secrets(f"http://127.0.0.1:{port}")
        if failure == "refused":
            api.unavailable = 0
            api.respond = lambda *_: (403, {}, f"bad token {TOKEN}".encode())  # type: ignore
        with pytest.raises(ItemError, match=rf"http://127\.0\.0\.1:{port}/") as raised:
            search(tmp_path, roi, location, download={"attempts": 2})
    assert_no_secret(str(raised.value), caplog.text)
    assert "\n" not in str(raised.value)
    if failure == "dead":
        assert "Retrying" in caplog.text


def test_secrets_in_a_url_are_sent_only_to_the_service(
    tmp_path: Path, roi: Path, archive: Items, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serve_stac(archive, unavailable=1) as api:
        search(tmp_path, roi, with_secrets(api.url), download={"attempts": 2})
        assert len(api.searches()) >= 3
        for request in api.requests:
            assert f"token={TOKEN}" in request.path
            assert "authorization" in request.headers
    written = [p.read_bytes().decode("latin-1") for p in tmp_path.rglob("work/**/*.*")]
    assert len(written) >= 2
    assert_no_secret(caplog.text, *written)


def test_secrets_in_a_url_are_not_sent_to_another_host(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with serve_stac(archive) as api, serve_stac(archive) as other:
        landing = api.respond("GET", "/", {}, None)[2].replace(
            f"{api.url}/search".encode(), f"{other.url}/search".encode()
        )
        api.respond = lambda *_: (200, {}, landing)  # type: ignore[method-assign]
        search(tmp_path, roi, with_secrets(api.url))
        assert "authorization" in api.requests[0].headers
        assert len(other.searches()) >= 3
        for request in other.requests:
            assert "authorization" not in request.headers
            assert_no_secret(request.path)


def test_manifest_has_no_signed_urls(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path
) -> None:
    signed = relocated(
        archive,
        scenes,
        f"https://user:{PASSWORD}@blobs.example/a/",
        f"?sig={TOKEN}&se=2030#{TOKEN}",
    )
    with serve_stac(signed) as api:
        run_files = search(tmp_path, roi, api.url)
    path = Path(run_files.paths.items.format(region="here", period="then", sensor="sentinel2"))
    assert_no_secret(path.read_text())
    hrefs = [
        a["href"] for i in manifest(run_files, "sentinel2").items for a in i.stac["assets"].values()
    ]
    assert len(hrefs) == 4 * 11
    assert all(re.fullmatch(r"https://blobs\.example/a/S2B_\w+/\w+\.tif", href) for href in hrefs)


# Invalid locations


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"location\.json does not exist: check `location`"),
        ("<!doctype html><title>Sign in</title>", r"location\.json is not a valid STAC document"),
        ('{"type": "Feature"}', "is neither a STAC API, a catalog nor an item collection"),
        ("[1, 2]", "is neither a STAC API, a catalog nor an item collection"),
        ('{"type": "Feature', r"location\.json is not a valid STAC document"),
    ],
)
@pytest.mark.parametrize("by", ["path", "url"])
def test_invalid_location_has_one_clear_message(
    tmp_path: Path, roi: Path, content: str | None, message: str, by: str
) -> None:
    path = tmp_path / "folder" / "location.json"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    elif by == "url":
        message = r"at http://127\S+/location\.json failed \(HTTP status 404: not found\)"
    with serve_files(path.parent) as server, pytest.raises(ItemError, match=message) as raised:
        search(tmp_path, roi, path if by == "path" else f"{server.url}/location.json")
    assert "\n" not in str(raised.value)


def test_error_of_a_catalog_with_a_missing_file_has_its_name(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path
) -> None:
    catalog = write_static_catalog(scenes / "catalog", archive)
    missing = scenes / "catalog" / "sentinel-2-l2a" / archive[1]["id"] / f"{archive[1]['id']}.json"
    missing.unlink()
    with pytest.raises(ItemError, match=missing.name) as raised:
        search(tmp_path, roi, catalog)
    assert "\n" not in str(raised.value)


def test_missing_collection_has_one_clear_message(
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
        search(tmp_path, roi, api.url, sentinel2={"collection": "sentinel-2-l1c"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda item: item.pop("properties"),
        lambda item: item["properties"].update(datetime="yesterday"),
        lambda item: item["properties"].update({"proj:epsg": "no such system"}),
    ],
)
def test_error_of_an_invalid_item_has_its_id(
    tmp_path: Path, roi: Path, archive: Items, damage: Any
) -> None:
    damage(archive[1])
    collection = tmp_path / "items.json"
    write_item_collection(collection, archive)
    with pytest.raises(ItemError, match=archive[1]["id"]) as raised:
        search(tmp_path / "x", roi, collection)
    assert "\n" not in str(raised.value)


def test_item_without_an_asset_or_its_url_is_left_out_and_recorded(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    del archive[1]["assets"]
    del archive[2]["assets"]["B11"]["href"]
    collection = tmp_path / "items.json"
    write_item_collection(collection, archive)
    listed = manifest(search(tmp_path / "x", roi, collection), "sentinel2")
    assert [item.id for item in listed.items] == [archive[3]["id"], archive[0]["id"]]
    reasons = dict(listed.left_out)
    assert reasons[archive[1]["id"]].startswith("has no asset B04, B02, B03")
    assert reasons[archive[2]["id"]] == "has no asset B11"


# Reads


def test_footprint_smaller_than_the_raster_does_not_omit_pixels(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, expected: dict[str, Any]
) -> None:
    """Published footprints are simplified, so the raster extent is used, for any block size."""
    for item in archive:
        west, south = item["bbox"][:2]
        east, north = west + 1e-4, south + 1e-4
        item["bbox"] = [west, south, east, north]
        ring = [[west, south], [east, south], [east, north], [west, south]]
        item["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    prefix = scenes.absolute().as_uri() + "/"
    with serve_stac(relocated(archive, scenes, prefix)) as api:
        for size in (25, 100):
            grid = {"block_size": size}
            run_files = ingest(located(tmp_path / str(size), roi, api.url, grid=grid))
            assert len(run_files.grids["here"].blocks) == (4 if size == 25 else 1)
            assert_same(outcome(run_files), expected)


def test_only_scenes_that_overlap_a_block_are_read(
    tmp_path: Path, archive: Items, scenes: Path, server: FileServer
) -> None:
    """A scene outside may be unreadable; a scene of another block is not requested."""
    roi = write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 2000, TOP)
    second = optical(scenes, "2021-06-03T10:00:00", 3000, origin=(LEFT + 1500, TOP))
    far = scenes / archive[5]["id"]
    for path in far.iterdir():
        path.write_bytes(b"unreadable")
    items = relocated([archive[3], archive[5], second], scenes, f"{server.url}/")
    config = configuration(
        tmp_path / "x", roi, items, START, END,
        sentinel1={"enabled": False}, grid={"block_size": 100},
    )  # fmt: skip
    run_files = ingest(config)
    stack = stacked(run_files, "sentinel2")
    assert stack["dates"] == ["2021-06-01", "2021-06-03"]
    assert stack["masks"][0].any(axis=0).nonzero()[0].tolist() == list(range(50))
    assert stack["masks"][1].any(axis=0).nonzero()[0].tolist() == list(range(150, 200))
    assert not server.asked(archive[5]["id"])
    # Two blocks with one scene each: no asset is opened twice.
    headers = [
        r for r in server.asked("_B11_") if r.headers.get("range", "").startswith("bytes=0-")
    ]
    assert len(headers) == 2


def test_reads_request_ranges_instead_of_complete_files(tmp_path: Path, scenes: Path) -> None:
    rng = np.random.default_rng(0)
    power = rng.uniform(0.01, 1, (1200, 1500)).astype(np.float32)
    item = radar(scenes, "2021-06-04T06:00:00", power, power[::-1], shape=power.shape)
    roi = write_box(tmp_path / "roi.geojson", LEFT + 7000, TOP - 6400, LEFT + 7400, TOP - 6000)
    with serve_files(scenes) as server:
        config = configuration(
            tmp_path / "x", roi, relocated([item], scenes, f"{server.url}/"), START, END,
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
        reads = [r for r in requests if f"iw-{channel}" in r.path]
        assert size > 6_000_000
        assert 0 < sum(r.sent for r in reads) < size / 10
        # The header, then the adjacent blocks that overlap the window.
        assert [r.method for r in reads] == ["GET"] * 2
        assert all("range" in r.headers and r.status == 206 for r in reads)


def test_login_page_instead_of_a_scene_is_a_failed_read(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, server: FileServer
) -> None:
    items = relocated(archive[3:4], scenes, f"{server.url}/")
    path = items[0]["assets"]["SCL"]["href"].removeprefix(server.url)
    server.replaced[path] = b"<!doctype html><title>Sign in</title>" * 100
    config = configuration(tmp_path / "x", roi, items, START, END, sentinel1={"enabled": False})
    with pytest.raises(ReadError, match=f"asset SCL of item {items[0]['id']}"):
        ingest(config)


def test_signatures_are_sent_to_the_server_but_not_logged(
    tmp_path: Path,
    roi: Path,
    archive: Items,
    scenes: Path,
    server: FileServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    items = relocated(archive[3:4], scenes, f"{server.url}/")
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


# Copied catalogs, folders and partial lists


def with_urls(catalog: Path, root: str) -> None:
    """Make the links of a catalog absolute, as those of a published one."""
    for path in catalog.parent.rglob("*.json"):
        document = json.loads(path.read_text())
        own = f"{root}/{path.relative_to(catalog.parent).as_posix()}"
        for link in document["links"]:
            link["href"] = urljoin(own, link["href"])
        document["links"].append({"rel": "self", "href": own})
        path.write_text(json.dumps(document))


def test_copied_catalog_is_read_without_its_server(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, expected: dict[str, Any]
) -> None:
    catalog = write_static_catalog(scenes / "catalog", archive)
    with_urls(catalog, f"http://127.0.0.1:{closed_port()}/v1/stac")
    assert_same(outcome(ingest(located(tmp_path / "x", roi, catalog))), expected)
    run_files = search(tmp_path / "folder", roi, catalog.parent)
    assert ids(run_files) == expected["sentinel2"][0]
    collection = catalog.parent / "sentinel-2-l2a" / "collection.json"
    assert ids(search(tmp_path / "one", roi, collection)) == expected["sentinel2"][0]
    missing = catalog.parent / "sentinel-1-rtc" / "collection.json"
    missing.unlink()
    with pytest.raises(ItemError, match=rf"{missing} \(linked in {catalog}\) does not exist"):
        search(tmp_path / "y", roi, catalog)


def test_catalog_that_links_to_itself_ends(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path
) -> None:
    catalog = write_static_catalog(scenes / "catalog", archive)
    collection = catalog.parent / "sentinel-2-l2a" / "collection.json"
    document = json.loads(collection.read_text())
    document["links"] += [{"rel": "child", "href": "../catalog.json"}, document["links"][-1]]
    collection.write_text(json.dumps(document))
    assert len(ids(search(tmp_path / "x", roi, catalog))) == 4


def test_collection_of_an_api_is_not_an_empty_catalog(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with serve_stac(archive) as api:
        document = api._collection("sentinel-2-l2a")
        document["links"] = [{"rel": "items", "href": "items"}]
        body = json.dumps(document).encode()
        api.respond = lambda *_: (200, {}, body)  # type: ignore[method-assign]
        with pytest.raises(ItemError, match="is a collection of a STAC API: set `location`"):
            search(tmp_path, roi, f"{api.url}/collections/sentinel-2-l2a")


@pytest.mark.parametrize("form", ["items", "collections", "lines", "list"])
def test_folder_of_json_files(tmp_path: Path, roi: Path, archive: Items, form: str) -> None:
    folder = tmp_path / "lists" / "a"
    folder.mkdir(parents=True)
    if form == "lines":
        text = "\n".join(json.dumps(item) for item in archive)
        (folder / "items.ndjson").write_text(text + "\n")
    for number, item in enumerate(archive):
        document: Any = item
        if form == "collections":
            document = {"type": "FeatureCollection", "features": [item]}
        elif form == "list":
            document = [item]
        elif form == "lines":
            break
        (folder / f"{number}.json").write_text(json.dumps(document))
    run_files = search(tmp_path / "x", roi, folder.parent)
    assert ids(run_files) == [archive[i]["id"] for i in (3, 1, 2, 0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, "", "has no catalog.json, no Parquet file and no JSON file of items"),
        ("roi.geojson", '{"type": "FeatureCollection", "features": [{"type": "Feature"}]}',
         r"roi\.geojson is neither a STAC item nor an item collection: set `location` to one"),
        ("a.json", "{", r"a\.json is not JSON"),
        ("a.parquet", "PAR1 or not", r"a\.parquet is not a stac-geoparquet file .*folder"),
    ],
)  # fmt: skip
def test_folder_without_items_has_one_clear_message(
    tmp_path: Path, roi: Path, name: str | None, content: str, message: str
) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    if name:
        (folder / name).write_text(content)
    with pytest.raises(ItemError, match=message) as raised:
        search(tmp_path / "x", roi, folder)
    assert "network" not in str(raised.value)


def test_saved_page_of_a_search_is_not_a_complete_list(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    path = tmp_path / "page.json"
    link = {"rel": "next", "href": "https://x.example/search?token=2"}
    pages = [
        ({"links": [link]}, r"has 8 items, but is only one page of a search \(it has a next page"),
        ({"numberMatched": 20}, "has 8 items, but is only one page of a search with 20 items"),
        ({"context": {"matched": 9}}, "is only one page of a search with 9 items"),
    ]
    for members, message in pages:
        document = {"type": "FeatureCollection", "features": archive, **members}
        path.write_text(json.dumps(document))
        with pytest.raises(ItemError, match=message):
            search(tmp_path / "x", roi, path)


def test_every_item_is_listed_or_left_out_with_a_reason(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    write_item_collection(tmp_path / "items.json", archive)
    run_files = search(tmp_path / "x", roi, tmp_path / "items.json")
    listed = manifest(run_files, "sentinel2")
    outside = dict(listed.outside)
    assert {*ids(run_files), *outside} == {item["id"] for item in archive}
    assert outside[archive[4]["id"]] == "its day 2021-07-01 is outside the period"
    assert outside[archive[5]["id"]] == "its footprint does not reach the region"
    assert outside[archive[6]["id"]] == "is of collection sentinel-1-rtc, not sentinel-2-l2a"
    assert listed.left_out == ()
    path = run_files.paths.items.format(region="here", period="then", sensor="sentinel2")
    entries = json.loads(Path(path).read_text())["left_out"]
    assert [entry["id"] for entry in entries] == sorted(outside)


def test_two_items_with_one_id(tmp_path: Path, roi: Path, archive: Items) -> None:
    """Other files: two scenes. The same files: the version updated later, or an error."""
    first, second = archive[3], json.loads(json.dumps(archive[1]))
    second["id"] = first["id"]
    write_item_collection(tmp_path / "a.json", [first, second])
    assert ids(search(tmp_path / "a", roi, tmp_path / "a.json")) == [first["id"]] * 2
    newer, older = (json.loads(json.dumps(first)) for _ in range(2))
    newer["properties"] |= {"updated": "2022-02-01T00:00:00Z", "eo:cloud_cover": 1.0}
    older["properties"] |= {"updated": "2022-01-01T00:00:00Z", "eo:cloud_cover": 9.0}
    for number, items in enumerate(([newer, older], [older, newer])):
        write_item_collection(tmp_path / "b.json", items)
        run_files = search(tmp_path / f"b{number}", roi, tmp_path / "b.json")
        (item,) = manifest(run_files, "sentinel2").items
        assert item.stac["properties"]["eo:cloud_cover"] == 1.0
    second = json.loads(json.dumps(first))
    second["properties"]["datetime"] = "2021-06-11T10:00:00Z"
    write_item_collection(tmp_path / "c.json", [first, second])
    with pytest.raises(ItemError, match=f"Two items have the id {first['id']}"):
        search(tmp_path / "c", roi, tmp_path / "c.json")


@pytest.mark.parametrize("obeys", [True, False])
def test_fields_are_requested_where_announced_and_nothing_is_lost(
    tmp_path: Path, roi: Path, archive: Items, obeys: bool
) -> None:
    """An API that announces the extension but returns items without assets is asked again."""
    expected = search(tmp_path / "plain", roi, _written(tmp_path / "all.json", archive))
    with serve_stac(archive, page_size=9) as api:
        respond = api.respond

        def with_fields(method: str, path: str, headers: Any, body: Any) -> Any:
            status, kind, content = respond(method, path, headers, body)
            document = json.loads(content)
            if "conformsTo" in document:
                uri = "https://api.stacspec.org/v1.0.0/item-search#fields"
                document["conformsTo"] = [*document["conformsTo"], uri]
            if body and "fields" in body:
                assert {"id", "properties", "assets.SCL"} <= set(body["fields"]["include"])
                for item in document["features"]:
                    item.pop("links")
                    if not obeys:
                        item.pop("assets")
            return status, kind, json.dumps(document).encode()

        api.respond = with_fields  # type: ignore[method-assign]
        run_files = search(tmp_path / "x", roi, api.url)
        first = api.searches()[0].body
    assert "fields" in first
    for item, other in zip(
        manifest(run_files, "sentinel2").items, manifest(expected, "sentinel2").items, strict=True
    ):
        assert item.stac["properties"] == other.stac["properties"]
        assert item.stac["assets"].keys() == other.stac["assets"].keys()
        assert item.extent == other.extent


def _written(path: Path, items: Items) -> Path:
    write_item_collection(path, items)
    return path
