"""Copies of an acquisition, parts of a tile, and passes over midnight."""

from __future__ import annotations

import copy
import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.archives.earth_search import EarthSearch
from tessera_flow.archives.mpc import Mpc
from tessera_flow.archives.sentinel2_names import (
    datatake,
    mgrs_tile,
    observation_day,
    processing_baseline,
    sensing_start,
)
from tessera_flow.config.sections import Download, Period, Sentinel2
from tessera_flow.demo.archive import write_item_collection
from tessera_flow.jobs.files import RunFiles
from tessera_flow.scenes.search import list_items

from ..support.archives import earth_search_item
from ..support.pipeline import (
    ORIGIN,
    configuration,
    ingest,
    manifest,
    stacked,
    to_lonlat,
    write_box,
)
from ..support.scenes import optical

STACTOOLS = Path(__file__).parents[3] / "shared" / "items" / "stactools"
LEFT, TOP = ORIGIN
SHAPE = (40, 50)
DAY = "2021-06-10"
ROWS = np.arange(40)[:, None] + np.zeros((1, 50), int)
UPPER, LOWER = ROWS < 22, ROWS >= 18
STARTS = ("105025", "105431")

Item = dict[str, Any]


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    return write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)


def product(
    folder: Path,
    dn: int,
    where: np.ndarray | None = None,
    start: str | None = STARTS[0],
    minute: int = 35,
    baseline: str = "03.00",
    scl: int = 4,
    **options: Any,
) -> Item:
    """Return an item of one datatake and tile with data in `where`.

    `start` is the sensing start of its datastrip, `minute` that of its processing.
    """
    where = np.ones(SHAPE, bool) if where is None else where
    bands = np.where(where, dn, 0)[..., None] + np.zeros(10, int)
    item = optical(
        folder / f"{dn}", f"{DAY}T10:50:31", bands, np.where(where, scl, 0), baseline=baseline,
        **options,
    )  # fmt: skip
    item["id"] = f"S2B_MSIL2A_{DAY.replace('-', '')}T105031_R051_T31UFT_20210610T12{minute}00"
    properties = item["properties"]
    properties["s2:generation_time"] = f"{DAY}T12:{minute}:00.000Z"
    properties["s2:datatake_id"] = f"GS2B_20210610T105031_031000_N{baseline}"
    properties["s2:product_uri"] = item["id"].replace(
        "_R051", f"_N{baseline.replace('.', '')}_R051"
    )
    if start is None:
        del properties["s2:datastrip_id"]
    else:
        properties["s2:datastrip_id"] = (
            f"S2B_OPER_MSI_L2A_DS_VGS1_20210610T12{minute}00_S20210610T{start}_N{baseline}"
        )
    return item


def outline(item: Item, top: int, bottom: int) -> Item:
    """Set the footprint of an item to rows `top` to `bottom` of its raster."""
    corners = [(0, top), (50, top), (50, bottom), (0, bottom), (0, top)]
    ring = [list(to_lonlat(LEFT + 10 * x, TOP - 10 * y)) for x, y in corners]
    item["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    return item


def run(
    folder: Path, roi: Path, items: list[Item], until: str = "patches", **source: Any
) -> RunFiles:
    return ingest(
        configuration(
            folder, roi, items, "2021-06-01", "2021-06-30", sentinel1={"enabled": False},
            sentinel2=source,
        ),
        until,
    )  # fmt: skip


def first_band(files: RunFiles) -> np.ndarray:
    """Return the only day's first band, 0 where it is not valid."""
    stack = stacked(files, "sentinel2")
    assert stack["dates"] == [DAY]
    image: np.ndarray = stack["bands"][0, ..., 0] * stack["masks"][0]
    return image


def duplicates(files: RunFiles) -> dict[str, list[str]]:
    """Return the ids of the duplicates by the id of the item, in order."""
    return {
        item.id: [other.id for other in item.duplicates]
        for item in manifest(files, "sentinel2").items
    }


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parts_of_a_tile_are_both_used(tmp_path: Path, roi: Path, order: tuple[int, int]) -> None:
    parts = [
        product(tmp_path, 2100, UPPER, STARTS[0], 35),
        product(tmp_path, 2200, LOWER, STARTS[1], 41),
    ]
    files = run(tmp_path, roi, [parts[i] for i in order])
    image = first_band(files)
    assert (image[:22] == 2100).all() and (image[22:] == 2200).all()
    assert manifest(files, "sentinel2").left_out == ()
    assert all(
        "s2:datastrip_id" in i.stac["properties"] for i in manifest(files, "sentinel2").items
    )


def test_parts_with_copies_of_each(tmp_path: Path, roi: Path) -> None:
    """Two parts in two versions: the newest of each is used, the other is its duplicate."""
    items = [
        product(tmp_path, 2100, UPPER, STARTS[0], 35),
        product(tmp_path, 2200, LOWER, STARTS[1], 41),
        product(tmp_path, 3300, UPPER, STARTS[0], 50, "05.00"),
        product(tmp_path, 3400, LOWER, STARTS[1], 51, "05.00"),
    ]
    for folder, order in (("a", (0, 1, 2, 3)), ("b", (3, 1, 0, 2))):
        files = run(tmp_path / folder, roi, [items[i] for i in order])
        image = first_band(files)
        assert (image[:22] == 2300).all() and (image[22:] == 2400).all()
        assert duplicates(files) == {
            items[2]["id"]: [items[0]["id"]], items[3]["id"]: [items[1]["id"]],
        }  # fmt: skip


def test_other_version_of_a_part_replaces_a_missing_one(tmp_path: Path, roi: Path) -> None:
    items = [
        product(tmp_path, 2100, UPPER, STARTS[0], 35),
        product(tmp_path, 2200, LOWER, STARTS[1], 41),
        product(tmp_path, 3300, UPPER, STARTS[0], 50, "05.00"),
    ]
    Path(items[2]["assets"]["B8A"]["href"]).unlink()
    image = first_band(run(tmp_path, roi, items))
    assert (image[:18] == 2100).all() and (image[22:] == 2200).all()


@pytest.mark.parametrize(
    "change",
    [
        {"s2:datatake_id": "gs2b_20210610t105031_031000_n05.00", "s2:mgrs_tile": "T31uft"},
        {"s2:datatake_id": None, "s2:mgrs_tile": None, "grid:code": "MGRS-31UFT"},
        {"s2:mgrs_tile": None, "mgrs:utm_zone": 31, "mgrs:latitude_band": "U",
         "mgrs:grid_square": "FT"},
        {"s2:mgrs_tile": None, "s2:granule_id": None},
        {"s2:datastrip_id": f"s2b_oper_ds_2bps_20230101t000000_s20210610t{STARTS[0]}_n05.00"},
        {"s2:datatake_id": "GS2B_20210610T105031_031000_N03.00"},
    ],
)  # fmt: skip
def test_copies_with_names_in_other_forms(
    tmp_path: Path, roi: Path, change: dict[str, Any]
) -> None:
    old = product(tmp_path, 2100, scl=9)
    new = product(tmp_path, 3200, minute=50, baseline="05.00")
    for key, value in change.items():
        new["properties"][key] = value
        if value is None:
            del new["properties"][key]
    files = run(tmp_path, roi, [old, new])
    assert duplicates(files) == {new["id"]: [old["id"]]}
    assert (first_band(files) == 2200).all()


def test_without_datastrips_the_footprints_decide(tmp_path: Path, roi: Path) -> None:
    upper = outline(product(tmp_path, 2100, UPPER, None, 35), 0, 22)
    lower = outline(product(tmp_path, 2200, LOWER, None, 41), 18, 40)
    newer = outline(product(tmp_path, 3300, UPPER, None, 50, "05.00"), 0, 23)
    files = run(tmp_path, roi, [upper, lower, newer])
    assert duplicates(files) == {newer["id"]: [upper["id"]], lower["id"]: []}
    image = first_band(files)
    assert (image[:18] == 2300).all() and (image[22:] == 2200).all()


@pytest.mark.parametrize("parts", [True, False])
def test_without_datastrips_and_footprints_the_pixels_decide(
    tmp_path: Path, roi: Path, parts: bool
) -> None:
    """The geometry is the outline of the raster: it does not show where there are data."""
    old = outline(product(tmp_path, 2100, UPPER, None, 35), 0, 40)
    new = outline(product(tmp_path, 2200, LOWER if parts else UPPER, None, 41), 0, 40)
    files = run(tmp_path, roi, [old, new])
    image = first_band(files)
    if parts:
        assert duplicates(files) == {old["id"]: [], new["id"]: []}
        assert (image[:18] == 2100).all() and (image[18:] == 2200).all()
    else:
        assert duplicates(files) == {new["id"]: [old["id"]]}
        assert (image[:22] == 2200).all() and (image[22:] == 0).all()


def test_undecided_versions_are_used_newest_first(tmp_path: Path, roi: Path) -> None:
    """The newest version supplies every pixel that it has, also if it is the cloudier one."""
    old = product(tmp_path, 2100, None, None, 35, cloud_cover=1.0)
    new = product(tmp_path, 3200, LOWER, None, 50, "05.00", cloud_cover=90.0)
    image = first_band(run(tmp_path, roi, [old, new]))
    assert (image[:18] == 2100).all() and (image[18:] == 2200).all()


def test_parts_and_copies_of_earth_search(tmp_path: Path, roi: Path) -> None:
    """Ids have sequence numbers; `s2:datastrip_id` is present in real items."""
    parts = []
    for number, (dn, where, start) in enumerate(
        ((2100, UPPER, STARTS[0]), (2200, LOWER, STARTS[1]), (2300, UPPER, STARTS[0]))
    ):
        plain = product(tmp_path, dn, where, start, 35 + number)
        item = earth_search_item(plain, sequence=number)
        item["properties"]["s2:datastrip_id"] = plain["properties"]["s2:datastrip_id"]
        item["properties"]["datetime"] = f"{DAY}T10:5{number}:00Z"
        parts.append(item)
    files = run(tmp_path, roi, parts, item_format="earth-search")
    assert duplicates(files) == {parts[1]["id"]: [], parts[2]["id"]: [parts[0]["id"]]}
    image = first_band(files)
    assert (image[:18] == 2300).all() and (image[18:] == 2200).all()


def test_different_items_with_one_id_are_two_scenes(tmp_path: Path, roi: Path) -> None:
    west, east = ROWS >= 0, ROWS >= 0
    west, east = west & (np.arange(50) < 25), east & (np.arange(50) >= 25)
    items = [product(tmp_path, 2100, west), product(tmp_path, 2200, east)]
    items[1]["properties"]["s2:mgrs_tile"] = "31UGT"
    items[1]["properties"]["s2:product_uri"] = None
    assert items[0]["id"] == items[1]["id"]
    for folder, order in (("a", [0, 1, 0]), ("b", [1, 0, 1])):
        files = run(tmp_path / folder, roi, [copy.deepcopy(items[i]) for i in order])
        image = first_band(files)
        assert (image[:, :25] == 2100).all() and (image[:, 25:] == 2200).all()
        assert len(manifest(files, "sentinel2").items) == 2


# Midnight UTC


def midnight_scene(folder: Path, when: str, start: str, dn: int, x: int, tile: str) -> Item:
    item = optical(
        folder / tile, when, dn, shape=(40, 25), origin=(LEFT + 10 * x, TOP), mgrs_tile=tile
    )
    item["properties"]["s2:datatake_id"] = f"GS2B_{start}_025805_N03.01"
    return item


def test_datatake_over_midnight_is_one_time_step(tmp_path: Path, roi: Path) -> None:
    items = [
        midnight_scene(tmp_path, "2021-06-12T23:59:58", "20210612T235241", 1000, 0, "54HYE"),
        midnight_scene(tmp_path, "2021-06-13T00:00:12", "20210612T235241", 2000, 25, "55HBU"),
    ]
    stack = stacked(run(tmp_path, roi, items), "sentinel2")
    assert stack["dates"] == ["2021-06-12"]
    assert stack["masks"].all()
    assert set(np.unique(stack["bands"][0, ..., 0])) == {1000, 2000}


def test_datatake_over_midnight_at_the_edges_of_the_period(tmp_path: Path, roi: Path) -> None:
    """The day of the datatake's start decides, at both ends of the period."""
    items = [
        midnight_scene(tmp_path, "2021-06-01T00:00:12", "20210531T235241", 1000, 0, "54HYE"),
        midnight_scene(tmp_path, "2021-07-01T00:00:12", "20210630T235241", 2000, 25, "55HBU"),
    ]
    files = run(tmp_path, roi, items, until="items")
    assert [i.date for i in manifest(files, "sentinel2").items] == [dt.date(2021, 6, 30)]


def test_datatake_that_does_not_fit_the_time_is_not_its_day(tmp_path: Path, roi: Path) -> None:
    items = [midnight_scene(tmp_path, "2021-06-12T10:00:00", "20190612T235241", 1000, 0, "54HYE")]
    files = run(tmp_path, roi, items, until="items")
    assert [i.date for i in manifest(files, "sentinel2").items] == [dt.date(2021, 6, 12)]


# Names


@pytest.mark.parametrize(
    ("stamp", "day"),
    [("2020-06-01T00:03:10Z", 31), ("2020-06-01T02:03:10+02:00", 31), ("2020-05-31T23:59:59", 31),
     ("2020-06-01T10:00:00Z", 1)],
)  # fmt: skip
def test_day_of_a_time_step(stamp: str, day: int) -> None:
    item = {
        "properties": {"datetime": stamp, "s2:datatake_id": "GS2A_20200531T235959_025805_N02.14"}
    }
    assert observation_day(item).day == day


def stactools_items() -> list[Item]:
    return [json.loads(path.read_text()) for path in sorted(STACTOOLS.glob("*.json"))]


@pytest.mark.skipif(not STACTOOLS.is_dir(), reason=f"no recorded items at {STACTOOLS}")
def test_names_of_items_made_from_safe_folders() -> None:
    items = {
        item["properties"].get("s2:product_uri", item["id"]): item for item in stactools_items()
    }
    assert len(items) == 6
    for name, item in items.items():
        assert f"T{mgrs_tile(item)}" in name
        if "s2:datastrip_id" in item["properties"]:
            start = sensing_start(item)
            assert start is not None and f"_{start}/" in item["assets"]["red"]["href"]
            del item["properties"]["s2:datastrip_id"]
            assert sensing_start(item) == start
            assert datatake(item) == (name[:3], name[11:26])
    for provider in (EarthSearch(), Mpc()):
        keys = {provider.acquisition(item) for name, item in items.items() if "01WCP" in name}
        assert keys == {("S2A", "20230625T234621", "01WCP")}


@pytest.mark.skipif(not STACTOOLS.is_dir(), reason=f"no recorded items at {STACTOOLS}")
@pytest.mark.parametrize("item_format", ["earth-search", "mpc"])
def test_items_made_from_safe_folders_are_listed(tmp_path: Path, item_format: str) -> None:
    """They have no collection. Each is used or left out with a reason; none is lost."""
    for number, item in enumerate(stactools_items()):
        item.pop("collection", None)
        collection = tmp_path / f"{number}.json"
        write_item_collection(collection, [item])
        outline = shapely.geometry.shape(item["geometry"])
        x, y = outline.representative_point().coords[0]
        zone = int(item["properties"].get("proj:epsg") or item["properties"]["proj:code"][5:])
        to_zone = pyproj.Transformer.from_crs("EPSG:4326", zone, always_xy=True)
        left, top = (round(value / 10) * 10 for value in to_zone.transform(x, y))
        grid = GeoBox((40, 40), Affine(10, 0, left, 0, -10, top), f"EPSG:{zone}")
        day = observation_day(item)
        source = Sentinel2(provider="local", location=str(collection), item_format=item_format)
        arguments = (source, "here", grid, Period(start=day, end=day), "corrected", Download())
        listed = list_items(*arguments)
        (used,) = listed.items
        assert (used.id, used.date) == (item["id"], day)
        assert len(used.stac["assets"]) == 11 and not listed.left_out and not listed.outside
        baseline = processing_baseline(item)
        assert used.boa_offset == (1000 if baseline >= "04.00" else 0)


def test_item_without_a_collection_is_used_if_it_has_the_bands(tmp_path: Path, roi: Path) -> None:
    items = [product(tmp_path / "a", 500), product(tmp_path / "a", 500, start="2", minute=50)]
    for item in items:
        item.pop("collection", None)
    items[1]["assets"] = {"thumbnail": {"href": "t.png"}}
    files = ingest(
        configuration(
            tmp_path, roi, items, DAY, DAY, sentinel1={"enabled": False}
        ), "items",
    )  # fmt: skip
    listed = manifest(files, "sentinel2")
    assert [item.id for item in listed.items] == [items[0]["id"]]
    ((name, reason),) = listed.outside
    assert name == items[1]["id"] and "is of collection None" in reason
