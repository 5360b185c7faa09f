"""Published tiles of the NPY layout as a source: selection of tiles and pixels, and errors."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from tessera_flow.block_file import open_block_file
from tessera_flow.errors import ItemError, TileError
from tessera_flow.geotessera.importer import import_embeddings
from tessera_flow.geotessera.listing import list_published
from tessera_flow.geotessera.manifest import StoreManifest, resampled
from tessera_flow.geotessera.stores import Store
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.region.grid import Block, RegionGrid, block_id, tiling

from ..support.products_region import Region, make_region
from ..support.store import PIXEL, YEAR, Tile, write_store

# Two tiles west of 6 degrees east, where zone 31 ends, and two east of it.
WEST = (Tile(595, 5145, 31), Tile(595, 5155, 31))
EAST = (Tile(605, 5145, 32), Tile(605, 5155, 32))


def make_grid(left: float, top: float, shape: tuple[int, int], block: int) -> RegionGrid:
    """Return a grid of 100 m pixels in zone 31 with all its blocks."""
    box = GeoBox(shape, Affine(PIXEL, 0, left, 0, -PIXEL, top), "EPSG:32631")
    blocks = tuple(Block(block_id(w.y0 // block, w.x0 // block), w) for w in tiling(*shape, block))
    return RegionGrid.of("here", box, block, 1, blocks)


def around_the_border(block: int = 200) -> RegionGrid:
    """Return 90 x 80 px around 6 degrees east, 51.5 degrees north: the corner of four tiles."""
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32631", always_xy=True).transform(6.0, 51.5)
    left, top = round(x / PIXEL) * PIXEL - 4500, round(y / PIXEL) * PIXEL + 4000
    return make_grid(left, top, (80, 90), block)


def write_roi(path: Path, grid: RegionGrid, inside: np.ndarray) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=inside.shape[0], width=inside.shape[1], count=1,
        dtype="uint8", crs=str(grid.geobox.crs), transform=grid.geobox.affine,
    ) as target:  # fmt: skip
        target.write(inside.astype(np.uint8), 1)
    return path


def local(folder: Path) -> Store:
    return Store(str(folder), "v1")


def import_region(
    store: Store,
    grid: RegionGrid,
    folder: Path,
    inside: np.ndarray | None = None,
    dtype: str = "int8",
    year: int = YEAR,
    patch: int = 33,
) -> dict[str, np.ndarray]:
    """Import all blocks of a region; return the assembled arrays."""
    folder.mkdir(exist_ok=True)
    shape = tuple(grid.product_geobox.shape)
    if inside is None:
        inside = np.ones(grid.geobox.shape, bool)
    roi = write_roi(folder / "roi.tif", grid, inside)
    manifest = list_published(store, grid, year)
    result = {
        "embeddings": np.zeros((*shape, 128), np.int8 if dtype == "int8" else np.float32),
        "scales": np.full(shape, np.nan, np.float32),
    }
    for block in grid.blocks:
        path = folder / f"{block.id}.zip"
        import_embeddings(store, manifest, grid, block, roi, path, patch, dtype=dtype)  # type: ignore[arg-type]
        with open_block_file(path) as group:
            names = sorted(group.array_keys())
            assert names == (["embeddings", "scales"] if dtype == "int8" else ["embeddings"])
            for name in names:
                result[name][grid.product_window(block).slices] = group[name][:]
    return result


def expected(grid: RegionGrid, tiles: tuple[Tile, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and scales, pixel by pixel: from the tile whose cell contains the centre; if it
    has no embedding there, from the first other tile by (lat, lon) that has one."""
    height, width = (int(n) for n in grid.product_geobox.shape)
    codes, scales = np.zeros((height, width, 128), np.int8), np.full((height, width), np.nan, "f4")
    to_lonlat = Transformer.from_crs(grid.geobox.crs, "EPSG:4326", always_xy=True)
    data = {tile: tile.pixels() for tile in tiles}
    moves = {t: Transformer.from_crs(grid.geobox.crs, t.crs, always_xy=True) for t in tiles}
    for row in range(height):
        for column in range(width):
            x, y = grid.product_geobox.affine @ (column + 0.5, row + 0.5)
            lon, lat = to_lonlat.transform(x, y)
            order = sorted(tiles, key=lambda t: (t.lat, t.lon))
            order.sort(key=lambda t: abs(lon - t.lon / 100) > 0.05 or abs(lat - t.lat / 100) > 0.05)
            for tile in order:
                transform, (h, w) = tile.grid()
                c, r = (int(np.floor(v)) for v in ~transform @ moves[tile].transform(x, y))
                if 0 <= r < h and 0 <= c < w and 0 < data[tile][1][r, c] < 1:
                    codes[row, column], scales[row, column] = (
                        data[tile][0][r, c],
                        data[tile][1][r, c],
                    )
                    break
    return codes, scales


def from_other_tiles(grid: RegionGrid, codes: np.ndarray, scales: np.ndarray) -> int:
    """Return the number of pixels that are not from the tile of their cell."""
    rows, columns = np.nonzero(np.isfinite(scales))
    x, y = grid.product_geobox.affine @ (columns + 0.5, rows + 0.5)
    to_lonlat = Transformer.from_crs(grid.geobox.crs, "EPSG:4326", always_xy=True)
    lon, lat = (np.floor(v * 10).astype(int) * 10 + 5 for v in to_lonlat.transform(x, y))
    numbers = [Tile(a, b, 0).number for a, b in zip(lon.tolist(), lat.tolist(), strict=True)]
    return int((codes[rows, columns, 0] != np.array(numbers)).sum())


@pytest.fixture(scope="module")
def two_zones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("two_zones"), WEST + EAST)


def test_pixels_of_two_zones_are_copied_or_nearest_neighbours(
    two_zones: Path, tmp_path: Path
) -> None:
    grid = around_the_border()
    store = local(two_zones)
    manifest = list_published(store, grid, YEAR)
    assert [tile.name for tile in manifest.tiles] == [
        "grid_5.95_51.45", "grid_6.05_51.45", "grid_5.95_51.55", "grid_6.05_51.55",
    ]  # fmt: skip
    assert [tile.is_aligned(grid) for tile in manifest.tiles] == [True, False, True, False]
    assert resampled(manifest.tiles, grid) == 2
    result = import_region(store, grid, tmp_path / "blocks")
    codes, scales = expected(grid, WEST + EAST)
    np.testing.assert_array_equal(result["scales"], scales)
    np.testing.assert_array_equal(result["embeddings"], codes)
    numbers = set(np.unique(codes[..., 0][np.isfinite(scales)]))
    assert numbers == {tile.number for tile in WEST + EAST}
    assert np.isnan(
        scales
    ).any()  # pixels without an embedding in a tile, which no other tile covers
    assert from_other_tiles(grid, codes, scales) > 20
    # West of the border, pixels are those of the tile byte for byte.
    transform, shape = WEST[0].grid()
    left, top = (round(v) for v in ~grid.geobox.affine @ (transform.c, transform.f))
    y0, x0 = 70 - top, 10 - left
    assert 0 <= y0 < shape[0] - 8 and 0 <= x0 < shape[1] - 20
    source = WEST[0].pixels()
    assert np.isfinite(source[1][y0 : y0 + 8, x0 : x0 + 20]).any()
    np.testing.assert_array_equal(
        result["embeddings"][70:78, 10:30], source[0][y0 : y0 + 8, x0 : x0 + 20]
    )


@pytest.mark.parametrize(("block", "patch"), [(31, 17), (50, 50), (64, 20)])
def test_pixels_do_not_depend_on_the_division_into_blocks(
    two_zones: Path, tmp_path: Path, block: int, patch: int
) -> None:
    store = local(two_zones)
    whole = import_region(store, around_the_border(), tmp_path / "whole")
    parts = import_region(store, around_the_border(block), tmp_path / "parts", patch=patch)
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])


def test_nearest_neighbours_of_tiles_that_are_not_aligned(tmp_path: Path) -> None:
    shifted = (replace(WEST[0], shift=30.0), replace(WEST[1], shift=-20.0))
    folder = write_store(tmp_path / "store", shifted)
    grid = make_grid(*around_the_border().geobox.affine @ (0, 0), (80, 40), 200)
    manifest = list_published(local(folder), grid, YEAR)
    assert resampled(manifest.tiles, grid) == 2
    result = import_region(local(folder), grid, tmp_path / "blocks")
    codes, scales = expected(grid, shifted)
    np.testing.assert_array_equal(result["scales"], scales)
    np.testing.assert_array_equal(result["embeddings"], codes)


def test_float32_is_the_product_and_nan_outside(two_zones: Path, tmp_path: Path) -> None:
    grid = around_the_border()
    store = local(two_zones)
    inside = np.zeros((80, 90), bool)
    inside[10:60, 5:80] = True
    whole = import_region(store, grid, tmp_path / "int8")
    result = import_region(store, grid, tmp_path / "float32", inside, "float32")["embeddings"]
    values = whole["embeddings"].astype(np.float32) * whole["scales"][..., np.newaxis]
    np.testing.assert_array_equal(result[inside], values[inside])
    assert np.isnan(result[~inside]).all() and result.dtype == np.float32
    codes = import_region(store, grid, tmp_path / "masked", inside)
    assert np.isnan(codes["scales"][~inside]).all() and not codes["embeddings"][~inside].any()
    np.testing.assert_array_equal(codes["scales"][inside], whole["scales"][inside])


def test_downsampling(two_zones: Path, tmp_path: Path) -> None:
    """`grid.downsample_rate` keeps pixels; their centres stay, so they are copied too."""
    grid = around_the_border()
    store = local(two_zones)
    whole = import_region(store, grid, tmp_path / "all")
    half = import_region(store, replace(grid, downsample_rate=2), tmp_path / "half")
    np.testing.assert_array_equal(half["embeddings"], whole["embeddings"][::2, ::2])
    np.testing.assert_array_equal(half["scales"], whole["scales"][::2, ::2])


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Region, Path]:
    """A region over the corner of four cells, and the store that it was exported to."""
    region = make_region(tmp_path_factory.mktemp("blocks"), 64, dim=128)
    move = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    x, y = move.transform(4.5, 51.4, direction="INVERSE")
    place = Affine(10, 0, round(x / 10) * 10 - 900, 0, -10, round(y / 10) * 10 + 1200)
    box = GeoBox(region.grid.geobox.shape, place, "EPSG:32631")
    region = replace(region, grid=RegionGrid.of("field", box, 64, 1, region.grid.blocks))
    folder = tmp_path_factory.mktemp("own") / "store"
    write_geotessera(folder, region.grid, region.blocks, region.provenance)
    return region, folder


def test_exported_store_is_imported_unchanged(own: tuple[Region, Path], tmp_path: Path) -> None:
    region, folder = own
    store = local(folder)
    result = import_region(store, region.grid, tmp_path / "blocks", region.valid, year=2023)
    np.testing.assert_array_equal(result["embeddings"], region.embeddings)
    np.testing.assert_array_equal(result["scales"], region.scales)
    manifest = list_published(store, region.grid, 2023)
    assert resampled(manifest.tiles, region.grid) == 0
    assert manifest.model is not None and manifest.model["sha256"] == "ab" * 32


def test_list_has_sizes_and_hashes(two_zones: Path, tmp_path: Path) -> None:
    manifest = list_published(local(two_zones), around_the_border(), YEAR)
    assert (manifest.version, manifest.year, manifest.layout) == ("v1", YEAR, "npy")
    tile = manifest.tiles[0]
    folder = two_zones / "global_0.1_degree_representation" / str(YEAR) / tile.name
    for file, end in (("codes", ""), ("scales", "_scales")):
        content = (folder / f"{tile.name}{end}.npy").read_bytes()
        assert tile.sizes[file] == len(content)
        assert tile.sha256[file] == hashlib.sha256(content).hexdigest()
    assert manifest.bytes == sum(sum(t.sizes.values()) for t in manifest.tiles) > 0
    manifest.write(tmp_path / "list.json")
    assert StoreManifest.read(tmp_path / "list.json") == manifest
    first = (tmp_path / "list.json").read_bytes()
    list_published(local(two_zones), around_the_border(), YEAR).write(tmp_path / "list.json")
    assert (tmp_path / "list.json").read_bytes() == first
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(ItemError, match="is not a list of published embeddings"):
        StoreManifest.read(tmp_path / "list.json")


def test_only_tiles_that_overlap_a_block_are_listed(two_zones: Path, tmp_path: Path) -> None:
    grid = around_the_border(20)
    corner = replace(grid, blocks=(grid.block("b000_000"),))
    manifest = list_published(local(two_zones), corner, YEAR)
    assert [tile.name for tile in manifest.tiles] == ["grid_5.95_51.55"]


def test_missing_year_or_region(two_zones: Path, tmp_path: Path) -> None:
    store = local(two_zones)
    with pytest.raises(ItemError, match=r"has no embeddings of 2016; it has 2021: choose"):
        list_published(store, around_the_border(), 2016)
    far = make_grid(500_000, 5_500_000, (20, 20), 20)
    with pytest.raises(
        ItemError, match=r"has no tile of 2021 that overlaps region here: it is outside"
    ):
        list_published(store, far, YEAR)


def test_block_that_no_tile_covers(two_zones: Path, tmp_path: Path) -> None:
    wide = make_grid(*around_the_border().geobox.affine @ (0, 0), (20, 400), 100)
    store = local(two_zones)
    manifest = list_published(store, wide, YEAR)
    roi = write_roi(tmp_path / "roi.tif", wide, np.ones((20, 400), bool))
    args = (store, manifest, wide, wide.blocks[-1], roi, tmp_path / "block.zip", 50)
    with pytest.raises(TileError, match=r"b000_003: no tile of v1, 2021 .* has an embedding there"):
        import_embeddings(*args)
    assert not (tmp_path / "block.zip").exists()
    import_embeddings(*args, on_empty_block="nodata")
    with open_block_file(tmp_path / "block.zip") as group:
        assert np.isnan(group["scales"][:]).all()
        assert group.attrs["tiles"] == []


def test_folder_that_is_not_a_store(two_zones: Path, tmp_path: Path) -> None:
    grid = around_the_border()
    with pytest.raises(ItemError, match=r"There is no folder .*nowhere: set geotessera.location"):
        list_published(local(tmp_path / "nowhere"), grid, YEAR)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ItemError, match=r"empty is not a store of published embeddings"):
        list_published(local(tmp_path / "empty"), grid, YEAR)
    for name in ("registry", "landmasks"):
        (tmp_path / "empty" / f"{name}.parquet").write_text("not a table")
    with pytest.raises(ItemError, match=r"The list of tiles .*empty.* cannot be used"):
        list_published(local(tmp_path / "empty"), grid, YEAR)


def test_files_that_are_missing_or_differ_from_the_list(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store", WEST)
    grid = make_grid(*around_the_border().geobox.affine @ (0, 0), (80, 40), 200)
    store = local(folder)
    codes = folder / "global_0.1_degree_representation/2021/grid_5.95_51.45/grid_5.95_51.45.npy"
    content = codes.read_bytes()
    codes.write_bytes(content[:-5])
    with pytest.raises(TileError, match=r"grid_5.95_51.45.npy has \d+ bytes, but .* lists \d+"):
        import_region(store, grid, tmp_path / "blocks")
    codes.write_bytes(b"x" * len(content))
    with pytest.raises(TileError, match=r"grid_5.95_51.45.npy has another SHA-256 than"):
        import_region(store, grid, tmp_path / "blocks")
    unhashed = tmp_path / "unhashed"
    shutil.copytree(folder, unhashed)
    table = pq.read_table(unhashed / "registry.parquet")
    nulls = pa.nulls(table.num_rows, pa.string())
    table = table.set_column(table.column_names.index("hash"), "hash", nulls)
    pq.write_table(table, unhashed / "registry.parquet")
    with pytest.raises(TileError, match=r"grid_5.95_51.45.npy cannot be read"):
        import_region(local(unhashed), grid, tmp_path / "blocks")
    codes.unlink()
    with pytest.raises(TileError, match=r"lists grid_5.95_51.45 of 2021, but .* does not exist"):
        import_region(store, grid, tmp_path / "blocks")
    (folder / "global_0.1_degree_tiff_all" / "grid_5.95_51.45.tiff").unlink()
    with pytest.raises(TileError, match=r"grid_5.95_51.45.tiff does not exist"):
        list_published(store, grid, YEAR)


def update(codes: Path) -> None:
    """Write other codes to a file of the same size, like an updated dataset."""
    array = np.load(codes)
    array[..., 3:] = 1
    np.save(codes, array)


def test_store_that_is_updated_between_listing_and_reading(tmp_path: Path) -> None:
    """All versions of a tile have the same size; only the hashes differ."""
    folder = write_store(tmp_path / "store", WEST + EAST)
    grid, store = around_the_border(), local(folder)
    manifest = list_published(store, grid, YEAR)
    roi = write_roi(tmp_path / "roi.tif", grid, np.ones(grid.geobox.shape, bool))
    update(folder / f"global_0.1_degree_representation/{YEAR}/grid_5.95_51.45/grid_5.95_51.45.npy")
    with pytest.raises(
        TileError, match=r"grid_5.95_51.45.npy has another SHA-256 than .* tiles again"
    ):
        import_embeddings(store, manifest, grid, grid.blocks[0], roi, tmp_path / "block.zip", 33)
    assert not (tmp_path / "block.zip").exists()
