"""Import reference tile folders as the time series of a block, instead of scenes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ..block_file import chunk_slices, create_array, create_block_file, create_series
from ..config.empty_block import OnEmptyBlock, handle_empty
from ..errors import TileError
from ..inference.tile import TILE_PIXEL_ARRAYS, TileArrays
from ..ingest.retile import TIME_CHUNK
from ..products.tile_facts import TILE_FACTS, TileFact, fact_about, merge_facts
from ..region.grid import Block, RegionGrid, Window, patch_name, tiling
from ..region.mask import read_mask
from .format import (
    DAYS,
    DTYPES,
    days_are_different,
    days_are_ordered,
    open_tile_folder,
    other_files,
)
from .placement import Found, Placed, Shift, check_shifts, find_tiles, label_shift, match_patches

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
        output: block file, as written by `retile.retile`, with the attribute `tile_facts` if there
            is something to state about the tiles (see `products.tile_facts`).
        patch_size: edge of a patch and of a tile.
        on_empty_block: `fail` if a patch without a tile folder is an error, else `nodata`.

    Raises:
        TileError: a tile is missing, damaged, does not coincide with a patch, or is
            elsewhere on the ground; or there is none for the region.
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
    found = _find(location, grid)
    tiles = match_patches(found.in_window(extent), patches, grid, patch_size)
    windows = [window for window in expected if window in tiles]
    unneeded = tiles.keys() - set(expected)
    facts = [
        *_lacking(expected, tiles, grid, location, block, on_empty_block),
        *fact_about("unneeded", [tiles[window].folder.name for window in unneeded]),
        *_positions([tiles[window] for window in windows], found, grid, location),
        *found.facts,
    ]
    attributes = {
        "shape": list(inside.shape),
        "patch_size": patch_size,
        "patches": [[w.y0 - extent.y0, w.x0 - extent.x0, w.height, w.width] for w in windows],
    }
    errors = []
    with create_block_file(output, attributes) as target:
        for window in windows:
            in_block = Window(window.y0 - extent.y0, window.x0 - extent.x0, *window.shape)
            try:
                facts += _import_tile(tiles[window], target, in_block, inside, grid, patch_size)
            except TileError as error:
                errors.append(error)
        _raise(errors, block)
        facts = merge_facts(facts)
        for fact in facts:
            log.warning("%s", fact.text)
        if facts:
            target.attrs[TILE_FACTS] = [fact.to_json() for fact in facts]


def _find(location: Path, grid: RegionGrid) -> Found:
    """Return the tile folders of the region; TileError if there is none."""
    found = find_tiles(location, grid)
    if not found.tiles:
        raise TileError(
            f"{location} has no tile folder of region {grid.name} (folders outside it: "
            f"{len(found.outside)}; folders with arrays and other names: {len(found.unnamed)}): "
            "set tiles.location to the folder that contains folders named x0_y0_x1_y1."
        )
    return found


def _import_tile(
    placed: Placed,
    target: zarr.Group,
    in_block: Window,
    inside: NDArray[np.bool_],
    grid: RegionGrid,
    patch_size: int,
) -> list[TileFact]:
    """Write the patch of one tile; return the facts about it.

    Raises:
        TileError: the tile cannot be used; nothing is written.
    """
    tile = open_tile_folder(placed.folder)
    used = _used_window(placed, tile, grid, patch_size)
    others = other_files(placed.folder)
    inside = inside[in_block.slices]
    roi = _write_patch(target.create_group(patch_name(in_block)), tile, inside, used)
    log.info("tile %s read", placed.folder.name)
    return [
        *_facts_of_tile(placed, tile, used, inside, roi),
        *fact_about("other_files", [placed.folder.name] if others else []),
    ]


def _raise(errors: list[TileError], block: Block) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = "\n".join(f"- {error}" for error in errors)
        raise TileError(f"{len(errors)} tiles of block {block.id} cannot be used.\n{listed}")


def _lacking(
    expected: list[Window],
    tiles: Mapping[Window, Placed],
    grid: RegionGrid,
    location: Path,
    block: Block,
    on_empty_block: OnEmptyBlock,
) -> list[TileFact]:
    """Return the facts about patches without a tile, and about those at the edge of the grid whose
    tile lacks the last row or column by its name.

    Raises:
        TileError: a patch has no tile, and `on_empty_block` is `fail`.
    """
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
    if missing:
        first = missing[0]
        message = (
            f"Block {block.id}: {len(missing)} of its patches have no tile folder in {location}, "
            f"the first one at column {first.x0}, row {first.y0}"
        )
        handle_empty(on_empty_block, message, "copy or make it", TileError, unit="patches")
    numbers = {"short": len(short), "missing": len(missing)}
    return [TileFact(kind, number) for kind, number in numbers.items() if number]


def _positions(
    tiles: list[Placed], found: Found, grid: RegionGrid, location: Path
) -> list[TileFact]:
    """Check that the pixels of the tiles are on the grid; return the facts about their labels.

    All blocks compare their tiles with the first one of the region, so that no block can have
    tiles of another shift.

    Raises:
        TileError: see `label_shift` and `check_shifts`.
    """
    shifts = {tile.folder: label_shift(tile, grid) for tile in tiles}
    first = found.tiles[0] if found.tiles else None
    reference: dict[Path, Shift | None] = {}
    if first is not None and tiles and first.folder not in shifts:
        with suppress(TileError):  # reported by its own block
            reference[first.folder] = label_shift(first, grid)
    shift = check_shifts(reference | shifts, grid, location)
    moved = [folder.name for folder, value in shifts.items() if shift and value is not None]
    unknown = [folder.name for folder, value in shifts.items() if value is None]
    return [*fact_about("moved", moved, shift), *fact_about("no_position", unknown)]


def _facts_of_tile(
    placed: Placed,
    tile: TileArrays,
    used: Window,
    inside: NDArray[np.bool_],
    roi: NDArray[np.uint8],
) -> list[TileFact]:
    """Return the facts about the content of a tile: days, missing rows, pixels outside its mask."""
    name = placed.folder.name
    days = [np.asarray(getattr(tile, key)) for key in DAYS]
    facts = []
    if used != placed.window:
        facts.append(TileFact("short", 1))
    height, width = used.shape
    if masked := int((inside & (roi == 0))[:height, :width].sum()):
        facts.append(TileFact("masked", masked, (name,)))
    if not all(map(days_are_ordered, days)):
        facts += fact_about("unordered", [name])
    if not all(map(days_are_different, days)):
        facts += fact_about("repeated", [name])
    return facts


def _used_window(placed: Placed, tile: TileArrays, grid: RegionGrid, patch_size: int) -> Window:
    """Return the pixels that a tile has. At the lower and right edge of the region its arrays may
    lack the last row and column of the window in its name.

    Raises:
        TileError: it is smaller, or has pixels of the region beyond the window.
    """
    stated = placed.window
    height, width = tile.shape
    bottom, right = (int(n) for n in grid.product_geobox.shape)
    window = Window(
        stated.y0,
        stated.x0,
        stated.height - (height == stated.height - 1 and stated.y0 + stated.height == bottom),
        stated.width - (width == stated.width - 1 and stated.x0 + stated.width == right),
    )
    if (
        height < window.height
        or width < window.width
        or 0 in window.shape
        or max(tile.shape) > patch_size
    ):
        raise TileError(
            f"The tile {placed.folder} has {height} x {width} pixels, but its name states "
            f"{stated.height} x {stated.width}, or padded {patch_size} x {patch_size}: copy or "
            "make it again."
        )
    if window != stated:
        log.info(
            "The tile %s has %d x %d pixels, but its name states %d x %d",
            placed.folder.name, height, width, stated.height, stated.width,
        )  # fmt: skip
    if _has_data_beyond(tile, window):
        raise TileError(
            f"The tile {placed.folder} has {height} x {width} pixels, of which some outside the "
            f"{window.height} x {window.width} that its name states have data: correct its name, "
            "or make it again."
        )
    return window


def _has_data_beyond(tile: TileArrays, window: Window) -> bool:
    """Return whether a tile has observations beyond its window, where it is padded.

    Arrays are padded with zeros. Of the retilers found in public code, one pads `roi.tiff` with
    zeros, too, and one writes 1 in every pixel of it. So 1 in the padding of `roi.tiff` means
    nothing by itself, but observations there contradict the name, unless `roi.tiff` is 0 in them.
    """
    for area in (np.s_[window.height :, :], np.s_[: window.height, window.width :]):
        beyond = np.zeros(tile.shape, bool)[area]
        for step in (*tile.masks, *tile.sar_ascending, *tile.sar_descending):
            part = step[area] != 0
            beyond |= part if part.ndim == 2 else part.any(axis=-1)
        if tile.roi is not None:
            beyond &= tile.roi[area] != 0
        if beyond.any():
            return True
    return False


def _write_patch(
    patch: zarr.Group, tile: TileArrays, inside: NDArray[np.bool_], window: Window
) -> NDArray[np.uint8]:
    """Write the arrays of a tile; pixels of the patch outside the tile's window are 0.

    Returns:
        The mask of the patch, (H, W), 1 where a pixel is inside the region and the tile's mask.
    """
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
        array = create_series(patch, name, (source.shape[0], *tail), (TIME_CHUNK, *tail), dtype)
        for dates in chunk_slices(array):
            values = source[dates]
            if has_pixels:
                padded = np.zeros((values.shape[0], *tail), dtype)
                padded[:, :height, :width] = values[:, :height, :width]
                values = padded
            array[dates] = values.astype(dtype, copy=False)
    return roi
