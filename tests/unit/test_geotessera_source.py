"""Published embeddings as a source: selection of tiles and pixels, and errors."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
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
from tessera_flow.errors import ConfigError, ItemError, ReadError, TileError
from tessera_flow.geotessera.client import Store, StoreFiles, list_tiles, open_client
from tessera_flow.geotessera.importer import import_embeddings
from tessera_flow.geotessera.manifest import StoreManifest, resampled
from tessera_flow.products.geotessera_store import store_tiles, write_geotessera
from tessera_flow.region.grid import Block, RegionGrid, Window, block_id, tiling

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


def local(folder: Path, cache: Path) -> Store:
    return Store(folder, "v1", None, cache)


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
    manifest = list_tiles(store, grid, year)
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
    store = local(two_zones, tmp_path / "cache")
    manifest = list_tiles(store, grid, YEAR)
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
    store = local(two_zones, tmp_path / "cache")
    whole = import_region(store, around_the_border(), tmp_path / "whole")
    parts = import_region(store, around_the_border(block), tmp_path / "parts", patch=patch)
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])


def test_nearest_neighbours_of_tiles_that_are_not_aligned(tmp_path: Path) -> None:
    shifted = (replace(WEST[0], shift=30.0), replace(WEST[1], shift=-20.0))
    folder = write_store(tmp_path / "store", shifted)
    grid = make_grid(*around_the_border().geobox.affine @ (0, 0), (80, 40), 200)
    manifest = list_tiles(local(folder, tmp_path), grid, YEAR)
    assert resampled(manifest.tiles, grid) == 2
    result = import_region(local(folder, tmp_path), grid, tmp_path / "blocks")
    codes, scales = expected(grid, shifted)
    np.testing.assert_array_equal(result["scales"], scales)
    np.testing.assert_array_equal(result["embeddings"], codes)


def test_float32_is_the_product_and_nan_outside(two_zones: Path, tmp_path: Path) -> None:
    grid = around_the_border()
    store = local(two_zones, tmp_path)
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
    store = local(two_zones, tmp_path)
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
    store = local(folder, tmp_path)
    result = import_region(store, region.grid, tmp_path / "blocks", region.valid, year=2023)
    np.testing.assert_array_equal(result["embeddings"], region.embeddings)
    np.testing.assert_array_equal(result["scales"], region.scales)
    manifest = list_tiles(store, region.grid, 2023)
    assert resampled(manifest.tiles, region.grid) == 0
    assert manifest.model is not None and manifest.model["sha256"] == "ab" * 32


def test_list_has_sizes_and_hashes(two_zones: Path, tmp_path: Path) -> None:
    manifest = list_tiles(local(two_zones, tmp_path), around_the_border(), YEAR)
    assert (manifest.version, manifest.year, manifest.client) == ("v1", YEAR, "0.7.5")
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
    list_tiles(local(two_zones, tmp_path), around_the_border(), YEAR).write(tmp_path / "list.json")
    assert (tmp_path / "list.json").read_bytes() == first
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(ItemError, match="is not a list of the store's tiles"):
        StoreManifest.read(tmp_path / "list.json")


def test_only_tiles_that_overlap_a_block_are_listed(two_zones: Path, tmp_path: Path) -> None:
    grid = around_the_border(20)
    corner = replace(grid, blocks=(grid.block("b000_000"),))
    manifest = list_tiles(local(two_zones, tmp_path), corner, YEAR)
    assert [tile.name for tile in manifest.tiles] == ["grid_5.95_51.55"]


def test_missing_year_or_region(two_zones: Path, tmp_path: Path) -> None:
    store = local(two_zones, tmp_path)
    with pytest.raises(ItemError, match=r"v1, has no embeddings of 2016; it has 2021: choose"):
        list_tiles(store, around_the_border(), 2016)
    far = make_grid(500_000, 5_500_000, (20, 20), 20)
    with pytest.raises(
        ItemError, match=r"has no tile of 2021 that overlaps region here \(longitude"
    ):
        list_tiles(store, far, YEAR)


def test_block_that_no_tile_covers(two_zones: Path, tmp_path: Path) -> None:
    wide = make_grid(*around_the_border().geobox.affine @ (0, 0), (20, 400), 100)
    store = local(two_zones, tmp_path)
    manifest = list_tiles(store, wide, YEAR)
    roi = write_roi(tmp_path / "roi.tif", wide, np.ones((20, 400), bool))
    args = (store, manifest, wide, wide.blocks[-1], roi, tmp_path / "block.zip", 50)
    with pytest.raises(TileError, match=r"b000_003: no tile of v1, 2021 in .* covers it: make"):
        import_embeddings(*args)
    assert not (tmp_path / "block.zip").exists()
    import_embeddings(*args, on_empty_block="nodata")
    with open_block_file(tmp_path / "block.zip") as group:
        assert np.isnan(group["scales"][:]).all()
        assert group.attrs["tiles"] == []


def test_folder_that_is_not_a_store(two_zones: Path, tmp_path: Path) -> None:
    grid = around_the_border()
    with pytest.raises(ItemError, match=r"There is no folder .*nowhere: set geotessera.location"):
        list_tiles(local(tmp_path / "nowhere", tmp_path), grid, YEAR)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ItemError, match=r"empty has no registry.parquet, which geotessera 0.7.5"):
        list_tiles(local(tmp_path / "empty", tmp_path), grid, YEAR)
    for name in ("registry", "landmasks"):
        (tmp_path / "empty" / f"{name}.parquet").write_text("not a table")
    with pytest.raises(ItemError, match=r"its list of tiles of .*empty cannot be used"):
        list_tiles(local(tmp_path / "empty", tmp_path), grid, YEAR)


def test_files_of_a_local_store_are_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise AssertionError("the client opened a connection")

    monkeypatch.setattr("geotessera.registry.urlopen", no_network)
    folder = write_store(tmp_path / "store", WEST)
    grid = make_grid(*around_the_border().geobox.affine @ (0, 0), (80, 40), 200)
    store = local(folder, tmp_path)
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
        import_region(local(unhashed, tmp_path), grid, tmp_path / "blocks")
    codes.unlink()
    with pytest.raises(TileError, match=r"lists grid_5.95_51.45 of 2021, but .* does not exist"):
        import_region(store, grid, tmp_path / "blocks")
    (folder / "global_0.1_degree_tiff_all" / "grid_5.95_51.45.tiff").unlink()
    with pytest.raises(TileError, match=r"grid_5.95_51.45.tiff does not exist"):
        list_tiles(store, grid, YEAR)


def test_package_is_not_installed(
    two_zones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "geotessera", None)
    with pytest.raises(ConfigError, match=r"pip install geotessera==0.7.5"):
        list_tiles(local(two_zones, tmp_path), around_the_border(), YEAR)


def test_variants_need_a_client_that_supports_them(two_zones: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"variant is vultr, but geotessera 0.7.5 does not"):
        list_tiles(Store(two_zones, "v1", "vultr", tmp_path), around_the_border(), YEAR)


class _Server(http.server.ThreadingHTTPServer):
    """Serves a store as the public one does; `asked` counts requests by path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: Counter[str] = Counter()
        self.broken: dict[str, int | str] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        name = self.path.removeprefix("/v1/")
        self.server.asked[name] += 1
        path, trouble = self.server.root / name, self.server.broken.get(name)
        if isinstance(trouble, int) or not path.is_file():
            self.send_error(trouble if isinstance(trouble, int) else 404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:-100] if trouble == "short" else content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def public(two_zones: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    """The client's public store is a server on this machine."""
    with _Server(two_zones) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr("geotessera.registry.TESSERA_BASE_URL", server.address)
        monkeypatch.setattr("geotessera.registry.time.sleep", lambda seconds: None)
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_public_store_is_downloaded_once(public: _Server, two_zones: Path, tmp_path: Path) -> None:
    grid = around_the_border(31)
    store = Store(None, "v1", None, tmp_path / "cache")
    result = import_region(store, grid, tmp_path / "public")
    whole = import_region(local(two_zones, tmp_path), grid, tmp_path / "local")
    for name in whole:
        np.testing.assert_array_equal(result[name], whole[name])

    def files_asked() -> Counter[str]:
        return Counter({n: k for n, k in public.asked.items() if not n.endswith(".parquet")})

    files = files_asked()
    assert len(files) == 3 * 4
    assert set(files.values()) == {1}
    manifest = list_tiles(store, grid, YEAR)
    assert manifest.location == public.address
    again = import_region(store, grid, tmp_path / "again")
    np.testing.assert_array_equal(again["embeddings"], result["embeddings"])
    assert files_asked() == files
    assert not list((tmp_path / "cache").rglob("*_tmp_*"))


def test_concurrent_blocks_download_a_tile_once(public: _Server, tmp_path: Path) -> None:
    grid = around_the_border(31)
    store = Store(None, "v1", None, tmp_path / "cache")
    manifest = list_tiles(store, grid, YEAR)
    roi = write_roi(tmp_path / "roi.tif", grid, np.ones((80, 90), bool))
    failed: list[BaseException] = []

    def job(block: Block) -> None:
        try:
            import_embeddings(store, manifest, grid, block, roi, tmp_path / f"{block.id}.zip", 31)
        except BaseException as error:
            failed.append(error)

    jobs = [threading.Thread(target=job, args=(block,)) for block in grid.blocks]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert failed == []
    assert max(n for name, n in public.asked.items() if name.endswith(".npy")) == 1


def test_downloads_that_fail(public: _Server, tmp_path: Path) -> None:
    grid = around_the_border()
    store = Store(None, "v1", None, tmp_path / "cache")
    manifest = list_tiles(store, grid, YEAR)
    files = StoreFiles(store, open_client(store), YEAR)
    tile = manifest.tiles[0]
    name = f"global_0.1_degree_representation/{YEAR}/{tile.name}/{tile.name}.npy"
    for failure, message in (
        (404, r"npy of 2021 could not be read from the public geotessera store: HTTP 404"),
        (503, r"HTTP 503\. Run again later"),
        ("short", r"could not be read from .* \(Hash mismatch"),
    ):
        public.broken[name] = failure
        with pytest.raises(ReadError, match=message):
            files.fetch(tile, "codes")
        assert not list((tmp_path / "cache").rglob(f"*{tile.name}.npy*"))
    unhashed = replace(tile, sha256={})
    files.client.registry.verify_hashes = False
    with pytest.raises(ReadError, match=r"downloaded with \d+ bytes, but .* lists \d+: run"):
        files.fetch(unhashed, "codes")
    del public.broken[name]
    path = files.fetch(tile, "codes")
    assert path.stat().st_size == tile.sizes["codes"]
    path.write_bytes(b"left by an older version of the store")
    assert files.fetch(tile, "codes").stat().st_size == tile.sizes["codes"]


def update(codes: Path) -> None:
    """Write other codes to a file of the same size, like an updated dataset."""
    array = np.load(codes)
    array[..., 3:] = 1
    np.save(codes, array)


def test_store_that_is_updated_between_listing_and_reading(tmp_path: Path) -> None:
    """All versions of a tile have the same size; only the hashes differ."""
    folder = write_store(tmp_path / "store", WEST + EAST)
    grid, store = around_the_border(), local(folder, tmp_path)
    manifest = list_tiles(store, grid, YEAR)
    roi = write_roi(tmp_path / "roi.tif", grid, np.ones(grid.geobox.shape, bool))
    update(folder / f"global_0.1_degree_representation/{YEAR}/grid_5.95_51.45/grid_5.95_51.45.npy")
    with pytest.raises(
        TileError, match=r"grid_5.95_51.45.npy has another SHA-256 than .* tiles again"
    ):
        import_embeddings(store, manifest, grid, grid.blocks[0], roi, tmp_path / "block.zip", 33)
    assert not (tmp_path / "block.zip").exists()


def test_cached_tile_of_an_older_version_is_downloaded_again(
    public: _Server, tmp_path: Path
) -> None:
    grid, store = around_the_border(), Store(None, "v1", None, tmp_path / "cache")
    tile = list_tiles(store, grid, YEAR).tiles[0]
    files = StoreFiles(store, open_client(store), YEAR)
    path = files.fetch(tile, "codes")
    content = path.read_bytes()
    update(path)
    assert path.stat().st_size == len(content)
    assert files.fetch(tile, "codes").read_bytes() == content
    assert public.asked[path.relative_to(store.folder).as_posix()] == 2


def test_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geotessera.registry.TESSERA_BASE_URL", "http://u:secret@127.0.0.1:9")
    monkeypatch.setattr("geotessera.registry.time.sleep", lambda seconds: None)
    with pytest.raises(ReadError, match="could not be read from the public") as error:
        list_tiles(Store(None, "v1", None, tmp_path), around_the_border(), YEAR)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_grid_across_the_antimeridian_lists_only_tiles_at_its_ends(tmp_path: Path) -> None:
    """The grid of a region that ends at 180 degrees is snapped outwards across the antimeridian.
    Land masks of all tiles of the same latitudes must not be downloaded."""
    here, beyond, far = Tile(17995, 1705, 60), Tile(-17995, 1705, 1), Tile(5, 1705, 31)
    store = local(write_store(tmp_path / "store", (here, beyond, far)), tmp_path)
    (store.location / "global_0.1_degree_tiff_all" / f"{far.name}.tiff").unlink()  # type: ignore[operator]
    to_utm = Transformer.from_crs("EPSG:4326", "EPSG:32660", always_xy=True)
    left, bottom, right, top = to_utm.transform_bounds(179.92, 17.02, 179.999, 17.08)
    left, top = np.floor(left / PIXEL) * PIXEL, np.ceil(top / PIXEL) * PIXEL
    shape = int(np.ceil((top - bottom) / PIXEL)), int(np.ceil((right - left) / PIXEL)) + 2
    box = GeoBox(shape, Affine(PIXEL, 0, left, 0, -PIXEL, top), "EPSG:32660")
    grid = RegionGrid.of("here", box, 200, 1, (Block("b000_000", Window(0, 0, *shape)),))
    assert [t.name for t in list_tiles(store, grid, YEAR).tiles] == [beyond.name, here.name]
    assert sorted(tile.name for tile in store_tiles(grid)) == [beyond.name, here.name]
    covered = np.zeros(shape, bool)
    for tile in store_tiles(grid):
        covered[tile.window.slices] = True
    assert covered.all(), "pixels of the region are in no tile of the store that it writes"
    result = import_region(store, grid, tmp_path / "blocks")
    codes, scales = expected(grid, (here, beyond))
    np.testing.assert_array_equal(result["scales"], scales)
    np.testing.assert_array_equal(result["embeddings"], codes)
    assert np.isfinite(scales).mean() > 0.9
