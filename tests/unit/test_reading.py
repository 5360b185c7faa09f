"""Resampling has no seams: the pixels do not depend on the window and equal an exact
computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from tessera_flow.raster.resample import ReadOptions, read_window
from tessera_flow.raster.upsample2x import upsample_bilinear
from tessera_flow.region.grid import crop, tiling

GRID = GeoBox((420, 380), Affine(10, 0, 600_500, 0, -10, 5_699_900), "EPSG:32631")


def scene(path: Path, crs: str, origin: tuple[float, float], pixel: float, shape, empty=2500):
    """Write noise, the worst case for resampling; the first rows and a corner are no data."""
    rng = np.random.default_rng(3)
    values = rng.integers(1, 9000, shape).astype(np.uint16)
    values[: int(empty / pixel)] = 0
    values[-50:, :50] = 0
    with rasterio.open(
        path, "w", driver="GTiff", height=shape[0], width=shape[1], count=1, dtype="uint16",
        crs=crs, transform=Affine(pixel, 0, origin[0], 0, -pixel, origin[1]), tiled=True,
        blockxsize=128, blockysize=128,
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)
    return values


def neighbour_origin() -> tuple[float, float]:
    """Return the upper left corner of a scene around the grid, a multiple of 20 m in zone 30."""
    x, y = pyproj.Transformer.from_crs("EPSG:32631", "EPSG:32630", always_xy=True).transform(
        602_400, 5_697_800
    )
    return round((x - 4000) / 20) * 20, round((y + 4000) / 20) * 20


CASES = {
    "same zone, 10 m": ("EPSG:32631", (600_000, 5_700_000), 10, (600, 600)),
    "same zone, 20 m": ("EPSG:32631", (600_000, 5_700_000), 20, (300, 300)),
    "next zone, 10 m": ("EPSG:32630", neighbour_origin(), 10, (800, 800)),
    "next zone, 20 m": ("EPSG:32630", neighbour_origin(), 20, (400, 400)),
}


def read(path: Path, geobox: GeoBox, options: ReadOptions) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return read_open(dataset, geobox, options)


def read_open(dataset: rasterio.DatasetReader, geobox: GeoBox, options: ReadOptions) -> np.ndarray:
    pixels = np.zeros(geobox.shape, np.uint16)
    slices, values = read_window(dataset, geobox, options)
    pixels[slices] = values
    return pixels


@pytest.mark.parametrize("declare_nodata", [True, False])
@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("case", CASES)
def test_pixels_do_not_depend_on_the_window(
    tmp_path: Path, case: str, resampling, declare_nodata: bool
) -> None:
    scene(tmp_path / "s.tif", *CASES[case])
    options = ReadOptions(resampling, declare_nodata)
    expected = read(tmp_path / "s.tif", GRID, options)
    assert 0.3 < (expected > 0).mean() < 1
    for size in (50, 64, 100, 37):
        result = np.zeros_like(expected)
        with rasterio.open(tmp_path / "s.tif") as dataset:
            for window in tiling(*GRID.shape, size):
                result[window.slices] = read_open(dataset, crop(GRID, window), options)
        np.testing.assert_array_equal(result, expected, err_msg=f"windows of {size} px")


def exact_bilinear(values: np.ndarray, crs: str, transform: Affine) -> np.ndarray:
    """Interpolate bilinearly at exactly transformed pixel centres, in float64."""
    x, y = np.meshgrid(np.arange(GRID.shape[1]) + 0.5, np.arange(GRID.shape[0]) + 0.5)
    x, y = GRID.affine.c + 10 * x, GRID.affine.f - 10 * y
    x, y = pyproj.Transformer.from_crs("EPSG:32631", crs, always_xy=True).transform(x, y)
    column = (x - transform.c) / transform.a - 0.5
    row = (y - transform.f) / transform.e - 0.5
    c, r = np.floor(column).astype(int), np.floor(row).astype(int)
    fc, fr = column - c, row - r
    v = values.astype(np.float64)
    return (
        v[r, c] * (1 - fr) * (1 - fc) + v[r, c + 1] * (1 - fr) * fc
        + v[r + 1, c] * fr * (1 - fc) + v[r + 1, c + 1] * fr * fc
    )  # fmt: skip


@pytest.mark.parametrize("case", ["same zone, 20 m", "next zone, 10 m", "next zone, 20 m"])
def test_bilinear_equals_exact_computation(tmp_path: Path, case: str) -> None:
    crs, origin, pixel, shape = CASES[case]
    values = scene(tmp_path / "s.tif", crs, origin, pixel, shape, empty=0)
    transform = Affine(pixel, 0, origin[0], 0, -pixel, origin[1])
    expected = exact_bilinear(values, crs, transform)
    result = read(tmp_path / "s.tif", GRID, ReadOptions("bilinear", declare_nodata=False))
    difference = np.abs(result - expected)
    assert difference.max() <= 0.5 + 1e-3  # rounded to integers
    assert result.max() > 5000


def test_no_data_does_not_enter_interpolated_values(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=60, width=60, count=1, dtype="uint16",
        crs="EPSG:32631", transform=Affine(20, 0, 600_500, 0, -20, 5_699_900),
    ) as dataset:  # fmt: skip
        values = np.full((60, 60), 5000, np.uint16)
        values[:, 30:] = 0
        dataset.write(values, 1)
    grid = GRID[:100, :100]
    exact = read(path, grid, ReadOptions("bilinear", declare_nodata=True))
    mixed = read(path, grid, ReadOptions("bilinear", declare_nodata=False))
    assert set(np.unique(exact)) == {0, 5000}
    np.testing.assert_array_equal(mixed[50, 57:63], [5000, 5000, 3750, 1250, 0, 0])


def test_declared_nodata_and_pixels_outside_are_zero(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=50, width=50, count=1, dtype="float32",
        crs="EPSG:32631", transform=Affine(10, 0, 600_500, 0, -10, 5_699_900), nodata=-32768,
    ) as dataset:  # fmt: skip
        values = np.full((50, 50), 0.25, np.float32)
        values[:10] = -32768
        dataset.write(values, 1)
    pixels = np.zeros((100, 100), np.float32)
    with rasterio.open(path) as dataset:
        slices, result = read_window(dataset, GRID[:100, :100], ReadOptions("nearest", True))
    pixels[slices] = result
    expected = np.zeros((100, 100), np.float32)
    expected[10:50, :50] = 0.25
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("declare_nodata", [True, False])
@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("start", [(0, 0), (1, 1), (-7, 40), (151, -3)])
def test_upsampled_pixels_equal_an_exact_warp(
    tmp_path: Path, resampling, declare_nodata: bool, start: tuple[int, int]
) -> None:
    """With no data areas of several sizes, raster edges, odd and even windows."""
    rng = np.random.default_rng(5)
    values = rng.integers(0, 65536, (130, 90)).astype(np.uint16)
    values[rng.random(values.shape) < 0.2] = 0
    values[40:70, 20:60] = 0
    profile = {"driver": "GTiff", "height": 130, "width": 90, "count": 1, "dtype": "uint16"}
    origin = Affine(20, 0, 600_000, 0, -20, 5_700_000)
    with rasterio.open(
        tmp_path / "s.tif", "w", crs="EPSG:32631", transform=origin, **profile
    ) as dataset:
        dataset.write(values, 1)
    left, top = 600_000 + 10 * start[1], 5_700_000 - 10 * start[0]
    geobox = GeoBox((143, 117), Affine(10, 0, left, 0, -10, top), "EPSG:32631")
    expected = np.zeros(geobox.shape, np.uint16)
    with rasterio.open(tmp_path / "s.tif") as dataset:
        nodata = 0 if declare_nodata else None
        with WarpedVRT(
            dataset, crs="EPSG:32631", transform=geobox.affine, height=143, width=117,
            resampling=Resampling[resampling], src_nodata=nodata, nodata=nodata,
            tolerance=1e-9, XSCALE=1, YSCALE=1,
        ) as vrt:  # fmt: skip
            expected = vrt.read(1)
    result = read(tmp_path / "s.tif", geobox, ReadOptions(resampling, declare_nodata))
    np.testing.assert_array_equal(result, expected)
    assert expected.any()


def test_upsampling_rounds_half_up_and_does_not_overflow() -> None:
    source = np.pad(np.array([[65535, 65535], [0, 1]], np.uint16), 1, mode="edge")
    result = upsample_bilinear(source, zero_is_nodata=False)
    assert result[0].tolist() == [65535] * 4
    # (9 * 0 + 3 * 1 + 3 * 0 + 1 * 1) / 16 = 0.25; (9 * 1 + 3 * 0 + 3 * 1 + 0) / 16 = 0.75
    assert result[3].tolist() == [0, 0, 1, 1]
    assert upsample_bilinear(source, zero_is_nodata=True)[3].tolist() == [0, 0, 1, 1]
