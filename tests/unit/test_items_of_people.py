"""Items and rasters as other tools write them: used, or refused with a reason."""

from __future__ import annotations

import copy
import dataclasses
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.control import GroundControlPoint

from tessera_flow.archives.signing import Access
from tessera_flow.config.sections import Sentinel2
from tessera_flow.errors import ItemError, ReadError
from tessera_flow.ingest.radar_check import check_power
from tessera_flow.raster.failures import MissingSceneError
from tessera_flow.raster.reader import Asset, Reader
from tessera_flow.raster.resample import ReadOptions
from tessera_flow.scenes.candidate import source_item
from tessera_flow.scenes.extent import raster_extent
from tessera_flow.scenes.item_assets import (
    check_radar,
    exclusion_warnings,
    stated_band,
    used_assets,
    without_paid,
)
from tessera_flow.sensors.sentinel1 import not_linear_gamma0, not_power
from tessera_flow.urls import absolute_href

from ..support.servers import serve_files

LEFT, TOP, SIZE = 400_000, 5_800_000, 60
GRID = GeoBox((40, 40), Affine(10, 0, LEFT + 100, 0, -10, TOP - 100), "EPSG:32631")
RIGHT = [10.0, 0.0, LEFT, 0.0, -10.0, TOP]
BOX = [1.52, 52.33, 1.55, 52.36]
"""The bounding box in degrees of 60 x 60 pixels at LEFT, TOP, roughly."""


def document(transform: list[float] | None = RIGHT, bbox: Any = BOX) -> dict[str, Any]:
    asset: dict[str, Any] = {"href": "/archive/B04.tif", "proj:shape": [SIZE, SIZE]}
    if transform:
        asset["proj:transform"] = transform
    properties = {"datetime": "2021-06-10T10:50:31Z", "proj:epsg": 32631}
    return {"id": "X", "bbox": bbox, "properties": properties, "assets": {"B04": asset}}


def extent(item: dict[str, Any]) -> Any:
    return raster_extent(item, item["assets"].values(), GRID)


@pytest.mark.parametrize(
    "transform",
    [
        RIGHT,
        [*RIGHT, 0.0, 0.0, 1.0],
        [LEFT, 10.0, 0.0, TOP, 0.0, -10.0],  # GDAL's order
        [10.0, 0.0, LEFT, 0.0, 10.0, TOP - 600],  # the first row is the southern one
    ],
)
@pytest.mark.parametrize("bbox", [BOX, None])
def test_extent_of_a_transform_in_any_order(transform: list[float], bbox: Any) -> None:
    expected = (LEFT - 80, TOP - 600 - 80, LEFT + 600 + 80, TOP + 80)
    assert extent(document(transform, bbox)) == pytest.approx(expected)


def test_item_whose_metadata_contradict_each_other_is_not_lost() -> None:
    elsewhere = [10.0, 0.0, 600_000, 0.0, -10.0, 5_000_000]
    item = document(elsewhere)
    assert source_item(item, GRID, {"B04"}, True).overlaps(GRID)
    item = document(RIGHT, [10.0, 40.0, 10.1, 40.1])
    assert source_item(item, GRID, {"B04"}, True).overlaps(GRID)
    item = document(elsewhere, [4.27, 45.1, 4.4, 45.2])
    assert not source_item(item, GRID, {"B04"}, True).overlaps(GRID)


def test_bands_are_found_under_the_keys_of_other_tools() -> None:
    keys = ["B02_10m", "B02_20m", "B8A_20m", "SCL_60m", "red", "B05_60m"]
    item = {"assets": {key: {"href": key} for key in keys}}
    found = used_assets(item, ["B02", "B8A", "SCL", "B04", "B05"])
    assert {key: asset["href"] for key, asset in found.items()} == {
        "B02": "B02_10m", "B8A": "B8A_20m", "B04": "red",
    }  # fmt: skip


def test_band_stated_by_a_list() -> None:
    both = [{"name": "VH"}, {"name": "VV"}]
    assert stated_band("vv", {"bands": both}) == {"band": 2}
    assert stated_band("vv", {"bands": both[1:]}) == {}
    assert stated_band("vv", {"raster:bands": [{"unit": "1"}, {}]}) == {}


def test_items_of_requester_pays_buckets_and_unknown_exclusions_are_named() -> None:
    item = source_item(document(), GRID, {"B04"}, True)
    paid = copy.deepcopy(document())
    paid["id"], paid["assets"]["B04"]["href"] = "P", "s3://sentinel-s2-l2a/tiles/31/B04.jp2"
    free, left_out = without_paid([item, source_item(paid, GRID, {"B04"}, True)])
    assert free == [item]
    reason = "where the reader pays (requester pays), which is not supported"
    assert left_out == [("P", f"B04: in sentinel-s2-l2a, {reason}")]
    (warning,) = exclusion_warnings(Sentinel2(exclude=["X", "typo"]), {"X"})
    assert "typo" in warning and "sentinel2.exclude" in warning and "X," not in warning


@pytest.mark.parametrize(
    ("href", "base", "expected"),
    [
        ("./tile #2/a?b%.tif", "/data/run #3/items.json", "/data/run #3/tile #2/a?b%.tif"),
        ("file:///data/run%20%233/a.tif", "/x.json", "/data/run #3/a.tif"),
        ("file:///data/run #3/a.tif", "http://h/x", "/data/run #3/a.tif"),
        ("a #1/b.tif", "http://h/c/x.json", "http://h/c/a%20%231/b.tif"),
        ("http://h/a#1/b.tif", "/x.json", "http://h/a%231/b.tif"),
        ("http://h/b.tif?sig=x%2B", "/x.json", "http://h/b.tif?sig=x%2B"),
        ("s3://bucket/a.tif", "http://h/", "s3://bucket/a.tif"),
        ("/vsis3/bucket/a.tif", "/x.json", "s3://bucket/a.tif"),
        ("/not/on/this/disk.tif", "http://h/c/x.json", "http://h/not/on/this/disk.tif"),
    ],
)
def test_absolute_href(href: str, base: str, expected: str) -> None:
    assert absolute_href(href, base) == expected


def test_paths_in_the_items_of_a_service(tmp_path: Path) -> None:
    file = tmp_path / "tile #1.tif"
    file.touch()
    assert absolute_href(str(file), "http://host/search") == str(file)
    encoded = str(file).replace(" ", "%20").replace("#", "%23")
    assert absolute_href(encoded, "/items.json") == str(file)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("gamma0 in dB", True), ("decibels", True), ("Amplitude of VV", True), ("sigma0", True),
        ("Sigma nought", True), ("\u03c30 VV", True), ("gamma0 linear power", False),
        ("Terrain-corrected gamma naught values", False), ("", False),
        ("linear gamma0; convert to dB for display", False),
    ],
)  # fmt: skip
def test_words_of_other_radar(text: str, refused: bool) -> None:
    assert (not_linear_gamma0(text) is not None) == refused
    item = {"id": "S1", "properties": {}, "assets": {"vv": {"href": "a", "title": text}}}
    if refused:
        with pytest.raises(ItemError, match="Item S1 cannot be used: title of asset vv"):
            check_radar(item, ["vv", "vh"])
    else:
        check_radar(item, ["vv", "vh"])


@pytest.mark.parametrize(
    ("properties", "asset", "words"),
    [
        ({"card4l:measurement_type": "sigma0"}, {}, "card4l:measurement_type .*sigma0"),
        ({"card4l:measurement_convention": "linear amplitude"}, {}, "convention .*amplitude"),
        ({"ceosard:measurement_type": "beta0"}, {}, "ceosard:measurement_type .*beta0"),
        ({"s1:backscatter_coefficient": "sigma0_ellipsoid"}, {}, "backscatter_coefficient .*sigma"),
        ({"hyp3:job_parameters": {"scale": "decibel"}}, {}, r"job_parameters \(scale\) .*decibel"),
        ({}, {"roles": ["data", "amplitude"]}, "roles .*amplitude"),
        ({"card4l:measurement_type": "gamma0", "hyp3:job_parameters": {"scale": "power"},
          "card4l:measurement_convention": "linear power"}, {"roles": ["data"]}, None),
    ],
)  # fmt: skip
def test_statements_of_items_about_radar(
    properties: dict[str, Any], asset: dict[str, Any], words: str | None
) -> None:
    item = {"id": "S1", "properties": properties, "assets": {"vh": {"href": "a", **asset}}}
    if words is None:
        check_radar(item, ["vv", "vh"])
        return
    with pytest.raises(ItemError, match=f"Item S1 cannot be used: .*{words}"):
        check_radar(item, ["vv", "vh"])


def test_decibels_are_not_power() -> None:
    rng = np.random.default_rng(0)
    power = rng.gamma(4, 0.02, 10_000)
    assert not_power(power) is None
    assert not_power(power - 0.05) is None  # noise was subtracted
    assert not_power(np.zeros(5)) is None
    found = not_power(10 * np.log10(power))
    assert found is not None and "are negative" in found


def test_power_over_calm_water_is_power_and_decibels_of_it_are_not() -> None:
    """Backscatter of -30 to -40 dB is below the noise, so subtraction leaves tiny negatives."""
    rng = np.random.default_rng(0)
    water = 10 ** (rng.uniform(-4, -3, 400))
    assert not_power(water) is None
    for noise in (0.002, 0.02):  # -27 and -17 dB, the quietest and the loudest of Sentinel-1
        subtracted = water * rng.exponential(1, 400) - noise
        assert (subtracted < 0).mean() > 0.9
        assert not_power(subtracted) is None
        assert not_power(-abs(subtracted)) is None
    subtracted[:3] = -9999  # no data that is not declared, at an edge
    assert not_power(subtracted) is None
    for values in (10 * np.log10(water), 10 * np.log10(water[:5]), 10 * np.log10(water) / 40):
        found = not_power(values)
        assert found is not None and found.startswith("100 % of its values are negative")


def write(path: Path, values: np.ndarray, transform: Affine | None = None, **tags: Any) -> None:
    profile = {
        "driver": "GTiff", "height": values.shape[1], "width": values.shape[2],
        "count": len(values), "dtype": values.dtype, "crs": "EPSG:32631",
        "transform": transform or Affine(*RIGHT),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(values)
        for name, value in tags.items():
            setattr(dataset, name, value)


def read(path: Path, key: str = "B04", band: int | None = None, dtype: str = "uint16") -> Any:
    with Reader(lambda href, fresh=False: Access(href)) as reader:
        asset = Asset("X", key, str(path), band)
        slices, pixels = reader.read(asset, GRID, dtype, ReadOptions("bilinear", True))
        result = np.zeros(GRID.shape, dtype)
        result[slices] = pixels
        return result


def numbers(count: int = 1, dtype: Any = np.uint16) -> np.ndarray:
    values = np.random.default_rng(1).integers(1, 200, (count, SIZE, SIZE))
    return values.astype(dtype)


def test_south_up_raster_has_the_pixels_of_the_north_up_one(tmp_path: Path) -> None:
    values = numbers()
    write(tmp_path / "a.tif", values[:, ::-1], Affine(10, 0, LEFT, 0, 10, TOP - 600))
    assert (read(tmp_path / "a.tif") == values[0, 10:50, 10:50]).all()


def test_band_of_a_file_of_two(tmp_path: Path) -> None:
    values, path = numbers(2, np.float32), tmp_path / "a.tif"
    write(path, values)
    with pytest.raises(ReadError, match=r"asset vh of item X .*2 bands.*list|List all bands"):
        read(path, "vh", None, "float32")
    assert (read(path, "vh", 2, "float32") == values[1, 10:50, 10:50]).all()
    with pytest.raises(ReadError, match="states band 3"):
        read(path, "vh", 3, "float32")
    write(path, values, descriptions=("Gamma0_VH", "Gamma0_VV"))
    assert (read(path, "vh", None, "float32") == values[0, 10:50, 10:50]).all()
    with pytest.raises(ReadError, match="states band 2, but the file names band 1"):
        read(path, "vh", 2, "float32")


def test_rasters_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, numbers(), Affine(*RIGHT) @ Affine.rotation(10))
    with pytest.raises(ReadError, match="rotated"):
        read(path)
    write(path, numbers(dtype=np.uint8))
    with pytest.raises(ReadError, match="8 bits"):
        read(path)
    write(path, numbers(dtype=np.float32) / 200, scales=(0.0001,))
    with pytest.raises(ReadError, match=r"scale 0\.0001"):
        read(path)
    write(path, numbers(), scales=(0.0001,), offsets=(-0.1,))
    assert (read(path) == numbers()[0, 10:50, 10:50]).all()
    write(path, numbers(dtype=np.float32), descriptions=("Sigma0_VV_db",))
    with pytest.raises(ReadError, match="decibels"):
        read(path, "vv", None, "float32")
    path.write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(ReadError, match="gzip file"):
        read(path)


@pytest.mark.parametrize(("count", "level"), [(3, "INFO"), (300, "WARNING")])
def test_negative_power_is_counted_in_the_log(
    count: int, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    item = dataclasses.replace(source_item(document(), GRID, {"B04"}, True), id="S1")
    power = np.full((50, 50), 0.1, np.float32)
    power.flat[:count], power.flat[-100:] = -0.001, np.nan
    caplog.set_level(logging.INFO)
    check_power(item, ["vv", "vh"], [power, abs(power)])
    (record,) = caplog.records
    assert record.levelname == level
    share = f"{100 * count / 2400:.1f} %"
    assert f"{count} values ({share}) of asset vv of item S1 are negative" in record.getMessage()


# Drivers, codecs and layouts of files


def test_jpeg_2000_has_the_pixels_of_the_geotiff(tmp_path: Path) -> None:
    values, path = numbers(), tmp_path / "a.jp2"
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", height=SIZE, width=SIZE, count=1, dtype="uint16",
        crs="EPSG:32631", transform=Affine(*RIGHT), QUALITY=100, REVERSIBLE=True,
    ) as dataset:  # fmt: skip
        dataset.write(values)
    write(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read(path), read(tmp_path / "a.tif"))
    with serve_files(tmp_path) as server, Reader(lambda href, fresh=False: Access(href)) as reader:
        options = ReadOptions("bilinear", True)
        _, pixels = reader.read(Asset("X", "B04", f"{server.url}/a.jp2"), GRID, "uint16", options)
    np.testing.assert_array_equal(pixels, values[0, 10:50, 10:50])


@pytest.mark.parametrize("remote", [False, True])
def test_codec_that_is_not_installed_is_named(tmp_path: Path, remote: bool) -> None:
    """The archive is not at fault: the scene is not recorded as corrupt."""
    path = tmp_path / "a.tif"
    write(path, numbers())
    content = path.read_bytes()
    tag = struct.pack("<HHI", 259, 3, 1)  # compression, short, one value
    assert content.count(tag) == 1
    position = content.index(tag) + len(tag)
    path.write_bytes(content[:position] + struct.pack("<H", 34661) + content[position + 2 :])
    with serve_files(tmp_path) as server, Reader(lambda href, fresh=False: Access(href)) as reader:
        href = f"{server.url}/a.tif" if remote else str(path)
        with pytest.raises(ReadError, match=r"GDAL \(.*\) lacks the codec.*JBIG") as raised:
            reader.read(Asset("X", "B04", href), GRID, "uint16", ReadOptions("bilinear", True))
    assert not isinstance(raised.value, MissingSceneError)
    assert "not at fault" in str(raised.value)


def test_ground_control_points_and_alpha_bands_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    points = [
        GroundControlPoint(row, column, LEFT + 10 * column, TOP - 10 * row)
        for row in (0, SIZE) for column in (0, SIZE)
    ]  # fmt: skip
    with rasterio.open(
        path, "w", driver="GTiff", height=SIZE, width=SIZE, count=1, dtype="uint16",
        gcps=points, crs="EPSG:32631",
    ) as dataset:  # fmt: skip
        dataset.write(numbers())
    with pytest.raises(ReadError, match="ground control points"):
        read(path)
    with rasterio.open(
        path, "w", driver="GTiff", height=SIZE, width=SIZE, count=2, dtype="uint16",
        transform=Affine(*RIGHT), crs="EPSG:32631", ALPHA="YES", PHOTOMETRIC="MINISBLACK",
    ) as dataset:  # fmt: skip
        dataset.write(numbers(2))
    for band in (None, 1):
        with pytest.raises(ReadError, match="alpha band, which may hide pixels"):
            read(path, band=band)
