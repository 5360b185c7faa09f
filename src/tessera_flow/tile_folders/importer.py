"""Reference tile folders as the time series of a block, in place of scenes."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ..block_file import create_array, create_block_file
from ..errors import TileError
from ..inference.tile import ROI_FILE, TILE_PIXEL_ARRAYS, TileArrays, read_tile_folder
from ..ingest.retile import TIME_CHUNK
from ..region.grid import Block, RegionGrid, Window, crop, tiling
from ..region.mask import read_mask

log = logging.getLogger(__name__)

_PLACE = re.compile(r"(\d+)_(\d+)_(\d+)_(\d+)")
# As a file of patches has them, in the order in which it has them.
_DTYPES: dict[str, type[np.generic]] = {
    "bands": np.uint16,
    "masks": np.uint8,
    "doys": np.uint16,
    "sar_ascending": np.int16,
    "sar_ascending_doy": np.int16,
    "sar_descending": np.int16,
    "sar_descending_doy": np.int16,
}


def import_tiles(
    location: Path,
    grid: RegionGrid,
    block: Block,
    roi_path: Path,
    output: Path,
    patch_size: int,
    missing: Literal["fail", "nodata"] = "fail",
) -> None:
    """Write the patches of a block from tile folders that lie on the region's product grid.

    Args:
        location: the folder that holds the tile folders, `{x0}_{y0}_{x1}_{y1}` each.
        grid: the region's grid.
        block: the block.
        roi_path: the region's mask; a pixel is inside where it and the tile say so.
        output: block file, as `retile.retile` writes it.
        patch_size: edge of a patch, which is that of a tile.
        missing: whether it is an error that the region has a patch without a tile folder.

    Raises:
        TileError: a tile is missing, damaged, does not coincide with a patch, or lies
            elsewhere; or there is no such folder.
        OutputError: the output cannot be written.
    """
    inside = read_mask(roi_path, block.window)[0][:: grid.downsample_rate, :: grid.downsample_rate]
    place = grid.product_window(block)
    wanted = [
        Window(place.y0 + part.y0, place.x0 + part.x0, part.height, part.width)
        for part in tiling(*place.shape, patch_size)
        if inside[part.slices].any()
    ]
    found = _tiles_in(location, place)
    _check_places(found, wanted, place, patch_size)
    lacking = [window for window in wanted if window not in found]
    if lacking:
        _report_missing(lacking, location, block, missing)
    windows = [window for window in wanted if window in found]
    attributes = {
        "shape": list(inside.shape),
        "patch_size": patch_size,
        "patches": [[w.y0 - place.y0, w.x0 - place.x0, w.height, w.width] for w in windows],
    }
    with create_block_file(output, attributes) as target:
        for window in windows:
            folder = found[window]
            tile = read_tile_folder(folder)
            _check_tile(folder, tile, window, patch_size, grid)
            part = Window(window.y0 - place.y0, window.x0 - place.x0, *window.shape)
            patch = target.create_group(f"{part.y0}_{part.x0}")
            _write_patch(patch, tile, inside[part.slices], window)
            log.info("tile %s read", folder.name)


def _tiles_in(location: Path, place: Window) -> dict[Window, Path]:
    """Tile folders that overlap a window of the product grid, by their own window."""
    found = {}
    try:
        with os.scandir(location) as entries:
            for entry in entries:
                match = _PLACE.fullmatch(entry.name)
                if match is None or not entry.is_dir():
                    continue
                x0, y0, x1, y1 = (int(number) for number in match.groups())
                if (
                    place.x0 < x1
                    and x0 < place.x0 + place.width
                    and place.y0 < y1
                    and y0 < place.y0 + place.height
                ):
                    found[Window(y0, x0, y1 - y0, x1 - x0)] = Path(entry.path)
    except OSError as error:
        raise TileError(
            f"The tile folders in {location} cannot be listed ({error.strerror}): check "
            "tiles.location."
        ) from error
    return found


def _check_places(
    found: dict[Window, Path], wanted: list[Window], place: Window, patch_size: int
) -> None:
    patches = {
        Window(place.y0 + part.y0, place.x0 + part.x0, *part.shape)
        for part in tiling(*place.shape, patch_size)
    }
    for window, folder in found.items():
        if window not in patches:
            raise TileError(
                f"The tile {folder} covers {window.width} x {window.height} px from column "
                f"{window.x0}, row {window.y0}, which is no patch of {patch_size} px of this "
                "region's grid: set grid.patch_size to the edge of the tiles, grid.block_size to a "
                "multiple of it, and the region to the one that the tiles were made for."
            )


def _report_missing(lacking: list[Window], location: Path, block: Block, missing: str) -> None:
    first = lacking[0]
    message = (
        f"Block {block.id}: {len(lacking)} of its patches have no tile folder in {location}, the "
        f"first one at column {first.x0}, row {first.y0}"
    )
    if missing == "nodata":
        log.warning("%s; published without embeddings (download.on_empty_block: nodata).", message)
        return
    raise TileError(
        f"{message}: copy or make it, or set download.on_empty_block: nodata to publish such patches "
        "without embeddings."
    )


def _check_tile(
    folder: Path, tile: TileArrays, window: Window, patch_size: int, grid: RegionGrid
) -> None:
    """Raise where a tile is smaller than its name says, or lies elsewhere on the ground."""
    height, width = tile.shape
    if height < window.height or width < window.width or max(tile.shape) > patch_size:
        raise TileError(
            f"The tile {folder} has {height} x {width} pixels, but its name says "
            f"{window.height} x {window.width}, or padded {patch_size} x {patch_size}: copy or "
            "make it again."
        )
    path = folder / ROI_FILE
    if not path.exists():
        return
    try:
        with rasterio.open(path) as raster:
            crs, found = raster.crs, raster.transform
    except RasterioError as error:
        raise TileError(f"{path} cannot be read as a raster ({error}): copy it again.") from error
    if crs is None:
        return
    expected = crop(grid.product_geobox, Window(window.y0, window.x0, 1, 1)).affine
    pixel = abs(expected.a)
    shift = max(abs(found.c - expected.c), abs(found.f - expected.f))
    same_crs = rasterio.crs.CRS.from_user_input(str(grid.product_geobox.crs)) == crs
    if not same_crs or shift >= pixel:
        raise TileError(
            f"{path} begins at {found.c}, {found.f} in {crs}, but column {window.x0}, row "
            f"{window.y0} of this region's grid at {expected.c}, {expected.f} in "
            f"{grid.product_geobox.crs}: use the region (and regions.{grid.name}.align and crs) "
            "that the tiles were made for."
        )
    if shift > 0:
        log.warning(
            "%s is labelled %.3f units beside this region's grid, less than a pixel: taken as "
            "lying on it.",
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
    for name, dtype in _DTYPES.items():
        source: NDArray[Any] = getattr(tile, name)
        pixels = name in TILE_PIXEL_ARRAYS
        tail = (*window.shape, *source.shape[3:]) if pixels else ()
        shape = (source.shape[0], *tail)
        array = create_array(patch, name, shape, (TIME_CHUNK, *tail), dtype)
        for start in range(0, source.shape[0], TIME_CHUNK):
            some = slice(start, min(start + TIME_CHUNK, source.shape[0]))
            part = source[some, : window.height, : window.width] if pixels else source[some]
            array[some] = part.astype(dtype, copy=False)
