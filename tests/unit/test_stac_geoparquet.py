"""Local archives in stac-geoparquet files."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessera_flow.archives.stac_geoparquet import read_items
from tessera_flow.errors import ItemError

from ..support.pipeline import ORIGIN, configuration, ingest, manifest, stacked, write_box
from ..support.scenes import optical, radar
from ..support.servers import serve_files

ITEMS = Path(__file__).parents[3] / "shared" / "items"
LEFT, TOP = ORIGIN
START, END = "2021-06-01", "2021-06-30"


def write(path: Path, items: list[dict[str, Any]], text_times: bool = False) -> Path:
    """Write items according to the stac-geoparquet specification.

    Properties are columns, `bbox` is a struct, and times are timestamps.
    """
    rows = []
    for item in items:
        box = item["bbox"]
        row = {key: item[key] for key in ("id", "type", "stac_version", "collection")}
        row["bbox"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        row["geometry"] = b"\\x00"
        row["assets"] = {
            key: asset | {"href": Path(asset["href"]).as_uri() if asset["href"][0] == "/"
                          else asset["href"]}
            for key, asset in item["assets"].items()
        }  # fmt: skip
        row["links"] = item["links"]
        for key, value in item["properties"].items():
            if key == "datetime" and value and not text_times:
                value = dt.datetime.fromisoformat(value.replace("Z", "+00:00"))
            row[key] = value
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    return write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)


@pytest.fixture
def archive(tmp_path: Path) -> list[dict[str, Any]]:
    scenes = tmp_path / "scenes"
    return [
        optical(scenes, "2021-06-03T10:00:00", 2000, baseline="03.01"),
        optical(scenes, "2021-06-05T10:00:00", 3000, baseline="05.10"),
        radar(scenes, "2021-06-04T06:00:00", 0.1, 0.02),
    ]


@pytest.mark.parametrize("text_times", [True, False])
@pytest.mark.parametrize("by", ["path", "url"])
def test_file_is_equivalent_to_the_item_collection(
    tmp_path: Path, roi: Path, archive: list[dict[str, Any]], text_times: bool, by: str
) -> None:
    expected = ingest(configuration(tmp_path / "json", roi, archive, START, END))
    folder = tmp_path / "lists"
    folder.mkdir()
    for kind in ("sentinel-2-l2a", "sentinel-1-rtc"):
        write(folder / f"{kind}.parquet", [i for i in archive if i["collection"] == kind],
              text_times)  # fmt: skip
    with serve_files(folder) as server:
        root = str(folder) if by == "path" else server.url
        actual = ingest(
            configuration(
                tmp_path / "parquet",
                roi,
                [],
                START,
                END,
                sentinel2={"location": f"{root}/sentinel-2-l2a.parquet"},
                sentinel1={"location": f"{root}/sentinel-1-rtc.parquet"},
            )
        )
    for sensor, name in (("sentinel2", "bands"), ("sentinel1", "sar_ascending")):
        items, expected_items = manifest(actual, sensor).items, manifest(expected, sensor).items
        assert [i.id for i in items] == [i.id for i in expected_items]
        assert [i.boa_offset for i in items] == [i.boa_offset for i in expected_items]
        assert [i.extent for i in items] == [i.extent for i in expected_items]
        assert stacked(actual, sensor)[name].any()
        assert (stacked(actual, sensor)[name] == stacked(expected, sensor)[name]).all()


def test_items_of_different_assets_in_one_file(
    tmp_path: Path, archive: list[dict[str, Any]]
) -> None:
    """A column that an item does not have is null, and must not become a property or asset."""
    items = list(read_items(write(tmp_path / "a.parquet", archive)))
    for item, original in zip(items, archive, strict=True):
        assert item["id"] == original["id"] and item["collection"] == original["collection"]
        assert list(item["assets"]) and set(item["assets"]) == set(original["assets"])
        assert set(item["properties"]) == set(original["properties"])
        assert item["bbox"] == pytest.approx(original["bbox"])


def _with_text(path: Path, items: list[dict[str, Any]]) -> Path:
    """Write items with JSON texts: `properties` and `assets`, a list in a column of its own."""
    text = {"bbox", "geometry", "properties", "assets"}
    rows = [
        {key: json.dumps(value) if key in text else value for key, value in item.items()
         if key in text | {"id", "collection"}}
        for item in items
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _with_text_columns(path: Path, items: list[dict[str, Any]]) -> Path:
    """Write properties as columns as pandas does: lists as JSON texts, missing numbers as NaN."""
    names = dict.fromkeys(name for item in items for name in item["properties"])
    rows = []
    for item in items:
        row = {name: item["properties"].get(name) for name in names}
        row = {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()}
        row |= {"id": item["id"], "collection": item["collection"]}
        row["assets"] = json.dumps(item["assets"])
        rows.append(row | dict(zip(("xmin", "ymin", "xmax", "ymax"), item["bbox"], strict=True)))
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    box = [{k: row[k] for k in ("xmin", "ymin", "xmax", "ymax")} for row in rows]
    columns = {k: v for k, v in columns.items() if k not in box[0]} | {"bbox": box}
    columns["eo:cloud_cover"] = [
        float("nan") if value is None else float(value)
        for value in columns.get("eo:cloud_cover", [None] * len(rows))
    ]
    columns["proj:epsg"] = [float(value) for value in columns["proj:epsg"]]
    pq.write_table(pa.table(columns), path)
    return path


def test_folder_of_files_of_different_schemas(
    tmp_path: Path, roi: Path, archive: list[dict[str, Any]]
) -> None:
    """One file with a column per property, one with JSON texts, one written by pandas."""
    for item in archive:
        item["properties"].setdefault("proj:epsg", 32631)
    archive[0]["properties"].pop("eo:cloud_cover", None)
    expected = ingest(configuration(tmp_path / "json", roi, archive, START, END))
    folder = tmp_path / "lists" / "2021"
    folder.mkdir(parents=True)
    write(folder / "a.parquet", archive[1:2])
    _with_text(folder / "b.geoparquet", archive[2:])
    _with_text_columns(folder.parent / "c.parquet", [archive[0], archive[0]])
    location = {"location": str(folder.parent)}
    actual = ingest(
        configuration(tmp_path / "x", roi, [], START, END, sentinel2=location, sentinel1=location)
    )
    for sensor, name, count in (("sentinel2", "bands", 2), ("sentinel1", "sar_ascending", 1)):
        items, expected_items = manifest(actual, sensor).items, manifest(expected, sensor).items
        assert [i.id for i in items] == [i.id for i in expected_items]
        assert len(items) == count
        assert [i.boa_offset for i in items] == [i.boa_offset for i in expected_items]
        assert [i.extent for i in items] == [i.extent for i in expected_items]
        assert (stacked(actual, sensor)[name] == stacked(expected, sensor)[name]).all()


def test_properties_stored_as_text(tmp_path: Path, archive: list[dict[str, Any]]) -> None:
    radar_item = archive[2]
    radar_item["properties"]["sar:polarizations"] = ["VV", "VH"]
    for writer in (_with_text, _with_text_columns):
        (item,) = read_items(writer(tmp_path / "x.parquet", [radar_item]))
        assert item["properties"]["sar:polarizations"] == ["VV", "VH"]
        assert item["properties"]["datetime"] == radar_item["properties"]["datetime"]
        assert item["bbox"] == pytest.approx(radar_item["bbox"])
        assert item["assets"]["vv"]["href"] == radar_item["assets"]["vv"]["href"]
        assert "eo:cloud_cover" not in item["properties"]
    rows = pa.table({"id": ["a"], "assets": ["{}"], "properties": ["no JSON"]})
    pq.write_table(rows, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="Expecting value"):
        list(read_items(tmp_path / "x.parquet"))


def test_recorded_items_are_read_without_loss(tmp_path: Path) -> None:
    path = ITEMS / "es_items.itemcollection.json"
    if not path.is_file():
        pytest.skip(f"no recorded items at {ITEMS}")
    recorded = json.loads(path.read_text())["features"]
    keys = ("s2:processing_baseline", "s2:datatake_id", "grid:code", "proj:epsg", "eo:cloud_cover",
            "earthsearch:boa_offset_applied")  # fmt: skip
    items = read_items(write(tmp_path / "a.parquet", recorded))
    for item, original in zip(items, recorded, strict=True):
        for key in keys:
            assert item["properties"].get(key) == original["properties"].get(key), key
        red, original_red = item["assets"]["red"], original["assets"]["red"]
        assert red["proj:transform"] == original_red["proj:transform"]
        assert item["assets"]["scl"]["href"] == original["assets"]["scl"]["href"]


@pytest.mark.parametrize("content", [b"PAR1 and no more", None])
def test_invalid_file_has_one_clear_message(
    tmp_path: Path, roi: Path, content: bytes | None
) -> None:
    path = tmp_path / "x.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes(content)
    config = configuration(tmp_path, roi, [], START, END, sentinel2={"location": str(path)},
                           sentinel1={"enabled": False})  # fmt: skip
    with pytest.raises(ItemError, match=r"x\.parquet is not a valid STAC document") as raised:
        ingest(config, until="items")
    assert "\n" not in str(raised.value)
