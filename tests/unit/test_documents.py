"""STAC documents that are not of STAC's form: refused by a message, or tolerated where harmless."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.config.sections import Download, Period, Sentinel2
from tessera_flow.errors import ItemError
from tessera_flow.scenes.manifest import Manifest
from tessera_flow.scenes.search import list_items

from ..support.pipeline import CRS, ORIGIN
from ..support.scenes import optical
from ..support.servers import serve_stac

GRID = GeoBox((40, 50), Affine(10, 0, ORIGIN[0], 0, -10, ORIGIN[1]), CRS)
PERIOD = Period(start="2021-06-01", end="2021-06-30")


def listed(location: Path | str, *folders: Path) -> Manifest:
    trusted = [str(folder) for folder in folders]
    source = Sentinel2(provider="local", location=str(location), asset_folders=trusted)
    return list_items(source, "here", GRID, PERIOD, "corrected", Download(attempts=1))


@pytest.fixture
def item(tmp_path: Path) -> dict[str, Any]:
    return optical(tmp_path / "scenes", "2021-06-03T10:00:00", 2000)


def collection(folder: Path, *items: Any, **more: Any) -> Path:
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items} | more))
    return path


@pytest.mark.parametrize("links", [None, "missing", {}, 3, "text", ["next", None, 1, [], {}]])
def test_links_of_a_landing_page_and_of_pages_need_not_be_objects(
    tmp_path: Path, item: dict[str, Any], links: Any
) -> None:
    with serve_stac([item], post=False) as api:
        respond = api.respond

        def changed(*request: Any) -> Any:
            status, kind, content = respond(*request)
            document = json.loads(content)
            if links == "missing":
                document.pop("links")
            else:
                document["links"] = links
            return status, kind, json.dumps(document | {"conformsTo": None}).encode()

        api.respond = changed  # type: ignore[method-assign]
        manifest = listed(api.url, tmp_path)
    assert [scene.id for scene in manifest.items] == [item["id"]]


@pytest.mark.parametrize(
    "link",
    [{"href": 3}, {"href": "?x=1", "method": "POST", "body": "token"},
     {"href": "?x=1", "headers": ["a"]}],
)  # fmt: skip
def test_link_to_a_next_page_that_is_not_understood_is_an_error(
    item: dict[str, Any], link: dict[str, Any]
) -> None:
    with serve_stac([item]) as api:
        respond = api.respond

        def changed(method: str, path: str, *request: Any) -> Any:
            status, kind, content = respond(method, path, *request)
            document = json.loads(content)
            if path.startswith("/search"):
                document["links"] = [{"rel": "next"} | link]
            return status, kind, json.dumps(document).encode()

        api.respond = changed  # type: ignore[method-assign]
        with pytest.raises(ItemError, match="link to the next page is not of the expected form"):
            listed(api.url)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        (None, r"catalog\.json has no list of `links`, so its items cannot be found"),
        ({"item": "a.json"}, r"catalog\.json has no list of `links`"),
        (["a.json"], r"Entry 1 of `links` of .*catalog\.json is a text, not an object"),
        ([{"rel": "root", "href": "./catalog.json"}, None], "Entry 2 .* is missing or null"),
        ([{"rel": "item", "href": None}], "has a link without a target"),
    ],
)
def test_links_of_a_catalog_that_can_lead_to_items_are_objects(
    tmp_path: Path, item: dict[str, Any], links: Any, message: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(item | {"links": links}))
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    with pytest.raises(ItemError, match=message):
        listed(path)
    path.write_text(
        json.dumps({"type": "Catalog", "id": "c", "links": [{"rel": "item", "href": "a.json"}]})
    )
    assert len(listed(path).items) == 1  # the links of an item lead nowhere


@pytest.mark.parametrize("features", [None, {}, "text", 3])
def test_collection_without_a_list_of_items(tmp_path: Path, features: Any) -> None:
    path = collection(tmp_path)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(ItemError, match=r"whose `features` is .*, not a list of items: fix it"):
        listed(path)
    with pytest.raises(ItemError, match=r"items\.json is neither a STAC item nor an item coll"):
        listed(tmp_path)
    catalog = tmp_path / "catalog.json"
    links = [{"rel": "item", "href": "items.json"}]
    catalog.write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    with pytest.raises(ItemError, match="whose `features` is "):
        listed(catalog)


def without(key: str, document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i | {"assets": [i["assets"]]}, "`assets` is a list, not an object"),
        (lambda i: i | {"assets": {"B02": "x.tif"}}, r"`assets\.B02` is a text, not an object"),
        (lambda i: i | {"assets": {"B02": {"href": 3}}}, r"`assets\.B02\.href` is a number, not a"),
        (lambda i: i | {"properties": None}, "`properties` is missing or null, not an object"),
        (lambda i: without("properties", i), "`properties` is missing or null"),
        (lambda i: i | {"id": None}, r"An item of .*items\.json has no `id`"),
        (lambda i: i | {"bbox": ["west", 1, 2, 3]}, "is not a valid STAC item .*'west'"),
        (lambda i: i | {"bbox": [1, 2]}, r"bbox has 2 numbers, not 4 or 6"),
        (lambda i: i | {"bbox": [6e5, 5.6e6, 7e5, 5.7e6]}, "bbox is not in degrees"),
        (lambda i: i | {"bbox": [math.nan, 51, 4, 52]}, "bbox is not in degrees"),
        (lambda i: i | {"bbox": None, "geometry": {"type": "Polygon", "coordinates": [[]]}},
         "is not a valid STAC item"),
        (lambda i: i | {"bbox": None, "geometry": {"type": "Polygon", "coordinates": 3}},
         "is not a valid STAC item"),
        (lambda i: i | {"properties": i["properties"] | {"datetime": 20210603}},
         "is not a valid STAC item"),
        (lambda i: i | {"properties": i["properties"] | {"proj:epsg": "EPSG:none"}},
         "is not a valid STAC item .*CRSError"),
        (lambda i: "text", r"Entry 1 of `features` of .*items\.json is a text, not a STAC item"),
    ],
)  # fmt: skip
def test_item_that_is_not_of_the_form_is_named(
    tmp_path: Path, item: dict[str, Any], change: Any, message: str
) -> None:
    with pytest.raises(ItemError, match=message) as raised:
        listed(collection(tmp_path, change(item)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i | {"geometry": None},
        lambda i: i | {"bbox": None},
        lambda i: i | {"bbox": [str(value) for value in i["bbox"]]},
        lambda i: i | {"links": None},
        lambda i: i | {"assets": i["assets"] | {"thumbnail": None, "x": {"href": None}}},
        lambda i: i | {"properties": i["properties"] | {"proj:epsg": 32631.0}},
        lambda i: i | {"properties": i["properties"] | {"proj:epsg": "32631"}},
        lambda i: i | {"properties": i["properties"] | {"proj:epsg": None, "eo:cloud_cover": "x"}},
    ],
)
def test_harmless_forms_are_used(tmp_path: Path, item: dict[str, Any], change: Any) -> None:
    (scene,) = listed(collection(tmp_path, change(item))).items
    assert scene.id == item["id"]
    assert scene.overlaps(GRID)


def test_numbers_as_ids_are_texts(tmp_path: Path, item: dict[str, Any]) -> None:
    (scene,) = listed(collection(tmp_path, item | {"id": 7})).items
    assert scene.id == "7"
    source = Sentinel2(provider="local", location=str(tmp_path / "items.json"), exclude=["7"])
    manifest = list_items(source, "here", GRID, PERIOD, "corrected", Download())
    assert manifest.left_out == (("7", "excluded by sentinel2.exclude"),)


def test_item_without_assets_is_left_out_with_the_reason(
    tmp_path: Path, item: dict[str, Any]
) -> None:
    path = collection(tmp_path, item, item | {"id": "bare", "assets": None})
    manifest = listed(path)
    assert [scene.id for scene in manifest.items] == [item["id"]]
    ((id_, reason),) = manifest.left_out
    assert id_ == "bare" and reason.startswith("has no asset B04, B02") and "no assets" in reason
