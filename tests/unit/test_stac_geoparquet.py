"""stac-geoparquet files as local archives."""

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
    """As the stac-geoparquet specification has it: properties are columns, `bbox` a struct,
    times timestamps."""
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
def test_a_file_gives_what_the_item_collection_gives(
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
        found = ingest(
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
        ours, theirs = manifest(found, sensor), manifest(expected, sensor)
        assert [i.id for i in ours.items] == [i.id for i in theirs.items]
        assert [i.boa_offset for i in ours.items] == [i.boa_offset for i in theirs.items]
        assert [i.extent for i in ours.items] == [i.extent for i in theirs.items]
        assert stacked(found, sensor)[name].any()
        assert (stacked(found, sensor)[name] == stacked(expected, sensor)[name]).all()


def test_items_of_different_assets_in_one_file(
    tmp_path: Path, archive: list[dict[str, Any]]
) -> None:
    """A column that an item has not is null there, and must not become a property or asset."""
    found = list(read_items(write(tmp_path / "a.parquet", archive)))
    for ours, real in zip(found, archive, strict=True):
        assert ours["id"] == real["id"] and ours["collection"] == real["collection"]
        assert list(ours["assets"]) and set(ours["assets"]) == set(real["assets"])
        assert set(ours["properties"]) == set(real["properties"])
        assert ours["bbox"] == pytest.approx(real["bbox"])


def test_the_recorded_items_survive(tmp_path: Path) -> None:
    path = ITEMS / "es_items.itemcollection.json"
    if not path.is_file():
        pytest.skip(f"no recorded items at {ITEMS}")
    real = json.loads(path.read_text())["features"]
    keys = ("s2:processing_baseline", "s2:datatake_id", "grid:code", "proj:epsg", "eo:cloud_cover",
            "earthsearch:boa_offset_applied")  # fmt: skip
    for found, item in zip(read_items(write(tmp_path / "a.parquet", real)), real, strict=True):
        for key in keys:
            assert found["properties"].get(key) == item["properties"].get(key), key
        assert found["assets"]["red"]["proj:transform"] == item["assets"]["red"]["proj:transform"]
        assert found["assets"]["scl"]["href"] == item["assets"]["scl"]["href"]


@pytest.mark.parametrize("content", [b"PAR1 and no more", None])
def test_a_file_that_is_something_else_is_one_sentence(
    tmp_path: Path, roi: Path, content: bytes | None
) -> None:
    path = tmp_path / "x.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes(content)
    config = configuration(tmp_path, roi, [], START, END, sentinel2={"location": str(path)},
                           sentinel1={"enabled": False})  # fmt: skip
    with pytest.raises(ItemError, match=r"x\.parquet is not a whole STAC document") as raised:
        ingest(config, until="items")
    assert "\n" not in str(raised.value)
