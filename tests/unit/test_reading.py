"""Resampling leaves no seams: any window gives the pixels of the whole, and the pixels of an
exact computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.access import Access
from tessera_flow.errors import ReadError
from tessera_flow.grid import crop, tiling
from tessera_flow.reading import ExactDriver, ReadOptions, read_window

from ..support.servers import serve_files

GRID = GeoBox((420, 380), Affine(10, 0, 600_500, 0, -10, 5_699_900), "EPSG:32631")


def scene(path: Path, crs: str, origin: tuple[float, float], pixel: float, shape, empty=2500):
    """Noise, the worst case for resampling; the first rows and a corner hold no data."""
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
    """Upper left corner, on the lattice of zone 30, of a scene around the grid."""
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
    pixels = np.zeros(geobox.shape, np.uint16)
    with rasterio.open(path) as dataset:
        part, values = read_window(dataset, geobox, options)
    pixels[part] = values
    return pixels


@pytest.mark.parametrize("declare_nodata", [True, False])
@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("case", CASES)
def test_any_window_gives_the_pixels_of_the_whole(
    tmp_path: Path, case: str, resampling, declare_nodata: bool
) -> None:
    scene(tmp_path / "s.tif", *CASES[case])
    options = ReadOptions(resampling, declare_nodata)
    whole = read(tmp_path / "s.tif", GRID, options)
    assert 0.3 < (whole > 0).mean() < 1
    for size in (50, 64, 100, 37):
        cut = np.zeros_like(whole)
        for window in tiling(*GRID.shape, size):
            cut[window.slices] = read(tmp_path / "s.tif", crop(GRID, window), options)
        np.testing.assert_array_equal(cut, whole, err_msg=f"windows of {size} px")


def exact_bilinear(values: np.ndarray, crs: str, transform: Affine) -> np.ndarray:
    """Bilinear interpolation at exactly transformed pixel centres, in float64."""
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
def test_bilinear_equals_an_exact_computation(tmp_path: Path, case: str) -> None:
    crs, origin, pixel, shape = CASES[case]
    values = scene(tmp_path / "s.tif", crs, origin, pixel, shape, empty=0)
    transform = Affine(pixel, 0, origin[0], 0, -pixel, origin[1])
    expected = exact_bilinear(values, crs, transform)
    got = read(tmp_path / "s.tif", GRID, ReadOptions("bilinear", declare_nodata=False))
    difference = np.abs(got - expected)
    assert difference.max() <= 0.5 + 1e-3  # rounded to whole numbers
    assert got.max() > 5000


def test_no_data_is_never_mixed_into_a_value(tmp_path: Path) -> None:
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


def test_a_declared_nodata_value_becomes_zero_and_outside_is_zero(tmp_path: Path) -> None:
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
        part, read_values = read_window(dataset, GRID[:100, :100], ReadOptions("nearest", True))
    pixels[part] = read_values
    expected = np.zeros((100, 100), np.float32)
    expected[10:50, :50] = 0.25
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("fresh", [True, False])
def test_an_address_is_signed_anew_at_every_try_and_the_token_stays_secret(
    tmp_path: Path, fresh: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A token can expire between two tries; the second try must bring a new one."""
    values = scene(tmp_path / "s.tif", *CASES["same zone, 10 m"])
    tokens = iter(["stalestale", "freshfresh" if fresh else "otherother"])
    options = ReadOptions("bilinear", declare_nodata=True, attempts=2)
    with serve_files(tmp_path) as server:
        server.token = "freshfresh"
        driver = ExactDriver(
            options,
            {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"},
            {f"{server.url}/s.tif": "asset B04 of item X"},
            lambda uri, fresh: Access(f"{uri}?sig={next(tokens)}"),
        )
        with rasterio.Env(**driver.capture_env()):
            if fresh:
                part, pixels = driver.read(f"{server.url}/s.tif", GRID)
                np.testing.assert_array_equal(pixels, values[10:430, 50:430])
                assert part == (slice(0, 420), slice(0, 380))
            else:
                with pytest.raises(ReadError, match="asset B04 of item X") as error:
                    driver.read(f"{server.url}/s.tif", GRID)
                assert "otherother" not in str(error.value)
    assert "again in" in caplog.text
    assert "stalestale" not in caplog.text
