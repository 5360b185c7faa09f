"""The archive that tests and the demo write: document form, COGs, pixels, repeatability."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.warp import transform as transform_points
from shapely.geometry import Point, shape

from tessera_flow.demo.archive import (
    PIXEL_SIZES,
    cloud_percentage,
    write_item_collection,
    write_sentinel1_scene,
    write_sentinel2_scene,
)

from ..support.static_catalog import write_static_catalog

ITEMS = Path(__file__).parents[3] / "shared" / "items"
CRS, ORIGIN = "EPSG:32631", (318000.0, 5800020.0)
WHEN = dt.datetime(2024, 8, 25, 17, 39, 9, 24000, tzinfo=dt.UTC)
MADE = dt.datetime(2024, 8, 25, 21, 57, 47, tzinfo=dt.UTC)


def arrays(height: int = 300, width: int = 400) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(7)
    bands = {}
    for key, size in PIXEL_SIZES.items():
        shape_ = (height * 10 // int(size), width * 10 // int(size))
        bands[key] = rng.integers(1, 12000, shape_).astype(np.uint16)
    scl = rng.integers(2, 12, bands.pop("SCL").shape).astype(np.uint8)
    return bands, scl


def sentinel2(folder: Path, **changes: Any) -> dict[str, Any]:
    bands, scl = arrays()
    settings: dict[str, Any] = {
        "bands": bands, "scl": scl, "crs": CRS, "origin": ORIGIN, "datetime": WHEN,
        "mgrs_tile": "31UCT", "generation": MADE, "cloud_cover": 12.5, "absolute_orbit": 39020,
    }  # fmt: skip
    return write_sentinel2_scene(folder, **(settings | changes))


def sentinel1(folder: Path, **changes: Any) -> dict[str, Any]:
    gamma0 = np.random.default_rng(8).gamma(4.4, 0.05, (120, 90)).astype(np.float32)
    settings: dict[str, Any] = {
        "vv": gamma0, "vh": gamma0 / 4, "crs": CRS, "origin": ORIGIN, "datetime": WHEN,
        "orbit_state": "descending", "absolute_orbit": 53498,
    }  # fmt: skip
    return write_sentinel1_scene(folder, **(settings | changes))


def form(value: Any) -> Any:
    """Return the structure of a document: keys in order and types, without values."""
    if isinstance(value, dict):
        return [(key, form(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [form(inner) for inner in value]
    return "number" if type(value) in (int, float) else type(value).__name__


def compare_documents(ours: dict[str, Any], real: dict[str, Any]) -> None:
    assert list(ours) == list(real)
    assert ours["stac_version"] == real["stac_version"]
    assert ours["stac_extensions"] == real["stac_extensions"]
    assert ours["collection"] == real["collection"]
    assert [link["rel"] for link in ours["links"]] == [link["rel"] for link in real["links"]]
    assert [sorted(link) for link in ours["links"]] == [sorted(link) for link in real["links"]]
    assert form(ours["properties"]) == form(real["properties"])
    assert list(ours["assets"]) == list(real["assets"])
    for key, asset in real["assets"].items():
        assert form(ours["assets"][key]) == form(asset), key
        assert ours["assets"][key].get("type") == asset.get("type")
        assert ours["assets"][key].get("gsd") == asset.get("gsd")
        for name in ("common_name", "center_wavelength", "full_width_half_max"):
            assert [b.get(name) for b in ours["assets"][key].get("eo:bands", [])] == [
                b.get(name) for b in asset.get("eo:bands", [])
            ]


def real_item(name: str) -> dict[str, Any]:
    path = ITEMS / name
    if not path.is_file():
        pytest.skip(f"no recorded item documents at {ITEMS}")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_sentinel2_document_has_the_published_form(tmp_path: Path) -> None:
    real = real_item("mpc_sentinel-2-l2a.item.json")
    ours = sentinel2(tmp_path, origin=(399960.0, 4500000.0), crs="EPSG:32613", mgrs_tile="13TDE")
    compare_documents(ours, real)
    same = (
        "datetime", "platform", "proj:epsg", "s2:mgrs_tile", "s2:granule_id", "s2:datatake_id",
        "s2:product_uri", "s2:generation_time", "s2:processing_baseline", "s2:product_type",
        "sat:relative_orbit", "constellation", "instruments",
    )  # fmt: skip
    for key in same:
        ours_value, real_value = ours["properties"][key], real["properties"][key]
        assert ours_value == real_value, key
    assert ours["id"] == real["id"]
    b02 = ours["assets"]["B02"]
    assert b02["proj:transform"] == real["assets"]["B02"]["proj:transform"]
    assert b02["href"].rsplit("/", 1)[1] == real["assets"]["B02"]["href"].rsplit("/", 1)[1]
    # Ours are for the start of the datatake, the real ones for 9 minutes later.
    for key in ("s2:mean_solar_zenith", "s2:mean_solar_azimuth"):
        assert ours["properties"][key] == pytest.approx(real["properties"][key], abs=6)


def test_sentinel1_document_has_the_published_form(tmp_path: Path) -> None:
    real = real_item("mpc_sentinel-1-rtc.item.json")
    middle = dt.datetime(2024, 4, 19, 4, 58, 51, 719834, tzinfo=dt.UTC)
    ours = sentinel1(tmp_path, datetime=middle, origin=(388450.0, 3591080.0), crs="EPSG:32633")
    compare_documents(ours, real)
    for key in ("datetime", "proj:transform", "sat:orbit_state", "sar:polarizations"):
        assert ours["properties"][key] == real["properties"][key], key
    start, end = ours["id"].split("_")[4:6]
    assert (start, end) == tuple(real["id"].split("_")[4:6])
    assert len(ours["id"]) == len(real["id"]) and ours["id"].endswith("_rtc")


def test_document_without_a_recorded_example(tmp_path: Path) -> None:
    item = sentinel2(tmp_path)
    assert item["id"] == "S2B_MSIL2A_20240825T173909_R098_T31UCT_20240825T215747"
    assert item["properties"]["s2:datatake_id"] == "GS2B_20240825T173909_039020_N05.11"
    assert item["properties"]["proj:epsg"] == 32631
    assert item["properties"]["eo:cloud_cover"] == 12.5
    asset = item["assets"]["B11"]
    assert asset["proj:shape"] == [150, 200]
    assert asset["proj:transform"] == [20.0, 0.0, 318000.0, 0.0, -20.0, 5800020.0]
    assert asset["proj:bbox"] == [318000.0, 5797020.0, 322000.0, 5800020.0]
    assert "raster:bands" not in asset
    json.dumps(item, allow_nan=False)
    pystac.Item.from_dict(item)
    assert "eo:cloud_cover" not in sentinel2(tmp_path, cloud_cover=None)["properties"]


def test_footprint_is_the_extent_of_the_data(tmp_path: Path) -> None:
    bands, scl = arrays()
    scl[:, 100:] = 0
    item = sentinel2(tmp_path, bands=bands, scl=scl)
    polygon = shape(item["geometry"])

    def at(x: float, y: float) -> Point:
        longitude, latitude = transform_points(CRS, "EPSG:4326", [x], [y])
        return Point(longitude[0], latitude[0])

    assert polygon.contains(at(318001, 5800019)) and polygon.contains(at(319999, 5797021))
    assert not polygon.contains(at(320010, 5798500))
    assert item["bbox"] == pytest.approx(polygon.bounds)
    assert item["properties"]["s2:nodata_pixel_percentage"] == 50.0


@pytest.mark.parametrize("nodata_tag", [False, True])
def test_sentinel2_pixels_and_cogs(tmp_path: Path, nodata_tag: bool) -> None:
    bands, scl = arrays()
    item = sentinel2(tmp_path, bands=bands, scl=scl, nodata_tag=nodata_tag, blocksize=128)
    for key, array in {**bands, "SCL": scl}.items():
        with rasterio.open(item["assets"][key]["href"]) as dataset:
            assert np.array_equal(dataset.read(1), array), key
            assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert dataset.profile["tiled"] and dataset.profile["compress"] == "deflate"
            assert dataset.block_shapes == [(128, 128)]
            assert dataset.nodata == (0 if nodata_tag else None)
            assert dataset.crs.to_epsg() == 32631
            assert list(dataset.transform)[:6] == item["assets"][key]["proj:transform"]
            assert list(dataset.shape) == item["assets"][key]["proj:shape"]
            assert dataset.overviews(1) == ([2, 4] if max(array.shape) > 256 else [2])


def test_sentinel1_pixels_nodata_and_channels(tmp_path: Path) -> None:
    vv = np.random.default_rng(1).gamma(4.4, 0.05, (60, 50)).astype(np.float32)
    vv[:, :10] = -32768
    item = sentinel1(tmp_path, vv=vv, vh=None)
    assert "vh" not in item["assets"] and item["properties"]["sar:polarizations"] == ["VV"]
    assert "_1SSV_" in item["id"]
    asset = item["assets"]["vv"]
    data = Path(asset["href"]).read_bytes()
    assert asset["file:size"] == len(data)
    assert asset["file:checksum"] == hashlib.md5(data).hexdigest()
    assert asset["raster:bands"][0]["nodata"] == -32768
    with rasterio.open(asset["href"]) as dataset:
        assert dataset.nodata == -32768
        assert np.array_equal(dataset.read(1), vv)
    (left,), _ = transform_points(CRS, "EPSG:4326", [318100.0], [5800020.0])
    assert item["bbox"][0] == pytest.approx(left, abs=1e-4)
    with pytest.raises(ValueError, match="vv, vh or both"):
        sentinel1(tmp_path, vv=None, vh=None)


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def test_same_arrays_give_the_same_bytes_and_are_not_rewritten(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        sentinel2(folder)
        sentinel1(folder)
    first, other = snapshot(tmp_path / "a"), snapshot(tmp_path / "b")
    assert len(first) == 11 + 2
    assert {k: v[0] for k, v in first.items()} == {k: v[0] for k, v in other.items()}
    sentinel2(tmp_path / "a")
    assert snapshot(tmp_path / "a") == first
    # Files that differ are rewritten: other pixels, or a truncated file.
    bands, _ = arrays()
    bands["B02"] = bands["B02"] + np.uint16(1)
    item = sentinel2(tmp_path / "a", bands=bands)
    with rasterio.open(item["assets"]["B02"]["href"]) as dataset:
        assert np.array_equal(dataset.read(1), bands["B02"])
    path = Path(item["assets"]["SCL"]["href"])
    path.write_bytes(path.read_bytes()[:200])
    sentinel2(tmp_path / "a", bands=bands)
    name = str(path.relative_to(tmp_path / "a"))
    assert snapshot(tmp_path / "a")[name][0] == first[name][0]


def test_duplicates_of_one_acquisition_and_other_days(tmp_path: Path) -> None:
    new = sentinel2(tmp_path, generation=MADE + dt.timedelta(days=400), baseline="05.00")
    old = sentinel2(tmp_path, baseline="04.00")
    assert new["id"] != old["id"]
    take = [item["properties"]["s2:datatake_id"].rsplit("_N", 1)[0] for item in (new, old)]
    assert take[0] == take[1]
    orbits = {
        sentinel2(tmp_path, datetime=when, absolute_orbit=None)["properties"]["s2:datatake_id"]
        for when in (WHEN, WHEN + dt.timedelta(days=5))
    }
    assert len({name.split("_")[2] for name in orbits}) == 2


def test_href_prefix_matches_the_files(tmp_path: Path) -> None:
    item = sentinel2(tmp_path, href_prefix="http://127.0.0.1:8000/data/")
    for key in PIXEL_SIZES:
        href = item["assets"][key]["href"]
        assert href.startswith("http://127.0.0.1:8000/data/")
        assert (tmp_path / href.removeprefix("http://127.0.0.1:8000/data/")).is_file()


def test_item_collection_and_static_catalog_are_read_by_pystac(tmp_path: Path) -> None:
    items = [sentinel2(tmp_path / "scenes"), sentinel1(tmp_path / "scenes")]
    write_item_collection(tmp_path / "items.json", items)
    read = pystac.ItemCollection.from_file(str(tmp_path / "items.json"))
    assert [item.id for item in read] == [item["id"] for item in items]
    catalog = write_static_catalog(tmp_path, items)
    first = snapshot(tmp_path)
    write_static_catalog(tmp_path, items)
    assert snapshot(tmp_path) == first
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    result = list(pystac.Catalog.from_file(str(moved / catalog.name)).get_items(recursive=True))
    assert {item.collection_id for item in result} == {"sentinel-2-l2a", "sentinel-1-rtc"}
    for item in result:
        key = "B02" if "B02" in item.assets else "vv"
        assert Path(str(item.assets[key].get_absolute_href())).is_file()
    moved.rename(tmp_path)


def test_cloud_percentage_counts_pixels_with_data() -> None:
    scl = np.array([[0, 0, 0, 0], [8, 9, 10, 4]], dtype=np.uint8)
    assert cloud_percentage(scl) == 75.0
    assert cloud_percentage(np.zeros((2, 2), dtype=np.uint8)) == 0.0


def test_wrong_arrays_are_refused(tmp_path: Path) -> None:
    bands, scl = arrays()
    with pytest.raises(ValueError, match="B02: expected a 2-D uint16"):
        sentinel2(tmp_path, bands=bands | {"B02": bands["B02"].astype(np.float32)})
    with pytest.raises(ValueError, match="unknown asset red"):
        sentinel2(tmp_path, bands={"red": bands["B04"]}, scl=scl)
    assert not list(tmp_path.iterdir())
