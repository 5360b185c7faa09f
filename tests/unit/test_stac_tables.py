"""Tables of STAC Items, read by geopandas and by the reader of such archives; links of sources."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import geopandas
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely

from tessera_flow.analysis.make_map import MapFiles, make_map
from tessera_flow.analysis.stac import _unique_names, write_map_item
from tessera_flow.archives.opera import granule_item
from tessera_flow.archives.stac_geoparquet import read_items
from tessera_flow.config.maps import Map
from tessera_flow.products.checksums import record_files
from tessera_flow.products.provenance import SourceRecord
from tessera_flow.products.stac.documents import write_collection, write_item
from tessera_flow.products.stac.geoparquet import scene_items, write_items
from tessera_flow.scenes.manifest import Manifest, SourceItem

from ..support.labelled_region import NAMES, labelled_region, random_cells, write_points
from ..support.products_region import make_region
from ..support.stac_rules import check_extensions
from .test_products_stac import validated

ITEMS = Path(__file__).parents[2].parent / "shared" / "items"
ZONE = "EPSG:32631"
MPC = SourceRecord(
    "sentinel2", "mpc", "https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-2-l2a"
)
RTC = replace(MPC, sensor="sentinel1", collection="sentinel-1-rtc")


def scene(name: str, extent: Any = (600_000, 5_690_000, 610_000, 5_700_000), **more: Any) -> Any:
    stac = {
        "id": name,
        "collection": "sentinel-2-l2a",
        "properties": {"datetime": "2023-08-01T10:00:31.024000Z", "eo:cloud_cover": 12.5, **more},
        "assets": {"B02": {"href": f"https://host/{name}/B02.tif", "raster:offset": -1000}},
    }
    return SourceItem(name, datetime.date(2023, 8, 1), extent, 1000, None, stac)


def manifests() -> list[Manifest]:
    radar = replace(
        scene("S1A_1"),
        orbit="ascending",
        stac={
            "id": "S1A_1", "collection": "sentinel-1-rtc",
            "properties": {"datetime": "2023-08-02T05:00:00Z", "sat:orbit_state": "ascending"},
            "assets": {"vv": {"href": "https://host/vv.tif"}, "vh": {"href": "https://host/vh"}},
        },
    )  # fmt: skip
    return [
        Manifest("sentinel2", (scene("S2A_1"), scene("S2B 2", None, grid=7)), ()),
        Manifest("sentinel1", (radar,), ()),
    ]


def test_scenes_of_lists_as_a_table(tmp_path: Path) -> None:
    path = tmp_path / "scenes.parquet"
    sources = {"sentinel2": MPC, "sentinel1": RTC}
    write_items(path, list(scene_items(manifests(), sources, ZONE)))
    frame = geopandas.read_parquet(path)
    assert frame["id"].tolist() == ["S2A_1", "S2B 2", "S1A_1"]
    assert frame.crs.to_authority() == ("OGC", "CRS84")
    assert frame["datetime"][0].isoformat() == "2023-08-01T10:00:31.024000+00:00"
    assert frame["tessera:sensor"].tolist() == ["sentinel2", "sentinel2", "sentinel1"]
    assert frame["tessera:boa_offset"][:2].tolist() == [1000, 1000]
    to_zone = pyproj.Transformer.from_crs(4326, ZONE, always_xy=True)
    back = shapely.transform(frame.geometry[0], to_zone.transform, interleaved=False)
    assert back.symmetric_difference(shapely.box(600_000, 5_690_000, 610_000, 5_700_000)).area < 10
    assert frame.geometry[1] is None
    (box, *_) = pq.read_table(path, columns=["bbox"])["bbox"].to_pylist()
    assert tuple(box.values()) == pytest.approx(frame.geometry[0].bounds)
    links = [link["href"] for link in frame["links"][1]]
    assert links == [f"{MPC.uri}/items/S2B%202"]
    first, second, third = read_items(path)
    assert first["properties"]["datetime"] == "2023-08-01T10:00:31.024000Z"
    assert first["assets"] == {
        "B02": {"href": "https://host/S2A_1/B02.tif", "raster:offset": -1000}
    }
    assert (first["collection"], third["collection"]) == ("sentinel-2-l2a", "sentinel-1-rtc")
    assert second["properties"]["grid"] == 7 and "grid" not in first["properties"]
    assert third["assets"].keys() == {"vv", "vh"}
    declared = [[url.split("/")[3] for url in row] for row in frame["stac_extensions"]]
    assert declared == [["eo", "raster"], ["eo", "raster"], ["sat"]]
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"stac-geoparquet"]) == {"version": "1.1.0"}
    assert json.loads(metadata[b"geo"])["columns"]["geometry"]["geometry_types"] == ["Polygon"]


@pytest.mark.parametrize(
    ("fields", "declared"),
    [
        ({"s2:mgrs_tile": "31UFT", "grid:code": "MGRS-31UFT"},
         ["eo", "grid", "raster", "sentinel-2"]),
        ({"mgrs:latitude_band": "U", "mgrs:grid_square": "FT", "mgrs:utm_zone": 31},
         ["eo", "mgrs", "raster"]),
        # Their schemas require further fields.
        ({"mgrs:latitude_band": "U", "sar:polarizations": ["VV"]}, ["eo", "raster"]),
        ({"earthsearch:boa_offset_applied": True}, ["eo", "raster"]),  # of no extension
    ],
)  # fmt: skip
def test_rows_declare_the_extensions_of_their_fields(
    fields: dict[str, Any], declared: list[str]
) -> None:
    lists = [Manifest("sentinel2", (scene("S2A_1", **fields),), ())]
    (item,) = scene_items(lists, {"sentinel2": MPC}, ZONE)
    assert [url.split("/")[3] for url in item["stac_extensions"]] == declared
    assert item["properties"].keys() >= fields.keys()


def test_an_empty_list_is_an_empty_table(tmp_path: Path) -> None:
    write_items(tmp_path / "scenes.parquet", [])
    assert len(geopandas.read_parquet(tmp_path / "scenes.parquet")) == 0
    assert list(read_items(tmp_path / "scenes.parquet")) == []


def test_values_without_a_common_type_are_json(tmp_path: Path) -> None:
    def item(name: str, value: Any, when: str) -> dict[str, Any]:
        properties = {"datetime": when, "x": value, "empty": {}, "list": [{"a": {}}]}
        return {"id": name, "properties": properties, "assets": {}, "geometry": None}

    path = tmp_path / "items.parquet"
    items = [item("a", 3, "2023-01-01T00:00:00Z"), item("b", {"y": [1]}, "2023-01-01"),
             item("c", [1, 2.5], "2023-01-01T00:00:00Z")]  # fmt: skip
    write_items(path, items)
    rows = pq.read_table(path).to_pylist()
    assert [json.loads(row["x"]) for row in rows] == [3, {"y": [1]}, [1, 2.5]]
    assert [row["datetime"] for row in rows] == [i["properties"]["datetime"] for i in items]
    assert rows[0]["list"] == [{"a": None}] or rows[0]["list"] == [None]
    assert list(read_items(path))[1]["properties"]["x"] == {"y": [1]}


def test_items_of_a_region_as_a_table(tmp_path: Path) -> None:
    """Whose relative URLs are those of the folder of the table."""
    region = make_region(tmp_path / "blocks", 100)
    folder, paths = tmp_path / "field", []
    for period in ("y2023", "y2022"):
        record = replace(region.provenance, period=period)
        output = folder / period / "item.json"
        output.parent.mkdir(parents=True)
        (output.parent / "embeddings.zarr").mkdir()
        write_item(
            output, region.grid, region.blocks, record,
            {"zarr": ["embeddings.zarr"], "counts": ["counts.tif"]}, manifests(),
            scenes=output.parent / "scenes.parquet",
        )  # fmt: skip
        paths.append(output)
    documents = [json.loads(path.read_text()) for path in paths]
    for document in documents:
        check_extensions(document)
    asset = documents[0]["assets"]["scenes"]
    stated = (folder / "y2023" / asset["href"]).stat().st_size
    assert asset["file:size"] == stated
    write_collection(folder / "collection.json", paths, folder / "items.parquet")
    collection = json.loads((folder / "collection.json").read_text())
    check_extensions(collection)
    mirror = collection["assets"]["items"]
    assert (mirror["href"], mirror["roles"]) == ("./items.parquet", ["collection-mirror"])
    frame = geopandas.read_parquet(folder / mirror["href"])
    assert frame["id"].tolist() == ["field-y2023", "field-y2022"]
    assert frame.geometry[0].equals(shapely.geometry.shape(documents[0]["geometry"]))
    for row, period in enumerate(("y2023", "y2022")):
        href = frame["assets"][row]["embeddings"]["href"]
        assert href == f"./{period}/embeddings.zarr" and (folder / href).is_dir()
        links = {link["rel"]: link["href"] for link in frame["links"][row]}
        assert links["collection"] == "./collection.json"
    own = json.loads(pq.read_schema(folder / "items.parquet").metadata[b"stac-geoparquet"])
    without = collection["assets"].pop("items")  # which has the SHA-256 of the table
    assert without["roles"] == ["collection-mirror"] and own["version"] == "1.1.0"
    assert own["collections"]["field"]["links"] == collection["links"]
    assert own["collections"]["field"]["item_assets"] == collection["item_assets"]
    assert "items" not in own["collections"]["field"].get("assets", {})
    check_extensions(own["collections"]["field"])
    (first, _) = read_items(folder / "items.parquet")
    properties = documents[0]["properties"]
    for name in ("title", "proj:code", "proj:shape", "license", "keywords"):
        assert first["properties"][name] == properties[name]
    assert first["properties"]["provenance"]["model"]["sha256"] == "ab" * 32


@pytest.mark.skipif(not ITEMS.is_dir(), reason="needs the recorded CMR documents")
def test_links_of_granules_find_their_metadata() -> None:
    document = json.loads((ITEMS / "opera_rtc-s1.umm_json.granule.json").read_text())
    granule = (document.get("items") or [document])[0]
    item = granule_item(granule, "C2777436413-ASF")
    source = SourceRecord(
        "sentinel1", "opera", "https://cmr.earthdata.nasa.gov/search/granules.umm_json",
        "C2777436413-ASF",
    )  # fmt: skip
    parts = urlsplit(source.item_uri(item["id"]))
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == source.location
    query = parse_qs(parts.query)
    assert query == {
        "collection_concept_id": ["C2777436413-ASF"], "granule_ur": [granule["umm"]["GranuleUR"]],
    }  # fmt: skip
    scene = SourceItem(item["id"], datetime.date(2023, 12, 2), None, 0, "descending", item)
    (row,) = scene_items([Manifest("sentinel1", (scene,), ())], {"sentinel1": source}, ZONE)
    assert row["links"][0]["href"] == source.item_uri(item["id"])
    assert (
        row["assets"]["VV"]["href"].startswith("https://")
        and item["id"] in (row["assets"]["VV"]["href"])
    )


@pytest.mark.parametrize("predict", ["class", "number"])
def test_item_of_a_map_is_valid_and_its_files_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predict: str
) -> None:
    product = labelled_region(tmp_path / "product")
    cells = random_cells(60)
    values = [NAMES[product.classes[c]] if predict == "class" else product.numbers[c]
              for c in cells]  # fmt: skip
    labels = write_points(tmp_path / "labels.csv", cells, values, "value")
    keys = {"column": "value", "crs": "EPSG:32631", "fold_block": 200.0, "predict": predict}
    folder = tmp_path / "maps" / "m"
    files = MapFiles.below(folder)
    make_map("m", product.store, Map.model_validate({"labels": str(labels), **keys}), files)
    record_files(folder / "checksums/map.json", sorted(p for p in folder.iterdir() if p.is_file()))
    write_map_item(folder / "item.json", files.record, folder / "checksums/map.json")
    item = validated(folder / "item.json", {}, monkeypatch)
    declared = [url.split("/")[3] for url in item["stac_extensions"]]
    classes = ["classification"] if predict == "class" else []
    assert declared == ["file", "projection", *classes]
    for asset in item["assets"].values():
        assert (folder / asset["href"]).is_file(), asset["href"]


def test_names_of_classes_are_unique() -> None:
    classes = [(1, "a b"), (2, "a/b"), (3, "wood"), (4, "a_b_1"), (5, "Höhle"), (6, ""), (7, "?")]
    names = _unique_names(classes)
    assert names == ["a_b_1_", "a_b_2", "wood", "a_b_1", "H_hle", "class", "_"]
    assert len(set(names)) == len(names)
