"""Write patches as reference tile folders, which other tools read.

As in the reference, a tile at the edge is padded with zeros to the full patch size, and its
name has the clipped corner.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr
from rasterio.errors import RasterioError

from .. import __version__
from ..atomic import atomic_folder, output_error, write_text
from ..block_file import chunk_slices, get_array, open_block_file
from ..errors import TileError
from ..inference.tile import ARRAYS, TILE_PIXEL_ARRAYS
from ..npy_file import allocate
from ..products.checksums import Checksums
from ..region.grid import Block, RegionGrid, Window, crop, patch_name
from .format import FILES, ROI_FILE, folder_name


def export_tiles(
    patches: Path,
    grid: RegionGrid,
    block: Block,
    output: Path,
    provenance: Mapping[str, Any],
) -> list[str]:
    """Write a tile folder for each patch of a block that holds a pixel of the region.

    Args:
        patches: the block's file of patches.
        grid: the region's grid.
        block: the block.
        output: JSON file, written last, in the folder of the tile folders: names of the
            block's tiles, sizes and SHA-256 of their files, and `provenance`.
        provenance: written into the JSON file.

    Returns:
        The names of the tile folders.

    Raises:
        TileError: the file of patches is missing or damaged.
        OutputError: a tile cannot be written.
    """
    extent = grid.product_window(block)
    names = []
    with open_block_file(patches) as source:
        attributes: dict[str, Any] = source.attrs.asdict()
        size = int(attributes["patch_size"])
        for patch in (Window(*numbers) for numbers in attributes["patches"]):
            group = source.get(patch_name(patch))
            if not isinstance(group, zarr.Group):
                raise TileError(
                    f"{patches} has no patch {patch_name(patch)}: delete it and run again."
                )
            if "bands" not in group:
                raise TileError(
                    f"{patches} has only the values that embeddings need: delete it and run again "
                    "with `tiles` in products.formats."
                )
            window = Window(extent.y0 + patch.y0, extent.x0 + patch.x0, *patch.shape)
            name = folder_name(window)
            with atomic_folder(output.parent / name, is_exported) as part:
                part.mkdir()
                for array in ARRAYS:
                    _write_array(part / f"{array}.npy", group, array, size)
                _write_roi(part / ROI_FILE, group, grid, window, size)
            names.append(name)
    files = [output.parent / name / file for name in names for file in (*FILES, ROI_FILE)]
    try:
        checksums = Checksums.of_files(files, output.parent, dict(provenance))
    except OSError as error:
        raise output_error(Path(error.filename or output), error) from error
    document = {"block": block.id, "patch_size": size, "tiles": names, **provenance}
    document |= checksums.document()
    write_text(output, json.dumps(document, indent=1) + "\n")
    return names


def is_exported(folder: Path) -> bool:
    """Return whether `export_tiles` has written a tile folder, and nobody has added to it; False if
    it cannot be read."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:
        return False
    if names != {*FILES, ROI_FILE}:
        return False
    try:
        with rasterio.open(folder / ROI_FILE) as mask:
            return str(mask.tags().get("TIFFTAG_SOFTWARE", "")).startswith("tessera-flow ")
    except RasterioError:
        return False


def _write_array(path: Path, group: zarr.Group, name: str, size: int) -> None:
    source = get_array(group, name)
    if name not in TILE_PIXEL_ARRAYS:
        np.save(path, np.asarray(source[:]))
        return
    dates, height, width = source.shape[:3]
    shape = (dates, size, size, *source.shape[3:])
    dtype = np.dtype(np.uint8) if source.dtype == np.bool_ else source.dtype
    if 0 in shape:
        np.save(path, np.zeros(shape, dtype))
        return
    allocate(path, shape, dtype)
    for chunk in chunk_slices(source):
        # Opened for each chunk: written pages of a map count as memory until it is unmapped.
        target = np.lib.format.open_memmap(path, mode="r+")
        target[chunk, :height, :width] = np.asarray(source[chunk])
        del target


def _write_roi(path: Path, group: zarr.Group, grid: RegionGrid, window: Window, size: int) -> None:
    inside = np.asarray(get_array(group, "roi")[:])
    padded = np.zeros((size, size), np.uint8)
    padded[: window.height, : window.width] = inside
    geobox = crop(grid.product_geobox, Window(window.y0, window.x0, 1, 1))
    try:
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=size,
            width=size,
            count=1,
            dtype="uint8",
            crs=str(geobox.crs),
            transform=geobox.affine,
        ) as target:
            target.update_tags(TIFFTAG_SOFTWARE=f"tessera-flow {__version__}")
            target.write(padded, 1)
    except RasterioError as error:
        raise output_error(path, OSError(None, str(error))) from error
