"""Kinds of `location`: files, folders, static catalogs, and copies of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from tessera_flow.demo.archive import write_item_collection
from tessera_flow.errors import ItemError

from ..support.pipeline import ingest
from ..support.search_run import (
    Items,
    assert_same,
    ids,
    located,
    outcome,
    relocated,
    search,
)
from ..support.servers import FileServer, closed_port, serve_files, serve_stac
from ..support.static_catalog import write_static_catalog


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
