"""Import reference tile folders as the time series of a block, instead of scenes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ..block_file import create_array, create_block_file
from ..config.empty_block import OnEmptyBlock, handle_empty
from ..errors import TileError
from ..inference.tile import TILE_PIXEL_ARRAYS, TileArrays
from ..ingest.retile import TIME_CHUNK
from ..region.grid import Block, RegionGrid, Window, patch_name, tiling
from ..region.mask import read_mask
from .format import DTYPES, ROI_FILE, read_tile_folder
from .placement import Placed, Shift, check_shifts, find_tiles, label_shift, match_patches

log = logging.getLogger(__name__)

_SHOWN = 5


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
    patches = [
        Window(extent.y0 + patch.y0, extent.x0 + patch.x0, patch.height, patch.width)
        for patch in tiling(*extent.shape, patch_size)
    ]
    found, unnamed = find_tiles(location, extent)
    if unnamed:
        log.warning(
            "%s: %d folders with arrays are not used, because their names are not of the form "
            "x0_y0_x1_y1 (%s)", location, len(unnamed), ", ".join(unnamed[:_SHOWN]),
        )  # fmt: skip
    tiles = match_patches(found, patches, grid, patch_size)
    _report_missing(expected, tiles, grid, location, block, on_empty_block)
    windows = [window for window in expected if window in tiles]
    shifts = {tiles[window].folder: label_shift(tiles[window], grid) for window in windows}
    _report_shift(check_shifts(shifts, grid, location), shifts, grid, block)
    attributes = {
        "shape": list(inside.shape),
        "patch_size": patch_size,
        "patches": [[w.y0 - extent.y0, w.x0 - extent.x0, w.height, w.width] for w in windows],
    }
    errors = []
    with create_block_file(output, attributes) as target:
        for window in windows:
            try:
                tile = read_tile_folder(tiles[window].folder)
                used = _used_window(tiles[window], tile, grid, patch_size)
            except TileError as error:
                errors.append(error)
                continue
            in_block = Window(window.y0 - extent.y0, window.x0 - extent.x0, *window.shape)
            patch = target.create_group(patch_name(in_block))
            _write_patch(patch, tile, inside[in_block.slices], used)
            log.info("tile %s read", tiles[window].folder.name)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            listed = "\n".join(f"- {error}" for error in errors)
            raise TileError(f"{len(errors)} tiles of block {block.id} cannot be used.\n{listed}")


def _report_missing(
    expected: list[Window],
    tiles: Mapping[Window, Placed],
    grid: RegionGrid,
    location: Path,
    block: Block,
    on_empty_block: OnEmptyBlock,
) -> None:
    """Report patches without a tile, and rows and columns that the tiles at the edge lack."""
    height, width = grid.product_geobox.shape
    short, missing = [], []
    for window in expected:
        if window in tiles:
            if tiles[window].window != window:
                short.append(window)
        elif (window.width == 1 and window.x0 == width - 1) or (
            window.height == 1 and window.y0 == height - 1
        ):
            short.append(window)
        else:
            missing.append(window)
    if short:
        log.warning(
            "Block %s: the tiles of %d patches lack the last column or row of this region's grid "
            "of %d x %d px: it has no data there.", block.id, len(short), width, height,
        )  # fmt: skip
    if missing:
        first = missing[0]
        message = (
            f"Block {block.id}: {len(missing)} of its patches have no tile folder in {location}, "
            f"the first one at column {first.x0}, row {first.y0}"
        )
        handle_empty(on_empty_block, message, "copy or make it", TileError, unit="patches")


def _report_shift(
    shift: Shift | None, shifts: Mapping[Path, Shift | None], grid: RegionGrid, block: Block
) -> None:
    unknown = [folder.name for folder, value in shifts.items() if value is None]
    if unknown:
        log.warning(
            "Block %s: %d tiles state no position (%s without CRS or missing; first tile %s): used "
            "as their names state.", block.id, len(unknown), ROI_FILE, unknown[0],
        )  # fmt: skip
    if shift is not None:
        log.warning(
            "Block %s: the positions in %s are %.3f units right of and %.3f below the pixels, "
            "which are on multiples of the pixel size (the published pipeline labels its tiles "
            "with the bounds of the region's shape). The product has the position of the pixels.",
            block.id, ROI_FILE, *shift,
        )  # fmt: skip


def _used_window(placed: Placed, tile: TileArrays, grid: RegionGrid, patch_size: int) -> Window:
    """Return the pixels that a tile has. At the lower and right edge of the region its arrays may
    lack the last row and column of the window in its name.

    Raises:
        TileError: it is smaller, or has pixels of the region beyond the window.
    """
    window = placed.window
    height, width = tile.shape
    bottom, right = (int(n) for n in grid.product_geobox.shape)
    short = Window(
        window.y0,
        window.x0,
        window.height - (height == window.height - 1 and window.y0 + window.height == bottom),
        window.width - (width == window.width - 1 and window.x0 + window.width == right),
    )
    if short != window and 0 not in short.shape:
        log.warning(
            "The tile %s has %d x %d pixels, but its name states %d x %d: the last row or column "
            "has no data.", placed.folder.name, height, width, window.height, window.width,
        )  # fmt: skip
        window = short
    if height < window.height or width < window.width or max(tile.shape) > patch_size:
        raise TileError(
            f"The tile {placed.folder} has {height} x {width} pixels, but its name states "
            f"{window.height} x {window.width}, or padded {patch_size} x {patch_size}: copy or "
            "make it again."
        )
    used = (tile.masks if tile.roi is None else tile.roi[np.newaxis]) != 0
    if used[:, window.height :].any() or used[:, :, window.width :].any():
        raise TileError(
            f"The tile {placed.folder} has {height} x {width} pixels, of which some outside the "
            f"{window.height} x {window.width} that its name states are used: correct its name, or "
            "make it again."
        )
    return window


def _write_patch(
    patch: zarr.Group, tile: TileArrays, inside: NDArray[np.bool_], window: Window
) -> None:
    """Write the arrays of a tile; pixels of the patch outside the tile's window are 0."""
    height, width = window.shape
    roi = np.zeros(inside.shape, np.uint8)
    roi[:height, :width] = inside[:height, :width]
    if tile.roi is not None:
        roi[:height, :width] *= tile.roi[:height, :width] > 0
    create_array(patch, "roi", roi.shape, roi.shape, np.uint8)[:] = roi
    for name, dtype in DTYPES.items():
        source: NDArray[Any] = getattr(tile, name)
        has_pixels = name in TILE_PIXEL_ARRAYS
        tail = (*inside.shape, *source.shape[3:]) if has_pixels else ()
        array = create_array(patch, name, (source.shape[0], *tail), (TIME_CHUNK, *tail), dtype)
        for start in range(0, source.shape[0], TIME_CHUNK):
            steps = slice(start, min(start + TIME_CHUNK, source.shape[0]))
            values = source[steps]
            if has_pixels:
                padded = np.zeros((values.shape[0], *tail), dtype)
                padded[:, :height, :width] = values[:, :height, :width]
                values = padded
            array[steps] = values.astype(dtype, copy=False)
