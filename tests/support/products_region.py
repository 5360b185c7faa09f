"""Write a small region with known embeddings as block files of any size."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.block_file import create_array, create_block_file
from tessera_flow.config.configuration import Config
from tessera_flow.products.arrays import write_arrays
from tessera_flow.products.checks.embeddings import Checks, write_checks
from tessera_flow.products.provenance import Provenance, build_provenance
from tessera_flow.region.grid import Block, RegionGrid, block_id, tiling
from tessera_flow.scenes.manifest import Manifest

HEIGHT, WIDTH = 230, 170
WEIGHTS = {
    "path": "/home/someone/weights/nano.pt",
    "sha256": "ab" * 32,
    "family": "v2-student",
    "name": "v2-nano",
}


@dataclass
class Region:
    """A region and the expected contents of its products."""

    grid: RegionGrid
    blocks: dict[str, Path]
    embeddings: np.ndarray
    scales: np.ndarray | None
    counts: np.ndarray
    valid: np.ndarray
    provenance: Provenance


def landscape(height: int, width: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return smooth fields mixed into `dim` dimensions with noise: (height, width, dim) float32."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 40.0
    fields = np.stack(
        [np.sin(x + 0.3 * y), 0.7 * np.cos(1.7 * y), 0.5 * np.sin(x * y / 3), 0.2 * np.cos(5 * x)],
        axis=-1,
    )
    mixed = fields @ random.normal(size=(4, dim)) + 0.05 * random.normal(size=(height, width, dim))
    return mixed.astype(np.float32)


def inside_mask(height: int, width: int) -> np.ndarray:
    """Return a mask without the top left 110 x 110 pixels and a disc."""
    y, x = np.mgrid[0:height, 0:width]
    mask = (y >= 110) | (x >= 110)
    return mask & ((y - 170) ** 2 + (x - 90) ** 2 > 20**2)


def make_config(dim: int = 16, dtype: str = "int8", **changes: Any) -> Config:
    document = {
        "regions": {"field": {"roi": "field.geojson"}},
        "periods": {"y2023": {"start": "2023-07-01", "end": "2024-06-30"}},
        "model": {"weights": "nano.pt", "dim": dim, "dtype": dtype},
    }
    return Config.model_validate(document | changes)


def cut(shape: tuple[int, int], valid: np.ndarray, block_size: int, rate: int = 1) -> RegionGrid:
    """Return a grid of `shape` source pixels whose blocks have a valid product pixel."""
    blocks = []
    for window in tiling(*shape, block_size):
        product_window = window.every(rate)
        if valid[product_window.slices].any():
            name = block_id(window.y0 // block_size, window.x0 // block_size)
            blocks.append(Block(name, window))
    geobox = GeoBox(shape, Affine(10, 0, 600_000, 0, -10, 5_700_000), "EPSG:32631")
    return RegionGrid.of("field", geobox, block_size, rate, tuple(blocks))


def make_region(
    folder: Path,
    block_size: int,
    dim: int = 16,
    dtype: str = "int8",
    rate: int = 1,
    chunk: int = 25,
    values: np.ndarray | None = None,
    valid: np.ndarray | None = None,
) -> Region:
    """Write the region's block files; the pixels do not depend on block size or chunk."""
    if values is None and valid is None:
        return _copied(folder, (block_size, dim, dtype, rate, chunk))
    if valid is None:
        valid = inside_mask(HEIGHT, WIDTH)
    if values is None:
        values = landscape(*valid.shape, dim)
    return _written(folder, block_size, dim, dtype, rate, chunk, values, valid)


def _written(
    folder: Path,
    block_size: int,
    dim: int,
    dtype: str,
    rate: int,
    chunk: int,
    values: np.ndarray,
    valid: np.ndarray,
) -> Region:
    height, width = valid.shape
    grid = cut((height * rate, width * rate), valid, block_size, rate)
    random = np.random.default_rng(1)
    counts = random.integers(16, 200, (height, width, 3)).astype(np.uint16)
    counts[~valid] = 0
    scales = None
    if dtype == "int8":
        scales = (np.abs(values).max(axis=-1) / 127).astype(np.float32)
        embeddings = np.rint(values / scales[..., None]).astype(np.int8)
        embeddings[~valid], scales[~valid] = 0, np.nan
    else:
        embeddings = values.copy()
        embeddings[~valid] = np.nan
    blocks = {}
    for block in grid.blocks:
        window = grid.product_window(block).slices
        path = folder / f"{block.id}.zip"
        write_block(
            path,
            embeddings[window],
            scales if scales is None else scales[window],
            counts[window],
            chunk,
        )
        blocks[block.id] = path
    provenance = build_provenance(grid, make_config(dim, dtype), "field", "y2023", WEIGHTS)
    return Region(grid, blocks, embeddings, scales, counts, valid, provenance)


@lru_cache(maxsize=16)
def _made(options: tuple[int, int, str, int, int]) -> tuple[Region, dict[str, bytes]]:
    """Return the default region, and the content of its files, by block."""
    values = landscape(HEIGHT, WIDTH, options[1])
    with TemporaryDirectory() as folder:
        region = _written(Path(folder), *options, values, inside_mask(HEIGHT, WIDTH))
        return region, {name: path.read_bytes() for name, path in region.blocks.items()}


def _copied(folder: Path, options: tuple[int, int, str, int, int]) -> Region:
    """Write the files of the default region, which are made once in a process."""
    made, files = _made(options)
    folder.mkdir(parents=True, exist_ok=True)
    blocks = {name: folder / f"{name}.zip" for name in files}
    for name, path in blocks.items():
        path.write_bytes(files[name])
    return replace(copy.deepcopy(made), blocks=blocks)


def write_block(
    path: Path,
    embeddings: np.ndarray,
    scales: np.ndarray | None,
    counts: np.ndarray,
    chunk: int,
    attributes: Mapping[str, Any] | None = None,
    months: np.ndarray | None = None,
) -> None:
    """Write a block file; by default a pixel with observations has them in all of 12 months."""
    if months is None:
        months = np.where(counts > 0, 0xFFF, 0).astype(np.uint16)
    arrays = {"embeddings": embeddings, "scales": scales, "counts": counts, "months": months}
    with create_block_file(path, attributes or {}) as group:
        for name, data in arrays.items():
            if data is not None:
                chunks = (chunk, chunk, *data.shape[2:])
                fill = np.nan if data.dtype.kind == "f" else 0
                array = create_array(group, name, data.shape, chunks, data.dtype, fill)
                array[...] = data


def write_mask(region: Region, path: Path) -> Path:
    """Write the mask of a region on its full grid, as the rule `roi` does."""
    rate = region.grid.downsample_rate
    mask = region.valid.repeat(rate, axis=0).repeat(rate, axis=1).astype(np.uint8)
    profile = {"driver": "GTiff", "height": mask.shape[0], "width": mask.shape[1], "count": 1}
    geobox = region.grid.geobox
    with rasterio.open(
        path, "w", dtype="uint8", crs=str(geobox.crs), transform=geobox.affine, **profile
    ) as file:
        file.write(mask, 1)
    return path


def dequantised(region: Region) -> np.ndarray:
    """Return (n, K) float64 embeddings of the valid pixels, row by row."""
    values = region.embeddings[region.valid].astype(np.float64)
    if region.scales is not None:
        values *= region.scales[region.valid].astype(np.float64)[:, None]
    return values


def digest(path: Path) -> dict[str, str]:
    """Return the SHA-256 of a file, or of every file in a folder, by relative path."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return {
        str(p.relative_to(path.parent)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def check(
    region: Region,
    folder: Path,
    seam: float = 1.5,
    saturated: float = 10.0,
    scenes: Sequence[Manifest] = (),
) -> Checks:
    """Return the checks of a region, whose files are in `folder`."""
    return write_checks(
        folder / "checks.json", region.grid, region.blocks, region.provenance,
        write_mask(region, folder / "mask.tif"), scenes, seam, saturated,
    )  # fmt: skip


def failures(checks: Checks) -> list[str]:
    """Return the messages of the checks that fail."""
    return [text for check in checks.checks if check.state == "fail" for text in check.messages]


def change(region: Region, block: str, values: Any = None, scales: Any = None) -> None:
    """Rewrite a block with other values or scales in its first pixels."""
    window = region.grid.product_window(region.grid.block(block)).slices
    embeddings, old = region.embeddings[window].copy(), region.scales[window].copy()
    if values is not None:
        embeddings[: len(values), 0] = values
    if scales is not None:
        old[: len(scales), 0] = scales
    write_block(region.blocks[block], embeddings, old, region.counts[window], 25)


def damage(path: Path) -> None:
    """Overwrite most of the first chunk of embeddings in a block file."""
    content = bytearray(path.read_bytes())
    at = content.index(b"embeddings/c/")
    content[at + 40 : at + 4000] = bytes(3960)
    path.write_bytes(content)


def write_numpy(region: Region, folder: Path) -> Path:
    """Write a region as NumPy arrays, under their names in a product folder; return the path of
    the embeddings."""
    stem = folder / "stitched_representation"
    write_arrays(
        stem.with_suffix(".npy"), folder / f"{stem.name}_scales.npy",
        folder / f"{stem.name}_counts.npy", stem.with_suffix(".json"),
        region.grid, region.blocks, region.provenance,
    )  # fmt: skip
    return stem.with_suffix(".npy")
