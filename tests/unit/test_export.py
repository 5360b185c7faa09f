"""`tessera-flow export`: formats, bands, components, cells and grids, compared with the product."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from tessera_flow.cli.main import main
from tessera_flow.products.arrays import write_arrays
from tessera_flow.products.export.view import View, coarser
from tessera_flow.products.stores.zarr_store import write_zarr
from tessera_flow.region.grid import Window

from ..support.products_region import Region, make_region


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> tuple[Region, Path]:
    """Return a region and its store."""
    folder = tmp_path_factory.mktemp("product")
    region = make_region(folder / "blocks", 100)
    write_zarr(folder / "embeddings.zarr", region.grid, region.blocks, region.provenance, 25)
    return region, folder


def embeddings_of(region: Region) -> np.ndarray:
    """Return (H, W, K) float32, NaN without an embedding."""
    if region.scales is None:
        return region.embeddings
    return region.embeddings * region.scales[..., None]


def exported(folder: Path, out: Path, *options: object) -> int:
    return main(["export", str(folder), "--out", str(out), *map(str, options)])


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, -1)


def test_all_dimensions_in_every_format(product: tuple[Region, Path], tmp_path: Path) -> None:
    region, folder = product
    expected = embeddings_of(region)
    for name in ("e.tif", "e.npy", "e.zarr", "e.nc"):
        assert exported(folder, tmp_path / name) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "e.tif"), expected)
    assert cog_validate(tmp_path / "e.tif", strict=True, quiet=True) == (True, [], [])
    np.testing.assert_array_equal(np.load(tmp_path / "e.npy"), expected)
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["transform"] == list(region.grid.product_geobox.affine)[:6]
    assert record["export"]["resampling"] == "none"
    stored = xr.open_zarr(tmp_path / "e.zarr", consolidated=False)
    np.testing.assert_array_equal(np.moveaxis(stored.embeddings.values, 0, -1), expected)
    assert stored.rio.crs.to_epsg() == 32631
    with xr.open_dataset(tmp_path / "e.nc", engine="scipy") as file:
        np.testing.assert_array_equal(file["dimension_7"].values, expected[..., 7])
        np.testing.assert_array_equal(file.x.values, stored.x.values)
        assert file.x.values[0] == 600_005 and file.y.values[0] == 5_699_995
        assert json.loads(file.attrs["EXPORT"])["values"] == "float32 embeddings, dequantised"
        assert pyproj.CRS.from_cf(file.spatial_ref.attrs).to_epsg() == 32631


def test_arrays_give_the_same_as_the_store(product: tuple[Region, Path], tmp_path: Path) -> None:
    region, folder = product
    names = [f"stitched_representation{n}" for n in (".npy", "_scales.npy", "_counts.npy", ".json")]
    inputs = (region.grid, region.blocks, region.provenance)
    write_arrays(*(tmp_path / "arrays" / name for name in names), *inputs)
    assert exported(tmp_path / "arrays", tmp_path / "a.npy", "--coarser", 3) == 0
    assert exported(folder, tmp_path / "b.npy", "--coarser", 3) == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_bands_have_the_names_of_their_dimensions(
    product: tuple[Region, Path], tmp_path: Path
) -> None:
    region, folder = product
    assert exported(folder, tmp_path / "e.tif", "--bands", "7,0-2") == 0
    np.testing.assert_array_equal(
        pixels(tmp_path / "e.tif"), embeddings_of(region)[..., [7, 0, 1, 2]]
    )
    with rasterio.open(tmp_path / "e.tif") as file:
        assert file.descriptions == ("dimension 7", "dimension 0", "dimension 1", "dimension 2")


def test_components_are_those_of_the_definition(
    product: tuple[Region, Path], tmp_path: Path
) -> None:
    region, folder = product
    assert exported(folder, tmp_path / "e.tif", "--pca", 4) == 0
    values = embeddings_of(region)[region.valid].astype(np.float64)
    centred = values - values.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    result = pixels(tmp_path / "e.tif")
    assert np.array_equal(np.isfinite(result[..., 0]), region.valid)
    for k in range(4):
        sign = np.sign(axes[k][np.abs(axes[k]).argmax()])
        np.testing.assert_allclose(result[region.valid][:, k], sign * centred @ axes[k], atol=1e-4)
    with rasterio.open(tmp_path / "e.tif") as file:
        record = json.loads(file.tags()["EXPORT"])["pca"]
    shares = singular[:4] ** 2 / (singular**2).sum()
    np.testing.assert_allclose(record["variance_shares"], shares, rtol=1e-6)
    assert record["pixels"] == region.valid.sum()
    again = (values - record["mean"]) @ np.array(record["axes"]).T
    np.testing.assert_allclose(result[region.valid], again, atol=1e-5)


def test_coarser_cells_are_means_with_half_of_the_pixels(
    product: tuple[Region, Path], tmp_path: Path
) -> None:
    region, folder = product
    assert exported(folder, tmp_path / "e.tif", "--coarser", 4, "--bands", "3") == 0
    result = pixels(tmp_path / "e.tif")[..., 0]
    assert result.shape == (58, 43)  # 230 x 170 pixels
    values = embeddings_of(region)[..., 3].astype(np.float64)
    with rasterio.open(tmp_path / "e.tif") as file:
        assert file.transform == Affine(40, 0, 600_000, 0, -40, 5_700_000)
    seen = set()
    for row, column in np.ndindex(58, 43):
        cell = values[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        number = np.isfinite(cell).sum()
        seen.add(int(number))
        if number >= 8:
            assert result[row, column] == pytest.approx(np.nanmean(cell), rel=1e-5, abs=1e-6)
        else:
            assert np.isnan(result[row, column]), (row, column)
    assert {0, 16} < seen and seen & set(range(1, 8)) and seen & set(range(9, 16))


def test_memory_of_coarser_cells_does_not_grow_with_them() -> None:
    sizes = []

    def read(window: Window) -> np.ndarray:
        sizes.append(window.height * window.width)
        y, x = np.indices(window.shape)
        values = 1000.0 * (y + window.y0) + x + window.x0
        values[(y + window.y0) % 3 == 0] = np.nan
        return np.repeat(values[..., None], 2, axis=-1).astype(np.float32)

    transform = Affine(10, 0, 600_000, 0, -10, 5_700_000)
    view = View((1500, 1700), transform, pyproj.CRS(32631), ("a", "b"), 512, read)
    complete = read(Window(0, 0, *view.shape)).astype(np.float64)
    for cells in (20, 700):
        sizes.clear()
        result = coarser(view, cells)
        values = result.read(Window(0, 0, *result.shape))
        assert max(sizes) <= 512**2
        for row, column in np.ndindex(result.shape):
            part = complete[row * cells : (row + 1) * cells, column * cells : (column + 1) * cells]
            known = part[np.isfinite(part[..., 0])]
            enough = len(known) >= cells**2 / 2
            expected = known.mean(axis=0) if enough else [np.nan, np.nan]
            np.testing.assert_allclose(values[row, column], expected, rtol=1e-6)


def test_longitude_and_latitude_by_nearest_neighbour(
    product: tuple[Region, Path], tmp_path: Path
) -> None:
    region, folder = product
    assert exported(folder, tmp_path / "e.tif", "--crs", "EPSG:4326", "--bands", "0,9") == 0
    with rasterio.open(tmp_path / "e.tif") as file:
        result, transform = np.moveaxis(file.read(), 0, -1), file.transform
        assert file.crs.to_epsg() == 4326
        export = json.loads(file.tags()["EXPORT"])
        assert json.loads(file.tags()["PROVENANCE"])["crs"] == "EPSG:4326"
    assert export["resampling"] == "nearest neighbour"
    assert transform.a == -transform.e == pytest.approx(10 / 111_319.49)
    assert transform.c / transform.a == pytest.approx(round(transform.c / transform.a), abs=1e-4)
    rows, columns = np.indices(result.shape[:2])
    longitude, latitude = transform @ (columns + 0.5, rows + 0.5)
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32631", always_xy=True)
    x, y = to_utm.transform(longitude, latitude)
    row, column = np.floor((5_700_000 - y) / 10), np.floor((x - 600_000) / 10)
    inside = (row >= 0) & (row < 230) & (column >= 0) & (column < 170)
    expected = np.full(result.shape, np.nan, np.float32)
    source = embeddings_of(region)[..., [0, 9]]
    expected[inside] = source[row[inside].astype(int), column[inside].astype(int)]
    np.testing.assert_array_equal(result, expected)
    # Every pixel of the product with a neighbour of its own is there.
    found = set(zip(row[inside].astype(int), column[inside].astype(int), strict=True))
    assert len(found) > 0.95 * 230 * 170


def test_grid_of_another_raster(product: tuple[Region, Path], tmp_path: Path) -> None:
    """Rows of the raster go from the south; it is in the neighbouring zone."""
    region, folder = product
    raster = tmp_path / "other.tif"
    profile = {"driver": "GTiff", "height": 8, "width": 8, "count": 1, "dtype": "int8"}
    corner = Affine(10, 0, 163_840, 0, 10, 5_652_480)
    with rasterio.open(raster, "w", crs="EPSG:32632", transform=corner, **profile) as file:
        file.write(np.zeros((1, 8, 8), np.int8))
    assert exported(folder, tmp_path / "e.tif", "--like", raster, "--bands", "2") == 0
    with rasterio.open(tmp_path / "e.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert (file.transform.a, file.transform.e) == (10, -10)
        assert file.transform.c % 10 == 0 and file.transform.f % 10 == 0
        x, y = file.xy(150, 120)
        value = file.read(1)[150, 120]
    east, north = pyproj.Transformer.from_crs("EPSG:32632", "EPSG:32631", always_xy=True).transform(
        x, y
    )
    row, column = int((5_700_000 - north) // 10), int((east - 600_000) // 10)
    np.testing.assert_array_equal(value, embeddings_of(region)[row, column, 2])


def test_a_grid_of_larger_pixels_needs_coarser_cells(
    product: tuple[Region, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = product
    options = ["--crs", "EPSG:3035", "--pixel", "100"]
    assert exported(folder, tmp_path / "e.tif", *options) == 1
    assert "add --coarser N" in capsys.readouterr().err
    assert exported(folder, tmp_path / "e.tif", *options, "--coarser", "10") == 0
    with rasterio.open(tmp_path / "e.tif") as file:
        assert file.transform.a == 100 and file.transform.c % 100 == 0
        assert "means of 10 x 10 pixels" in json.loads(file.tags()["EXPORT"])["cells"]


@pytest.mark.parametrize("name", ["e.tif", "e.npy", "e.zarr", "e.nc"])
def test_only_exports_are_replaced(
    product: tuple[Region, Path], tmp_path: Path, name: str,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    _, folder = product
    caplog.set_level("INFO")  # as `main` shows them
    path = tmp_path / name
    if name == "e.zarr":
        path.mkdir()
        (path / "zarr.json").write_text('{"attributes": {}}')
    else:
        path.write_bytes(b"data of somebody")
    before = path.stat().st_mtime_ns
    assert exported(folder, path, "--bands", "0") == 1
    error = capsys.readouterr().err
    assert str(path) in error and path.stat().st_mtime_ns == before
    assert not caplog.records  # no message of GDAL before it
    other = tmp_path / f"other{path.suffix}"
    assert exported(folder, other, "--bands", "0") == 0
    assert exported(folder, other, "--bands", "0-1") == 0


def test_an_array_and_its_record_of_different_exports_are_recognised(
    product: tuple[Region, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = product
    path = tmp_path / "e.npy"
    assert exported(folder, path, "--bands", "0") == 0
    first = path.read_bytes()
    recorded = json.loads((tmp_path / "e.json").read_text())["file"]
    assert recorded == {"name": "e.npy", "size": len(first), "sha256": sha256(first).hexdigest()}
    replaced = []

    def killed(part: Path, final: Path) -> None:
        """Replace as before, but only the first file, as if killed then."""
        replaced.append(final.name)
        if len(replaced) > 1:
            raise KeyboardInterrupt
        os.replace(part, final)

    monkeypatch.setattr("tessera_flow.atomic._replace", killed)
    assert exported(folder, path, "--bands", "1") == 130
    assert replaced == ["e.json", "e.npy"] and path.read_bytes() == first
    recorded = json.loads((tmp_path / "e.json").read_text())["file"]
    assert recorded["sha256"] != sha256(first).hexdigest()
    monkeypatch.undo()
    assert exported(folder, path, "--bands", "1") == 0
    recorded = json.loads((tmp_path / "e.json").read_text())["file"]
    assert recorded["sha256"] == sha256(path.read_bytes()).hexdigest()


def test_a_product_of_the_workflow_is_not_replaced(
    product: tuple[Region, Path], tmp_path: Path
) -> None:
    _, folder = product
    before = sorted(path.name for path in (folder / "embeddings.zarr").iterdir())
    assert exported(folder, folder / "embeddings.zarr") == 1
    assert sorted(path.name for path in (folder / "embeddings.zarr").iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bands", "16"], "dimensions 0 to 15, not 16"),
        (["--bands", "0;1"], "write numbers and ranges"),
        (["--bands", "1,0-3"], "named twice"),
        (["--pca", "17"], "has 16 dimensions"),
        (["--pca", "0"], "--pca 0: give 1 or more"),
        (["--coarser", "0"], "give 1 or more"),
        (["--coarser", "1000000000"], "the product has 170 x 230 pixels"),
        (["--crs", "EPSG:1"], "write it as EPSG:4326"),
        (["--crs", ""], "write it as EPSG:4326"),
        (["--crs", "EPSG:4978"], "no CRS of a map"),  # geocentric
        (["--crs", "EPSG:5773"], "no CRS of a map"),  # heights
        (["--crs", "EPSG:9518"], "no CRS of a map"),  # degrees and heights
        (["--crs", "IAU_2015:30100"], "cannot be transformed"),  # the Moon
        (["--pixel", "-3"], "greater than 0"),
        (["--crs", "EPSG:4326", "--pixel", "1e-9"], "give another size"),
    ],
)
def test_what_is_not_understood_is_refused(
    product: tuple[Region, Path], tmp_path: Path, options: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    _, folder = product
    assert exported(folder, tmp_path / "e.tif", *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_scales_of_another_shape_are_refused(
    product: tuple[Region, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region, _ = product
    names = [f"stitched_representation{n}" for n in (".npy", "_scales.npy", "_counts.npy", ".json")]
    write_arrays(*(tmp_path / n for n in names), region.grid, region.blocks, region.provenance)
    np.save(tmp_path / names[1], np.load(tmp_path / names[1])[:1])  # broadcasts to every row
    assert exported(tmp_path, tmp_path / "e.npy") == 1
    assert "_scales.npy is (1, 170) float32" in capsys.readouterr().err
    assert not (tmp_path / "e.npy").exists()


def test_a_missing_part_of_the_store_is_an_error(
    product: tuple[Region, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region, _ = product
    store = tmp_path / "embeddings.zarr"
    write_zarr(store, region.grid, region.blocks, region.provenance, 25)
    (store / "scales/c/0/1/1").unlink()
    assert exported(store, tmp_path / "e.tif") == 1
    assert "scales/c/0/1/1 is missing" in capsys.readouterr().err
    assert not (tmp_path / "e.tif").exists()
