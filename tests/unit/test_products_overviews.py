"""The preview in the Zarr store and its reduced levels: every pixel, place and file."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr
import zarr
from zarr.storage import LocalStore

from tessera_flow.errors import TileError
from tessera_flow.products.checksums import Checksums
from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.reading.open import open_product
from tessera_flow.products.stores.overviews import number_of_files
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import Region, damage, dequantised, digest, make_region, write_block

HEIGHT, WIDTH = 1101, 300
SIDES = [(1101, 300), (551, 150), (276, 75)]


def large(folder: Path, block_size: int = 500, dtype: str = "int8") -> Region:
    """Return a region of odd height with a hole, a lone pixel and no embeddings on the left."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    valid = ((y - 600) ** 2 + (x - 160) ** 2 > 101**2) & (x > 31)
    valid[600, 161] = True
    return make_region(folder, block_size, dtype=dtype, valid=valid, chunk=block_size // 2)


def store_of(region: Region, path: Path, **options: Any) -> Path:
    options = {"preview_stretch": 2.0} | options
    write_zarr(path, region.grid, region.blocks, region.provenance, 50, **options)
    return path


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Region:
    return large(tmp_path_factory.mktemp("region"))


@pytest.fixture(scope="module")
def store(region: Region, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no test changes."""
    return store_of(region, tmp_path_factory.mktemp("store") / "embeddings.zarr")


def level(store: Path, number: int) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(store, group=f"preview/{number}", chunks=None)


def halved(image: np.ndarray) -> np.ndarray:
    """Return the means of the pixels with an embedding in squares of 2 x 2: (3, h, w)."""
    height, width = image.shape[1:]
    cells = np.full((3, height + height % 2, width + width % 2), np.nan)
    cells[:, :height, :width] = np.where(image[0] > 0, image.astype(float), np.nan)
    cells = cells.reshape(3, (height + 1) // 2, 2, (width + 1) // 2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of cells without an embedding
        means = np.nanmean(cells, axis=(2, 4))
    return np.nan_to_num(np.floor(means + 0.5)).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_colours_equal_numpys_own_pca(tmp_path: Path, dtype: str) -> None:
    """All pixels are in the sample. Pixels with an embedding are 1 to 255, others 0."""
    region = make_region(tmp_path / "blocks", 64, dtype=dtype)
    values = dequantised(region)
    centred = values - values.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:3].T
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), range(3)])
    scores = centred @ axes
    low, high = np.percentile(scores, [5, 95], axis=0)
    expected = np.maximum(np.rint(np.clip((scores - low) / (high - low), 0, 1) * 255), 1)
    path = store_of(region, tmp_path / "e.zarr", preview_stretch=5.0)
    image = level(path, 0).rgb.values
    assert image.shape == (3, *region.valid.shape)
    assert (image[:, ~region.valid] == 0).all()
    difference = np.abs(image[:, region.valid].T.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_every_level_is_the_mean_of_the_one_before(
    region: Region, store: Path, tmp_path: Path
) -> None:
    tif = tmp_path / "preview.tif"
    write_preview(tif, tmp_path / "p.png", region.grid, region.blocks, region.provenance)
    with rasterio.open(tif) as file:
        rgba = file.read()
    expected = np.where(rgba[3] > 0, np.maximum(rgba[:3], 1), 0)
    assert (rgba[3] > 0).tolist() == region.valid.tolist()
    group = zarr.open_group(store, mode="r")
    for number, shape in enumerate(SIDES):
        if number:
            expected = halved(expected)
        array = group[f"preview/{number}/rgb"]
        assert array.shape == (3, *shape)
        assert (array.dtype, array.fill_value) == (np.uint8, 0)
        np.testing.assert_array_equal(array[:], expected)
        assert set(np.unique(expected[:, expected[0] > 0])) <= set(range(1, 256))
    assert list(group["preview"].group_keys()) == ["0", "1", "2"]
    # The lone pixel in the hole has its own colour in each level.
    colours = {tuple(group[f"preview/{n}/rgb"][:, 600 >> n, 161 >> n]) for n in range(3)}
    assert len(colours) == 1
    assert min(colours.pop()) > 0


@pytest.mark.parametrize("block_size", [100, 521, 2000])
def test_pixels_do_not_depend_on_the_blocks_threads_or_shards(
    store: Path, tmp_path: Path, block_size: int
) -> None:
    other = store_of(
        large(tmp_path / "blocks", block_size), tmp_path / "e.zarr",
        threads=3, shards=block_size != 100,
    )  # fmt: skip
    for number in range(len(SIDES)):
        np.testing.assert_array_equal(level(other, number).rgb, level(store, number).rgb)


def test_bytes_do_not_depend_on_the_number_of_threads(
    region: Region, store: Path, tmp_path: Path
) -> None:
    for threads in (3, 40):
        path = store_of(region, tmp_path / str(threads) / "embeddings.zarr", threads=threads)
        assert digest(path) == digest(store)


def test_each_level_has_its_place(store: Path) -> None:
    for number, (height, width) in enumerate(SIDES):
        size = 10.0 * 2**number
        data = level(store, number)
        np.testing.assert_array_equal(data.X, 600_000 + size * (np.arange(width) + 0.5))
        np.testing.assert_array_equal(data.Y, 5_700_000 - size * (np.arange(height) + 0.5))
        assert data.X.attrs["standard_name"] == "projection_x_coordinate"
        assert data.rio.crs.to_epsg() == data.rgb.rio.crs.to_epsg() == 32631
        place = data.attrs["spatial:transform"]
        assert place == [size, 0, 600_000, 0, -size, 5_700_000]
        assert tuple(data.rgb.rio.transform())[:6] == tuple(place)
        assert data.rgb.rio.shape == (height, width)
        assert data.attrs["spatial:shape"] == [height, width]
        assert data.attrs["spatial:bbox"] == [
            600_000, 5_700_000 - size * height, 600_000 + size * width, 5_700_000
        ]  # fmt: skip
        assert data.attrs["proj:code"] == "EPSG:32631"
    # A pixel of a level covers the four of the one before.
    fine, coarse = level(store, 0), level(store, 1)
    x, y = float(coarse.X[100]), float(coarse.Y[100])
    four = fine.sel(X=slice(x - 10, x + 10), Y=slice(y + 10, y - 10)).rgb.values
    assert four.shape == (3, 2, 2)
    assert (four > 0).all()
    expected = np.floor(four.astype(float).mean(axis=(1, 2)) + 0.5)
    np.testing.assert_array_equal(coarse.rgb.sel(X=x, Y=y), expected)


def test_the_layout_follows_the_convention(store: Path) -> None:
    attributes = json.loads((store / "preview" / "zarr.json").read_text())["attributes"]
    assert [one["uuid"] for one in attributes["zarr_conventions"]] == [
        "d35379db-88df-4056-af3a-620245f8e347",  # multiscales
        "f17cb550-5864-4468-aeb7-f3180cfb622f",  # proj:
        "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",  # spatial:
    ]
    assert attributes["proj:code"] == "EPSG:32631"
    assert attributes["spatial:dimensions"] == ["Y", "X"]
    layout = attributes["multiscales"]["layout"]
    assert [one["asset"] for one in layout] == ["0", "1", "2"]
    assert [one.get("derived_from") for one in layout] == [None, "0", "1"]
    assert [one.get("resampling_method") for one in layout] == [None, "average", "average"]
    # A factor for each dimension of the array: GDAL 3.13 ignores levels with another number.
    scales = [one["transform"]["scale"] for one in layout]
    assert scales == [[1, 1, 1], [1, 2, 2], [1, 2, 2]]
    assert [tuple(one["spatial:shape"]) for one in layout] == SIDES
    assert [one["spatial:transform"][0] for one in layout] == [10, 20, 40]
    assert attributes["pca_stretch_percent"] == 2.0
    assert attributes["pca_sample_pixels"] == 50_000
    assert len(attributes["pca_variance_shares"]) == 3
    # The store itself is described as before.
    root = json.loads((store / "zarr.json").read_text())
    assert "multiscales" not in root["attributes"]
    assert "preview/2/rgb" in root["consolidated_metadata"]["metadata"]


def test_xarray_opens_the_store_and_its_groups(store: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(store) as data:
            assert set(data.data_vars) == {
                "embeddings", "scales", "observation_counts", "observation_months"
            }  # fmt: skip
            assert dict(data.sizes) == {"time": 1, "band": 16, "y": 1101, "x": 300, "kind": 3}
        # Coordinates of one name must be equal in a tree; those of the levels are not.
        tree = xr.open_datatree(store, engine="zarr")
        assert tree.groups == ("/", "/preview", "/preview/0", "/preview/1", "/preview/2")
        assert tree["preview/2"].rgb.shape == (3, 276, 75)
        tree.close()
    product = open_product(store)
    product.isel(band=slice(2), y=slice(9), x=slice(9)).to_netcdf(tmp_path / "a.nc", engine="scipy")


class CountingStore(LocalStore):
    """Count the chunks that are read."""

    reads: list[str] = []  # noqa: RUF012

    async def get(self, key, prototype, byte_range=None):  # type: ignore[no-untyped-def]
        if "/c/" in key:
            self.reads.append(key)
        return await super().get(key, prototype, byte_range)


def test_the_smallest_level_is_one_chunk(store: Path) -> None:
    group = zarr.open_group(CountingStore(store, read_only=True), mode="r")
    CountingStore.reads.clear()
    assert group["preview/2/rgb"][:].any()
    assert CountingStore.reads == ["preview/2/rgb/c/0/0/0"]


def test_the_record_has_the_levels_and_damage_is_noticed(store: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(store, tmp_path / "embeddings.zarr"))
    record = Checksums.of_store(path)
    name = "preview/1/rgb/c/0/0/0"
    assert {name, "preview/zarr.json", "preview/2/X/c/0"} <= set(record.sizes)
    assert list(record.unknown()) == list(record.changed_contents()) == []
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    assert list(record.changed_contents()) == [f"{name} has changed (its SHA-256 is another)"]
    with pytest.raises((RuntimeError, ValueError)):  # each chunk has a checksum, too
        zarr.open_group(path, mode="r")["preview/1/rgb"][:]
    (path / name).unlink()
    with pytest.raises(TileError, match=f"{name} is missing"):
        open_product(path)


def test_a_damaged_block_leaves_no_store(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 50)
    damage(region.blocks["b002_001"])
    with pytest.raises(TileError, match="b002_001"):
        store_of(region, tmp_path / "e.zarr", threads=2)
    assert [p.name for p in tmp_path.iterdir()] == ["blocks"]


def test_a_region_without_embeddings(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 64)
    for block in region.grid.blocks:
        shape = region.grid.product_window(block).shape
        counts = np.zeros((*shape, 3), np.uint16)
        codes, scales = np.zeros((*shape, 16), np.int8), np.full(shape, np.nan, np.float32)
        write_block(region.blocks[block.id], codes, scales, counts, 25)
    path = store_of(region, tmp_path / "e.zarr")
    assert (level(path, 0).rgb == 0).all()
    assert not (path / "preview/0/rgb/c").exists()
    attributes = json.loads((path / "preview" / "zarr.json").read_text())["attributes"]
    assert attributes["pca_variance_shares"] == []


def test_without_preview(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 64)
    path = store_of(region, tmp_path / "e.zarr", preview_stretch=None)
    assert not (path / "preview").exists()


@pytest.mark.parametrize("shards", [True, False])
def test_the_plan_counts_the_files(region: Region, tmp_path: Path, shards: bool) -> None:
    path = store_of(region, tmp_path / "e.zarr", shards=shards)
    files = sum(file.is_file() for file in (path / "preview").rglob("*"))
    expected = number_of_files((HEIGHT, WIDTH), 500, shards)
    assert files <= expected <= files + len(SIDES)  # the CRS has no chunk
    # 100 km at 10 m: six levels, of which the last is one chunk.
    assert number_of_files((10_000, 10_000), 2000, True) == 1 + 6 * 8 + 25 + 9 + 4 + 1 + 1 + 1
