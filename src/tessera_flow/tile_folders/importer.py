"""Import reference tile folders as the time series of a block, instead of scenes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ..block_file import create_array, create_block_file
from ..config.empty_block import OnEmptyBlock, handle_empty
from ..errors import TileError
from ..inference.tile import TILE_PIXEL_ARRAYS, TileArrays
from ..ingest.retile import TIME_CHUNK
from ..region.grid import Block, RegionGrid, Window, crop, patch_name, tiling
from ..region.mask import read_mask
from .format import DTYPES, ROI_FILE, folder_window, read_tile_folder

log = logging.getLogger(__name__)


def import_tiles(
    location: Path,
    grid: RegionGrid,
    block: Block,
    roi_path: Path,
    output: Path,
    patch_size: int,
    on_empty_block: OnEmptyBlock = "fail",
) -> None:
    """Write the patches of a block from tile folders on the region's product grid.

    Args:
        location: the folder that contains the tile folders.
        grid: the region's grid.
        block: the block.
        roi_path: the region's mask; a pixel is inside if it is inside in the mask and the tile.
        output: block file, as written by `retile.retile`.
        patch_size: edge of a patch and of a tile.
        on_empty_block: `fail` if a patch without a tile folder is an error, else `nodata`.

    Raises:
        TileError: a tile is missing, damaged, does not coincide with a patch, or is
            elsewhere on the ground; or there is no such folder.
        OutputError: the output cannot be written.
    """
    inside = read_mask(roi_path, block.window)[0][:: grid.downsample_rate, :: grid.downsample_rate]
    extent = grid.product_window(block)
    expected = [
        Window(extent.y0 + patch.y0, extent.x0 + patch.x0, patch.height, patch.width)
        for patch in tiling(*extent.shape, patch_size)
        if inside[patch.slices].any()
    ]
    folders = _tiles_in(location, extent)
    _check_windows(folders, extent, patch_size)
    without_tile = [window for window in expected if window not in folders]
    if without_tile:
        _report_missing(without_tile, location, block, on_empty_block)
    windows = [window for window in expected if window in folders]
    attributes = {
        "shape": list(inside.shape),
        "patch_size": patch_size,
        "patches": [[w.y0 - extent.y0, w.x0 - extent.x0, w.height, w.width] for w in windows],
    }
    with create_block_file(output, attributes) as target:
        for window in windows:
            folder = folders[window]
            tile = read_tile_folder(folder)
            _check_tile(folder, tile, window, patch_size, grid)
            in_block = Window(window.y0 - extent.y0, window.x0 - extent.x0, *window.shape)
            patch = target.create_group(patch_name(in_block))
            _write_patch(patch, tile, inside[in_block.slices], window)
            log.info("tile %s read", folder.name)


def _tiles_in(location: Path, extent: Window) -> dict[Window, Path]:
    """Return the tile folders that overlap a window of the product grid, by their window."""
    folders = {}
    try:
        with os.scandir(location) as entries:
            for entry in entries:
                window = folder_window(entry.name)
                if window is None or not entry.is_dir():
                    continue
                if (
                    extent.x0 < window.x0 + window.width
                    and window.x0 < extent.x0 + extent.width
                    and extent.y0 < window.y0 + window.height
                    and window.y0 < extent.y0 + extent.height
                ):
                    folders[window] = Path(entry.path)
    except OSError as error:
        raise TileError(
            f"The tile folders in {location} cannot be listed ({error.strerror}): check "
            "tiles.location."
        ) from error
    return folders


def _check_windows(folders: dict[Window, Path], extent: Window, patch_size: int) -> None:
    """Raise if a tile does not cover exactly one patch."""
    patches = {
        Window(extent.y0 + patch.y0, extent.x0 + patch.x0, *patch.shape)
        for patch in tiling(*extent.shape, patch_size)
    }
    for window, folder in folders.items():
        if window not in patches:
            raise TileError(
                f"The tile {folder} covers {window.width} x {window.height} px from column "
                f"{window.x0}, row {window.y0}, which is not a patch of {patch_size} px of this "
                "region's grid: set grid.patch_size to the edge of the tiles, grid.block_size to a "
                "multiple of it, and the region to the one for which the tiles were made."
            )


def _report_missing(
    windows: list[Window], location: Path, block: Block, on_empty_block: OnEmptyBlock
) -> None:
    first = windows[0]
    message = (
        f"Block {block.id}: {len(windows)} of its patches have no tile folder in {location}, the "
        f"first one at column {first.x0}, row {first.y0}"
    )
    handle_empty(on_empty_block, message, "copy or make it", TileError, unit="patches")


def _check_tile(
    folder: Path, tile: TileArrays, window: Window, patch_size: int, grid: RegionGrid
) -> None:
    """Raise if a tile is smaller than in its name, or is elsewhere on the ground."""
    height, width = tile.shape
    if height < window.height or width < window.width or max(tile.shape) > patch_size:
        raise TileError(
            f"The tile {folder} has {height} x {width} pixels, but its name states "
            f"{window.height} x {window.width}, or padded {patch_size} x {patch_size}: copy or "
            "make it again."
        )
    path = folder / ROI_FILE
    if not path.exists():
        return
    try:
        with rasterio.open(path) as raster:
            crs, transform = raster.crs, raster.transform
    except RasterioError as error:
        raise TileError(f"{path} cannot be read as a raster ({error}): copy it again.") from error
    if crs is None:
        return
    expected = crop(grid.product_geobox, Window(window.y0, window.x0, 1, 1)).affine
    pixel = abs(expected.a)
    shift = max(abs(transform.c - expected.c), abs(transform.f - expected.f))
    same_crs = rasterio.crs.CRS.from_user_input(str(grid.product_geobox.crs)) == crs
    if not same_crs or shift >= pixel:
        raise TileError(
            f"{path} starts at {transform.c}, {transform.f} in {crs}, but column {window.x0}, row "
            f"{window.y0} of this region's grid is at {expected.c}, {expected.f} in "
            f"{grid.product_geobox.crs}: use the region (and regions.{grid.name}.align and crs) "
            "for which the tiles were made."
        )
    if shift > 0:
        log.warning(
            "%s is shifted by %.3f units of its CRS from this region's grid, less than a pixel: "
            "used as if aligned.",
            path,
            shift,
        )


def _write_patch(
    patch: zarr.Group, tile: TileArrays, inside: NDArray[np.bool_], window: Window
) -> None:
    roi = inside.astype(np.uint8)
    if tile.roi is not None:
        roi *= tile.roi[: window.height, : window.width] > 0
    create_array(patch, "roi", roi.shape, roi.shape, np.uint8)[:] = roi
    for name, dtype in DTYPES.items():
        source: NDArray[Any] = getattr(tile, name)
        has_pixels = name in TILE_PIXEL_ARRAYS
        tail = (*window.shape, *source.shape[3:]) if has_pixels else ()
        shape = (source.shape[0], *tail)
        array = create_array(patch, name, shape, (TIME_CHUNK, *tail), dtype)
        for start in range(0, source.shape[0], TIME_CHUNK):
            steps = slice(start, min(start + TIME_CHUNK, source.shape[0]))
            values = source[steps]
            if has_pixels:
                values = values[:, : window.height, : window.width]
            array[steps] = values.astype(dtype, copy=False)
