"""Items of a search: in the manifest, left out with a reason, or an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tessera_flow.demo.archive import write_item_collection
from tessera_flow.errors import ItemError

from ..support.pipeline import manifest
from ..support.search_run import (
    PASSWORD,
    TOKEN,
    Items,
    assert_no_secret,
    ids,
    relocated,
    search,
)
from ..support.servers import serve_stac


def test_lists_of_scenes_do_not_depend_on_the_order_of_sets(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    """Keys of assets come from a set, whose order differs from process to process; files that are
    made from the list would differ, too."""
    with serve_stac(archive) as api:
        run_files = search(tmp_path, roi, api.url)
    items = manifest(run_files, "sentinel2").items
    assert len(items) == 4
    for item in items:
        assert len(item.stac["assets"]) == 11
        assert list(item.stac["assets"]) == sorted(item.stac["assets"])


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
    assert reasons[archive[2]["id"]].startswith("has no asset B11 (its assets are ")


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
