"""On a coarser grid a pixel is the mean of what it covers, for any window."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.errors import ReadError
from tessera_flow.raster import area_mean
from tessera_flow.raster.resample import ReadOptions, read_window
from tessera_flow.region.grid import crop, tiling
from tessera_flow.sensors.sentinel2 import INVALID_SCL

LEFT, TOP, CRS = 600_000, 5_700_000, "EPSG:32631"
BILINEAR = ReadOptions("bilinear", declare_nodata=True)
SCL = ReadOptions("nearest", declare_nodata=True, invalid_classes=frozenset(INVALID_SCL))


def write(path: Path, values: np.ndarray, pixel: float = 10, crs: str = CRS, left=LEFT, top=TOP,
          **options) -> Path:  # fmt: skip
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1,
        dtype=values.dtype, crs=crs, transform=Affine(pixel, 0, left, 0, -pixel, top),
        tiled=True, blockxsize=64, blockysize=64, **options,
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)
    return path


def read(path: Path, geobox: GeoBox, options: ReadOptions = BILINEAR) -> np.ndarray:
    with rasterio.open(path) as dataset:
        slices, values = read_window(dataset, geobox, options)
        pixels = np.zeros(geobox.shape, dataset.dtypes[0])
    pixels[slices] = values
    return pixels


def grid(resolution: float, shape, left: float = LEFT, top: float = TOP) -> GeoBox:
    return GeoBox(shape, Affine(resolution, 0, left, 0, -resolution, top), CRS)


def noise(shape, low=1, high=9000) -> np.ndarray:
    return np.random.default_rng(3).integers(low, high, shape).astype(np.uint16)


def exact_mean(values: np.ndarray, ratio: float, offset: tuple[float, float], shape) -> np.ndarray:
    """Return the area mean pixel by pixel: every source pixel by its share of the target pixel."""

    def weights(start: float, size: int) -> np.ndarray:
        index = np.arange(size)
        return np.clip(np.minimum(index + 1, start + ratio) - np.maximum(index, start), 0, None)

    result = np.zeros(shape)
    for y in range(shape[0]):
        wy = weights(offset[0] + y * ratio, values.shape[0])
        for x in range(shape[1]):
            wx = weights(offset[1] + x * ratio, values.shape[1])
            area = np.outer(wy, wx) * (values > 0)
            if area.sum() >= ratio**2 / 2:
                result[y, x] = (area * values).sum() / area.sum()
    return result


@pytest.mark.parametrize(
    ("pixel", "resolution", "offset"),
    [
        (10, 20, (0, 0)),
        (10, 30, (0, 0)),
        (20, 30, (0, 0)),
        (10, 25, (0, 0)),
        (10, 100, (0, 0)),
        (10, 33.3, (7, 4)),
        (20, 50, (10, 10)),
        (30, 100, (5, -15)),
    ],
)
def test_mean_of_what_a_pixel_covers(tmp_path: Path, pixel, resolution, offset) -> None:
    values = noise((120, 130))
    values[:13] = 0
    values[60:70, 60:63] = 0
    path = write(tmp_path / "s.tif", values, pixel)
    ratio = resolution / pixel
    shape = (int(100 / ratio), int(100 / ratio))
    geobox = grid(resolution, shape, LEFT + offset[0], TOP - offset[1])
    expected = exact_mean(values, ratio, (offset[1] / pixel, offset[0] / pixel), shape)
    result = read(path, geobox)
    assert result.dtype == np.uint16
    # The reference computes in floating point: at one half it can be below.
    # Edges at other than binary fractions of a pixel are rounded to a 16,000th of a pixel.
    tolerance = 0.1 if resolution == 33.3 or pixel == 30 else 1e-9
    assert (np.abs(result - expected) <= 0.5 + tolerance).all()
    assert ((result == 0) == (expected == 0)).all()
    assert (expected == 0).any() and (expected > 0).mean() > 0.5


CASES = {
    "same zone": (CRS, LEFT - 500, TOP + 700),
    "next zone": ("EPSG:32630", None, None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("resolution", [20, 25, 100])
@pytest.mark.parametrize("classes", [False, True])
def test_pixels_do_not_depend_on_the_window(
    tmp_path: Path, monkeypatch, case: str, resolution: float, classes: bool
) -> None:
    crs, left, top = CASES[case]
    if left is None:
        to_zone = pyproj.Transformer.from_crs(CRS, crs, always_xy=True)
        x, y = to_zone.transform(LEFT, TOP)
        left, top = round(x / 20) * 20 - 1500, round(y / 20) * 20 + 1300
    values = noise((700, 700), 0, 12) if classes else noise((700, 700))
    values[:100] = 0
    path = write(tmp_path / "s.tif", values.astype(np.uint8 if classes else np.uint16), 10, crs,
                 left, top)  # fmt: skip
    options = SCL if classes else BILINEAR
    geobox = grid(resolution, (50, 46) if resolution < 100 else (30, 26))
    whole = read(path, geobox, options)
    assert (whole > 0).mean() > 0.5
    for size in (11, 23):
        joined = np.zeros_like(whole)
        for window in tiling(*geobox.shape, size):
            joined[window.slices] = read(path, crop(geobox, window), options)
        np.testing.assert_array_equal(joined, whole)
    monkeypatch.setattr(area_mean, "STRIP_PIXELS", 5000)
    np.testing.assert_array_equal(read(path, geobox, options), whole)


def test_classes_that_are_averaged_together_are_those_one_by_one(
    tmp_path: Path, monkeypatch
) -> None:
    """GDAL takes four images for red, green, blue and alpha."""
    to_zone = pyproj.Transformer.from_crs(CRS, "EPSG:32630", always_xy=True)
    x, y = to_zone.transform(LEFT, TOP)
    values = noise((160, 160), 0, 4).astype(np.uint8)
    values[:60] = 2
    path = write(tmp_path / "s.tif", values, 10, "EPSG:32630", x - 400, y + 400)
    together = read(path, grid(25, (30, 30)), SCL)
    assert set(np.unique(together)) >= {0, 2}
    monkeypatch.setattr(area_mean, "_CLASSES", 1)
    np.testing.assert_array_equal(read(path, grid(25, (30, 30)), SCL), together)


@pytest.mark.parametrize(("resolution", "limit"), [(20, 30), (25, 80), (100, 6)])
def test_scene_of_the_next_zone_equals_the_mean_of_many_samples(
    tmp_path: Path, resolution: float, limit: float
) -> None:
    """Noise with a standard deviation of 2600; one sample per pixel is far off."""
    crs = "EPSG:32630"
    to_zone = pyproj.Transformer.from_crs(CRS, crs, always_xy=True)
    x, y = to_zone.transform(LEFT, TOP)
    left, top = round(x / 10) * 10 - 500, round(y / 10) * 10 + 500
    values = noise((400, 400))
    path = write(tmp_path / "s.tif", values, 10, crs, left, top)
    size = int(2000 / resolution)
    n = 10 * int(resolution / 10)
    fine = (np.arange(size * n) + 0.5) * resolution / n
    sx, sy = to_zone.transform(*np.meshgrid(LEFT + fine, TOP - fine))
    samples = values[np.floor((top - sy) / 10).astype(int), np.floor((sx - left) / 10).astype(int)]
    expected = samples.reshape(size, n, size, n).mean((1, 3))
    difference = read(path, grid(resolution, (size, size))) - expected
    assert np.sqrt((difference**2).mean()) < limit
    assert np.sqrt(((samples[n // 2 :: n, n // 2 :: n] - expected) ** 2).mean()) > 1500


def test_no_data_is_not_mixed_in_and_half_a_pixel_is_needed(tmp_path: Path) -> None:
    values = np.full((40, 40), 3000, np.uint16)
    values[:, :4] = 0  # 40 % of the first column of 100 m pixels
    values[:, 14:20] = 0  # 60 % of the second
    path = write(tmp_path / "s.tif", values)
    geobox = grid(100, (4, 5))
    expected = np.tile(np.uint16([3000, 0, 3000, 3000, 0]), (4, 1))
    np.testing.assert_array_equal(read(path, geobox), expected)
    mixed = read(path, geobox, ReadOptions("bilinear", declare_nodata=False))
    np.testing.assert_array_equal(mixed, np.tile([1800, 1200, 3000, 3000, 0], (4, 1)))
    declared = write(tmp_path / "d.tif", values + 7, nodata=7)
    with pytest.raises(ReadError, match="declares 7 as no data"):
        read(declared, geobox)


@pytest.mark.parametrize(("cloud", "valid"), [(0, True), (2, True), (3, False), (25, False)])
def test_classification_is_valid_up_to_a_tenth_of_invalid_pixels(
    tmp_path: Path, cloud: int, valid: bool
) -> None:
    """100 m pixels of 25 pixels of 20 m: 2 of them are 8 %, 3 are 12 %."""
    values = np.full((10, 10), 4, np.uint8)
    values[:5, :5].flat[:cloud] = 9
    values[:5, 5:] = 5
    path = write(tmp_path / "scl.tif", values, 20)
    result = read(path, grid(100, (2, 2)), SCL)
    np.testing.assert_array_equal(result, [[4 if valid else 9, 5], [4, 4]])
    # Outside the raster is no data.
    shifted = read(path, grid(100, (2, 2), LEFT - 20), SCL)
    assert shifted[1, 0] == 0


def test_radar_power_is_averaged_before_decibels(tmp_path: Path) -> None:
    power = np.float32([[0.1, 0.3, 0.2, np.nan], [0.2, 0.4, -32768, 0.0]])
    path = write(tmp_path / "vv.tif", power, nodata=-32768)
    for resampling in ("nearest", "bilinear"):
        result = read(path, grid(20, (1, 2)), ReadOptions(resampling, True))
        np.testing.assert_allclose(result, [[0.25, 0.0]], rtol=1e-6)
    power[1, 2] = 0.4
    write(path, power, nodata=-32768)
    np.testing.assert_allclose(read(path, grid(20, (1, 2))), [[0.25, 0.3]], rtol=1e-6)


def test_decibels_are_refused_and_negative_power_is_counted_on_a_coarse_grid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The mean leaves out what is not above 0, so that it would be plausible."""
    rng = np.random.default_rng(3)
    power = rng.gamma(4, 0.02, (40, 40)).astype(np.float32)
    decibels = (10 * np.log10(power)).astype(np.float32)
    decibels[::7] = 0.5  # strong targets
    path = write(tmp_path / "vv.tif", decibels, nodata=-32768)
    for resampling in ("nearest", "bilinear"):
        with pytest.raises(ReadError, match=r"are negative .* probably in decibels"):
            read(path, grid(100, (4, 4)), ReadOptions(resampling, True))
    write(path, np.where(power > 0.02, power, power - 0.03).astype(np.float32), nodata=-32768)
    count = int((power <= 0.02).sum())
    assert 0 < count < 0.05 * power.size
    caplog.set_level(logging.INFO)
    read(path, grid(100, (4, 4)))
    (record,) = (r for r in caplog.records if "negative power" in r.getMessage())
    assert record.levelname == "INFO"
    assert record.getMessage().startswith(f"{count} values ({100 * count / 1600:.1f} %) of ")
    power[:10] = -0.01
    write(path, power, nodata=-32768)
    read(path, grid(100, (4, 4)))
    assert caplog.records[-1].levelname == "WARNING"
    assert caplog.records[-1].getMessage().startswith("400 values (25.0 %) of ")


def test_source_in_degrees_or_turned(tmp_path: Path) -> None:
    values = np.full((300, 300), 2500, np.uint16)
    to_degrees = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(LEFT - 300, TOP + 300)
    path = write(tmp_path / "s.tif", values, 0.0001, "EPSG:4326", lon, lat)
    assert (read(path, grid(100, (10, 10))) == 2500).all()
    turned = write(tmp_path / "t.tif", noise((100, 100)))
    with rasterio.open(turned, "r+") as dataset:
        south_up = dataset.read(1)[::-1]
        dataset.transform = Affine(10, 0, LEFT, 0, 10, TOP - 1000)
        dataset.write(south_up, 1)
    plain = write(tmp_path / "p.tif", noise((100, 100)))
    np.testing.assert_array_equal(read(turned, grid(20, (50, 50))), read(plain, grid(20, (50, 50))))


def test_overviews_are_not_used(tmp_path: Path) -> None:
    values = noise((256, 256))
    path = write(tmp_path / "s.tif", values)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], rasterio.enums.Resampling.nearest)
    expected = np.floor(values[:200, :200].reshape(20, 10, 20, 10).mean((1, 3)) + 0.5)
    np.testing.assert_array_equal(read(path, grid(100, (20, 20))), expected)
