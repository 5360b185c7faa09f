"""Pixels are grouped by the blocks of a raster in bounded memory; reading them can be stopped."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.archives.signing import Access
from tessera_flow.errors import ReadError
from tessera_flow.raster import pixels
from tessera_flow.raster.pixels import PixelList
from tessera_flow.raster.reader import Asset, Reader
from tessera_flow.raster.resample import ReadOptions

from ..support.servers import serve_files

PLACE = Affine(10, 0, 600_000, 0, -10, 5_700_000)
GRID = GeoBox((1000, 1000), PLACE, "EPSG:32631")


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """800 x 800 pixels in blocks of 128, of which none is 0."""
    file = tmp_path_factory.mktemp("raster") / "blocks.tif"
    values = np.random.default_rng(0).integers(1, 9000, (800, 800)).astype(np.uint16)
    profile = {"driver": "GTiff", "height": 800, "width": 800, "count": 1, "dtype": "uint16"}
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    with rasterio.open(file, "w", crs="EPSG:32631", transform=PLACE, **profile, **tiles) as target:
        target.write(values, 1)
    return file


def square(edge: int) -> PixelList:
    row, column = np.divmod(np.arange(edge * edge), edge)
    return PixelList(GRID, row, column)


def test_each_covered_pixel_is_in_one_group_with_its_block(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if their positions are computed in several parts."""
    monkeypatch.setattr(pixels, "KEYS_AT_A_TIME", 7777)
    listed = square(1000)
    with rasterio.open(path) as dataset:
        groups = pixels._groups(dataset, listed)
    places = [(group.blocks.row_off, group.blocks.col_off) for group in groups]
    assert places == [(y, x) for y in range(0, 800, 128) for x in range(0, 800, 128)]
    found = np.concatenate([group.index for group in groups])
    covered = np.flatnonzero((listed.rows < 800) & (listed.columns < 800))
    assert np.array_equal(np.sort(found), covered)
    for group in groups:
        assert group.count == 1
        assert np.array_equal(np.unique(listed.rows[group.index] // 128 * 128),
                              [group.blocks.row_off])  # fmt: skip
        assert np.array_equal(np.unique(listed.columns[group.index] // 128 * 128),
                              [group.blocks.col_off])  # fmt: skip


def test_grouping_holds_few_bytes_for_a_pixel(path: Path) -> None:
    def peak(edge: int) -> int:
        listed = square(edge)
        tracemalloc.start()
        with rasterio.open(path) as dataset:
            pixels._groups(dataset, listed)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert (peak(800) - peak(400)) / (800**2 - 400**2) < 80


def test_reading_stops_at_the_next_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "BATCH_BYTES", 1)
    options = ReadOptions("nearest", True)
    read_window = pixels.read_window
    with Reader(lambda href, fresh=False: Access(href)) as reader:
        asset = Asset("X", "B04", str(path))
        whole = reader.read_pixels(asset, square(800), "uint16", options)
        with rasterio.open(path) as dataset:
            assert np.array_equal(whole.reshape(800, 800), dataset.read(1))
        windows = []

        def one_window(*arguments):
            windows.append(arguments)
            reader.policy.stop.set()
            return read_window(*arguments)

        monkeypatch.setattr(pixels, "read_window", one_window)
        with pytest.raises(ReadError, match="the job has ended"):
            reader.read_pixels(asset, square(800), "uint16", options)
    assert len(windows) == 1


FREED = """
import sys
import ctypes
from tessera_flow.raster.heap import release_large_blocks
if sys.argv[1] == "release":
    assert release_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def used():
    lines = open("/proc/self/status").read()
    return int(lines.split("RssAnon:")[1].split()[0]) / 1024
def allocate(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    return block
libc.free(allocate(16 << 20))
start, blocks = used(), []
for _ in range(100):
    blocks.append(allocate(1 << 20))
    allocate(1000)
for block in blocks:
    libc.free(block)
print(used() - start)
"""


def test_freed_blocks_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 blocks of 1 MiB, with a small one that is kept after each."""
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    left = {}
    for kind in ("keep", "release"):
        done = subprocess.run(
            [sys.executable, "-c", FREED, kind], capture_output=True, text=True, check=True
        )
        left[kind] = float(done.stdout)
    assert left["keep"] > 90
    assert left["release"] < 5


def test_pixels_of_a_server_are_those_of_the_file(path: Path) -> None:
    with (
        serve_files(path.parent) as server,
        Reader(lambda href, fresh=False: Access(href)) as reader,
    ):
        options = ReadOptions("nearest", True)
        asset = Asset("X", "B04", f"{server.url}/{path.name}")
        values = reader.read_pixels(asset, square(300), "uint16", options)
    with rasterio.open(path) as dataset:
        assert np.array_equal(values.reshape(300, 300), dataset.read(1)[:300, :300])
