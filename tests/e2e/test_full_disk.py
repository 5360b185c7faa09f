"""Every writer on disks of different sizes: the complete result, or a message and no files.

Some libraries report a full disk only when they close a file, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.atomic import write_text
from tessera_flow.block_file import create_array, create_block_file, get_array, open_block_file
from tessera_flow.errors import OutputError
from tessera_flow.products.arrays import write_arrays
from tessera_flow.products.geotiff.cog import write_cogs
from tessera_flow.products.geotiff.counts import write_counts
from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.products.stores.zarr_store import write_zarr
from tessera_flow.region.mask import write_mask
from tessera_flow.region.roi import VectorRoi
from tests.support.pipeline import CRS
from tests.support.products_region import Region, digest, make_region
from tests.support.products_region import write_mask as write_roi
from tests.support.workflow import LEFT, TOP, small_disk

PAGE = 4096
Writer = Callable[[Path, Region], None]


def text(folder: Path, region: Region) -> None:
    write_text(folder / "list.json", "0123456789" * 5000)


def mask(folder: Path, region: Region) -> None:
    circle = shapely.Point(LEFT + 10_000, TOP - 10_000).buffer(9_000)
    geobox = GeoBox((2000, 2000), Affine(10, 0, LEFT, 0, -10, TOP), CRS)
    write_mask(VectorRoi(Path("circle"), circle, geobox.crs.proj), geobox, folder / "roi.tif")


def block_file(folder: Path, region: Region) -> None:
    values = np.random.default_rng(0).integers(0, 9999, (20, 25, 25, 10)).astype(np.uint16)
    with create_block_file(folder / "block.zip", {"scenes": 1}) as group:
        array = create_array(group, "bands", values.shape, (1, 25, 25, 10), values.dtype)
        array[:] = values


def zarr_store(folder: Path, region: Region) -> None:
    write_zarr(folder / "embeddings.zarr", region.grid, region.blocks, region.provenance)


def arrays(folder: Path, region: Region) -> None:
    names = ("values.npy", "scales.npy", "counts.npy", "record.json")
    paths = [folder / name for name in names]
    write_arrays(*paths, region.grid, region.blocks, region.provenance)


def preview(folder: Path, region: Region) -> None:
    paths = folder / "preview.tif", folder / "preview.png"
    write_preview(*paths, region.grid, region.blocks, region.provenance)


def zarr_store_by_threads(folder: Path, region: Region) -> None:
    path, inputs = folder / "embeddings.zarr", (region.grid, region.blocks, region.provenance)
    write_zarr(path, *inputs, chunk=20, threads=3, preview_stretch=2.0)


def counts(folder: Path, region: Region) -> None:
    mask = write_roi(region, region.blocks["b000_001"].parent / "roi.tif")
    write_counts(folder / "counts.tif", region.grid, region.blocks, region.provenance, mask)


def cog(folder: Path, region: Region) -> None:
    write_cogs(folder / "embeddings.tif", None, region.grid, region.blocks, region.provenance)


def geotessera(folder: Path, region: Region) -> None:
    write_geotessera(folder / "geotessera", region.grid, region.blocks, region.provenance)


def content(folder: Path) -> dict[str, str]:
    """Return the contents of a folder; of a block file its array, as zip entries have times."""
    result = {name.partition("/")[2]: value for name, value in digest(folder).items()}
    if "block.zip" in result:
        with open_block_file(folder / "block.zip") as group:
            result["block.zip"] = str(np.asarray(get_array(group, "bands")[:]).tobytes())
    return result


WRITERS = [
    *(text, mask, block_file, zarr_store, zarr_store_by_threads, arrays, preview, counts),
    *(cog, geotessera),
]


@pytest.mark.parametrize("write", WRITERS)
def test_complete_result_or_no_files(tmp_path: Path, write: Writer) -> None:
    dim = 128 if write is geotessera else 16
    region = make_region(tmp_path / "blocks", block_size=100, dim=dim)
    enough = tmp_path / "enough"
    enough.mkdir()
    write(enough, region)
    expected = content(enough)
    pages = sum(-(-path.stat().st_size // PAGE) for path in enough.rglob("*") if path.is_file())
    outcomes = []
    for size in sorted({2, 3, *np.linspace(4, pages + 2, 8).astype(int).tolist(), 6 * pages + 400}):
        with small_disk(tmp_path / "disk", size * PAGE) as disk:
            try:
                write(disk, region)
            except OutputError as error:
                assert f"No space left while writing {disk}/" in str(error)
                assert content(disk) == {}, f"left on a disk of {size} pages"
                outcomes.append(False)
            else:
                assert content(disk) == expected, f"written on a disk of {size} pages"
                outcomes.append(True)
    assert outcomes == sorted(outcomes)
    assert outcomes[0] is False and outcomes[-1] is True
