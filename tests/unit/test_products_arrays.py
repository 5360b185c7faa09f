"""The stitched .npy arrays, unexpected block files, and full disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tessera_flow.errors import OutputError, TileError
from tessera_flow.products.arrays import write_arrays
from tessera_flow.products.blocks import RegionBlocks
from tessera_flow.products.geotiff.counts import write_counts
from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import Region, cut, digest, make_region, write_block, write_mask

NAMES = ("representation.npy", "scales.npy", "counts.npy", "provenance.json")


def stitch(region: Region, folder: Path) -> list[Path]:
    paths = [folder / name for name in NAMES]
    scales = None if region.scales is None else paths[1]
    write_arrays(
        paths[0], scales, paths[2], paths[3], region.grid, region.blocks, region.provenance
    )
    return paths


@pytest.mark.parametrize("block_size", [50, 64, 100, 500])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_every_pixel(tmp_path: Path, block_size: int, dtype: str) -> None:
    region = make_region(tmp_path / "blocks", block_size, dtype=dtype)
    representation, scales, counts, _ = stitch(region, tmp_path / "out")
    stored = np.load(representation, mmap_mode="r")
    assert stored.dtype == dtype
    assert stored.flags.c_contiguous
    np.testing.assert_array_equal(stored, region.embeddings)
    np.testing.assert_array_equal(np.load(counts), region.counts)
    assert np.load(counts).dtype == np.uint16
    if dtype == "int8":
        assert np.load(scales).dtype == np.float32
        np.testing.assert_array_equal(np.load(scales), region.scales)
    else:
        assert not scales.exists()


def test_bytes_do_not_depend_on_the_block_size(tmp_path: Path) -> None:
    results = []
    for block_size in (50, 64, 100):
        region = make_region(tmp_path / str(block_size), block_size, chunk=block_size // 2)
        results.append([digest(p) for p in stitch(region, tmp_path / f"out{block_size}")])
    assert results[0] == results[1] == results[2]


def test_record_of_the_arrays(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    document = json.loads(stitch(region, tmp_path / "out")[3].read_text())
    assert document["crs"] == "EPSG:32631"
    assert document["transform"] == [10, 0, 600_000, 0, -10, 5_700_000]
    assert document["arrays"]["representation.npy"] == {
        "shape": [230, 170, 16],
        "dtype": "int8",
        "nodata": 0,
    }
    assert document["arrays"]["scales.npy"]["nodata"] == "NaN"
    assert document["arrays"]["counts.npy"]["last_axis"][0] == "s2_valid"


def test_pieces_cover_each_block_once_within_the_budget(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100, chunk=20)
    covered = np.zeros((230, 170), int)
    with RegionBlocks(region.grid, region.blocks) as source:
        for _, inside, window in source.pieces(max_bytes=20 * 60 * 16):
            assert inside.shape == window.shape
            assert window.height * window.width <= 20 * 60
            covered[window.slices] += 1
        for window in source.empty_cells():
            covered[window.slices] += 1
    assert (covered == 1).all()


def test_missing_blocks_are_all_named(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 64)
    region.blocks["b002_001"].unlink()
    del region.blocks["b000_002"]
    with pytest.raises(TileError) as caught:
        stitch(region, tmp_path / "out")
    assert str(caught.value) == (
        "Region field: 2 of 11 blocks have no embeddings file: b000_002, b002_001. "
        "Run again to compute them."
    )
    assert not (tmp_path / "out").exists(), "nothing is written before the blocks are checked"


def test_truncated_block(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    path = region.blocks["b001_001"]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(TileError, match=r"Block b001_001: .*b001_001\.zip is not a complete"):
        stitch(region, tmp_path / "out")


def test_damaged_chunk_is_an_error_and_leaves_no_files(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    path = region.blocks["b001_001"]
    data = bytearray(path.read_bytes())
    middle = data.index(b"embeddings/c/0/0/0") + 400
    data[middle : middle + 50] = bytes(50)
    path.write_bytes(data)
    for write in (
        lambda: stitch(region, tmp_path / "out"),
        lambda: write_zarr(tmp_path / "out/e.zarr", region.grid, region.blocks, region.provenance),
        lambda: write_preview(
            tmp_path / "out/p.tif",
            tmp_path / "out/p.png",
            region.grid,
            region.blocks,
            region.provenance,
        ),
    ):
        with pytest.raises(TileError, match=r"Block b001_001: embeddings in .* cannot be read"):
            write()
    assert list((tmp_path / "out").iterdir()) == []


def rewrite(region: Region, block_id: str, height: int, width: int, dim: int, dtype: str) -> None:
    write_block(
        region.blocks[block_id],
        np.zeros((height, width, dim), dtype),
        np.zeros((height, width), np.float32) if dtype == "int8" else None,
        np.zeros((height, width, 3), np.uint16),
        50,
    )


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ((100, 70, 16, "float32"), r"\(100, 70, 16\) float32, expected \(100, 70, 16\) int8"),
        ((100, 70, 32, "int8"), r"\(100, 70, 32\) int8, expected \(100, 70, 16\) int8"),
        ((100, 100, 16, "int8"), r"\(100, 100, 16\) int8, expected \(100, 70, 16\) int8"),
    ],
)
def test_block_that_differs_from_the_others_is_named(
    tmp_path: Path, change: tuple[int, int, int, str], result: str
) -> None:
    region = make_region(tmp_path / "blocks", 100)
    rewrite(region, "b001_001", *change)
    with pytest.raises(TileError, match=r"Block b001_001: embeddings in .* is " + result):
        stitch(region, tmp_path / "out")


def test_blocks_of_another_configuration(tmp_path: Path) -> None:
    """All blocks agree, but were written before model.dim changed."""
    region = make_region(tmp_path / "blocks", 100, dim=16)
    other = make_region(tmp_path / "other", 100, dim=32)
    with pytest.raises(TileError, match=r"holds 16 dimensions of int8, but model.dim is 32"):
        write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, other.provenance)


def test_block_without_scales(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    write_block(
        region.blocks["b001_000"],
        np.zeros((100, 100, 16), np.int8),
        None,
        np.zeros((100, 100, 3), np.uint16),
        50,
    )
    with pytest.raises(TileError, match=r"Block b001_000: .* has no array 'scales'"):
        stitch(region, tmp_path / "out")


def test_parent_is_a_file(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputError, match=r"Cannot write .*representation\.npy"):
        stitch(region, tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 KB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this container may not mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("product", ["arrays", "zarr", "preview", "counts", "geotessera"])
def test_full_disk(tmp_path: Path, small_disk: Path, product: str) -> None:
    shape, dim = ((250, 200), 128) if product == "geotessera" else ((700, 500), 16)
    noise = np.random.default_rng(3).normal(size=(*shape, dim)).astype(np.float32)
    valid = np.ones(shape, bool)
    region = make_region(tmp_path / "blocks", 300, dim=dim, values=noise, valid=valid)
    inputs = (region.grid, region.blocks, region.provenance)
    with pytest.raises(OutputError, match="No space left while writing"):
        if product == "arrays":
            stitch(region, small_disk)
        elif product == "zarr":
            write_zarr(small_disk / "e.zarr", *inputs)
        elif product == "counts":
            write_counts(small_disk / "c.tif", *inputs, write_mask(region, tmp_path / "m.tif"))
        elif product == "geotessera":
            write_geotessera(small_disk / "store", *inputs)
        else:
            write_preview(small_disk / "p.tif", small_disk / "p.png", *inputs)
    assert list(small_disk.iterdir()) == []


MEMORY_SCRIPT = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.support.products_region import WEIGHTS, cut, make_config
from tessera_flow.products.provenance import build_provenance
from tessera_flow.products.arrays import write_arrays
from tessera_flow.products.checks.embeddings import write_checks
from tessera_flow.products.geotiff.counts import write_counts
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.report.summary import summarise_observations
from tessera_flow.products.stores.zarr_store import write_zarr
import numpy as np, rasterio
folder, product = Path(sys.argv[1]), sys.argv[3]
grid = cut((4000, 4000), np.ones((4000, 4000), bool), 2000)
blocks = {b.id: folder / f"{b.id}.zip" for b in grid.blocks}
provenance = build_provenance(grid, make_config(128), "field", "y2023", WEIGHTS)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = folder / product
mask = folder / "mask.tif"
profile = {"driver": "GTiff", "height": 4000, "width": 4000, "count": 1, "dtype": "uint8"}
with rasterio.open(mask, "w", crs="EPSG:32631", transform=grid.geobox.affine, **profile) as file:
    file.write(np.ones((1, 4000, 4000), np.uint8))
if product == "zarr":
    write_zarr(out / "e.zarr", grid, blocks, provenance)
elif product == "arrays":
    write_arrays(
        out / "r.npy", out / "s.npy", out / "c.npy", out / "p.json", grid, blocks, provenance
    )
elif product == "counts":
    write_counts(out / "c.tif", grid, blocks, provenance, mask)
elif product == "checks":
    write_checks(out / "c.json", grid, blocks, provenance, mask, [], 1.5, 10.0)
    summarise_observations(grid, blocks, provenance)
elif product == "geotessera":
    write_geotessera(out, grid, blocks, provenance)
else:
    write_preview(out / "p.tif", out / "p.png", grid, blocks, provenance)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_region(tmp_path: Path) -> None:
    """2 GB of embeddings (4000 x 4000 x 128 int8) in under 400 MB over the baseline."""
    grid = cut((4000, 4000), np.ones((4000, 4000), bool), 2000)
    random = np.random.default_rng(0)
    codes = random.integers(-127, 128, (2000, 2000, 128)).astype(np.int8)
    scales = np.full((2000, 2000), 0.01, np.float32)
    for block in grid.blocks:
        write_block(
            tmp_path / f"{block.id}.zip", codes, scales, np.ones((2000, 2000, 3), np.uint16), 500
        )
    del codes
    for product in ("counts", "checks", "geotessera", "zarr", "arrays", "preview"):
        root = Path(__file__).parents[2]
        command = [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path), str(root), product]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert float(result.stdout) < 400, f"{product}: {result.stdout} MB"


def array_names(folder: Path) -> list[Path]:
    parts = (".npy", "_scales.npy", "_counts.npy", ".json")
    return [folder / f"stitched{part}" for part in parts]


def test_old_scales_are_deleted_when_float32_is_written(tmp_path: Path) -> None:
    """They would be read as the scales of the new arrays, which have none."""
    names = array_names(tmp_path)
    region = make_region(tmp_path / "int8", 100)
    write_arrays(*names, region.grid, region.blocks, region.provenance)
    assert names[1].exists()
    region = make_region(tmp_path / "float32", 100, dtype="float32")
    names[1] = None  # type: ignore[call-overload]
    write_arrays(*names, region.grid, region.blocks, region.provenance)
    result = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert result == ["stitched.json", "stitched.npy", "stitched_counts.npy"]


def test_old_counts_are_deleted_when_published_embeddings_are_written(tmp_path: Path) -> None:
    """They would be read as the counts of the new arrays, which are unknown."""
    names = array_names(tmp_path)
    region = make_region(tmp_path / "scenes", 100)
    write_arrays(*names, region.grid, region.blocks, region.provenance)
    assert names[2].exists()
    source = replace(region.provenance.sources[0], provider="geotessera")
    published = replace(region.provenance, sources=(source,))
    write_arrays(*names[:2], None, names[3], region.grid, region.blocks, published)
    result = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert result == ["stitched.json", "stitched.npy", "stitched_scales.npy"]
