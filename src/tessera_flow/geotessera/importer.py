"""Import published embeddings as the embeddings of a block, instead of inference.

The embedding of a pixel comes from the tile whose cell of 0.1 degree contains its centre. If
that tile has no embedding there, it comes from the first other tile, by latitude and longitude,
that has one. Codes and scale are those of the tile's pixel that contains the centre: a copy if
the tile is aligned with the region's grid, else the nearest neighbour. The result does not
depend on the division into blocks.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from ..block_file import create_block_file
from ..config.empty_block import OnEmptyBlock, handle_empty
from ..errors import TileError
from ..inference.block_embeddings import create_outputs
from ..models.quantize import dequantize
from ..npy_file import open_array
from ..region.grid import Block, RegionGrid, Window, tiling
from ..region.mask import read_mask
from . import STORE_DIM
from .client import Store, StoreFiles, open_client, tile_bounds
from .lists import write_lists
from .manifest import StoredTile, StoreManifest

log = logging.getLogger(__name__)

LARGEST_SCALE = 1000.0
"""Valid scales are far below 1; some published files have huge ones without an embedding."""


def import_embeddings(
    store: Store,
    manifest: StoreManifest,
    grid: RegionGrid,
    block: Block,
    roi_path: Path,
    output: Path,
    patch_size: int,
    dtype: Literal["int8", "float32"] = "int8",
    on_empty_block: OnEmptyBlock = "fail",
) -> None:
    """Write the embeddings of a block from the tiles of a store.

    Args:
        store: the store.
        manifest: its tiles that overlap the region.
        grid: the region's grid.
        block: the block.
        roi_path: the region's mask.
        output: block file with `embeddings` (H, W, 128) and, for int8, `scales` (H, W); without
            counts, which a store does not have.
        patch_size: edge of a window that is processed at once, and of a stored chunk.
        dtype: `int8` for unchanged codes and scales, `float32` for their product.
        on_empty_block: `fail` if a block without any tile is an error, else `nodata`.

    Raises:
        ConfigError: the client is not installed.
        TileError: no tile covers the block, or one is damaged or differs from the list.
        ReadError: a tile cannot be downloaded.
        OutputError: the output or a download cannot be written.
    """
    rate = grid.downsample_rate
    inside = read_mask(roi_path, block.window)[0][::rate, ::rate]
    extent = grid.product_window(block)
    with tempfile.TemporaryDirectory() as folder:
        write_lists(Path(folder), [_row(tile) for tile in manifest.tiles], manifest.year)
        client = open_client(store, lists=Path(folder))
        source = _Pixels(StoreFiles(store, client, manifest.year), manifest, grid)
        attributes: dict[str, Any] = {"block": block.id, "dataset": manifest.dataset}
        with create_block_file(output, attributes) as target:
            arrays = create_outputs(
                target, extent.shape, patch_size, STORE_DIM, dtype, counts=False
            )
            for patch in tiling(*extent.shape, patch_size):
                mask = inside[patch.slices]
                if not mask.any():
                    continue
                window = Window(extent.y0 + patch.y0, extent.x0 + patch.x0, *patch.shape)
                codes, scales = source.read(window, mask)
                if dtype == "int8":
                    arrays["embeddings"][patch.slices] = codes
                    arrays["scales"][patch.slices] = scales
                else:
                    arrays["embeddings"][patch.slices] = dequantize(codes, scales)
            if not source.used:
                _report_empty(block, manifest, on_empty_block)
            target.attrs["tiles"] = sorted(source.used)
    for name in sorted(source.used):
        log.info("tile %s: %s", name, source.used[name])


def _report_empty(block: Block, manifest: StoreManifest, on_empty_block: OnEmptyBlock) -> None:
    message = f"Block {block.id}: no tile of {manifest.dataset} in {manifest.location} covers it"
    handle_empty(on_empty_block, message, "make the region smaller", TileError)


def _row(tile: StoredTile) -> dict[str, Any]:
    """Return a row of the client's lists."""
    return {
        "lon": tile.lon,
        "lat": tile.lat,
        "hash": tile.sha256.get("codes"),
        "scales_hash": tile.sha256.get("scales"),
        "landmask_hash": tile.sha256.get("landmask"),
        "file_size": tile.sizes.get("codes"),
        "scales_size": tile.sizes.get("scales"),
        "landmask_size": tile.sizes.get("landmask"),
    }


@dataclass
class _Tile:
    """A tile that overlaps the region, opened when one of its pixels is read."""

    stored: StoredTile
    bounds: tuple[float, float, float, float]
    to_tile: Transformer | None
    arrays: tuple[NDArray[np.int8], NDArray[np.float32]] | None = None

    def locate(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """Return (row, column) of the pixel that contains each point, and whether it exists."""
        if self.to_tile is not None:
            x, y = self.to_tile.transform(x, y)
        column, row = (np.floor(v) for v in ~self.stored.affine @ (x, y))
        height, width = self.stored.shape
        within = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        row, column = np.where(within, row, 0), np.where(within, column, 0)
        return row.astype(np.intp), column.astype(np.intp), within


class _Pixels:
    """The pixels of the region's product grid, from the tiles of a store.

    Attributes:
        used: by name of each tile that was read: `copied` or `nearest pixels`.
    """

    def __init__(self, files: StoreFiles, manifest: StoreManifest, grid: RegionGrid) -> None:
        self.used: dict[str, str] = {}
        self._files = files
        self._grid = grid
        grid_crs = CRS.from_user_input(str(grid.product_geobox.crs))
        self._to_lonlat = Transformer.from_crs(grid_crs, "EPSG:4326", always_xy=True)
        self._tiles = []
        for tile in manifest.tiles:
            tile_crs = CRS.from_user_input(tile.crs)
            to_tile = None
            if tile_crs != grid_crs:
                to_tile = Transformer.from_crs(grid_crs, tile_crs, always_xy=True)
            self._tiles.append(_Tile(tile, tile_bounds(tile, grid), to_tile))

    def read(
        self, window: Window, mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return codes (h, w, 128) and scales (h, w) of a window of the product grid; 0 and NaN
        where `mask` (h, w) is false or no tile has an embedding."""
        codes = np.zeros((*window.shape, STORE_DIM), np.int8)
        scales = np.full(window.shape, np.nan, np.float32)
        rows, columns = np.nonzero(mask)
        # Affine is annotated for numbers only, but accepts arrays.
        centres: Any = (window.x0 + columns + 0.5, window.y0 + rows + 0.5)
        x, y = self._grid.product_geobox.affine @ centres
        lon, lat = self._to_lonlat.transform(x, y)
        cell = np.floor(np.stack([lon, lat]) * 10).astype(np.int64) * 10 + 5
        near = [tile for tile in self._tiles if _contains_any(tile.bounds, x, y)]
        remaining = np.ones(len(rows), bool)
        for in_cell in (True, False):  # first the tile of the pixel's cell, then the others
            for tile in near:
                if not remaining.any():
                    break
                of_tile = (cell[0] == tile.stored.lon) & (cell[1] == tile.stored.lat)
                index = np.flatnonzero(remaining & (of_tile == in_cell))
                row, column, within = tile.locate(x[index], y[index])
                index, row, column = index[within], row[within], column[within]
                if not len(index):
                    continue
                tile_codes, tile_scales = self._open(tile)
                values = tile_scales[row, column]
                with np.errstate(invalid="ignore"):
                    valid = (values > 0) & (values < LARGEST_SCALE)
                index, row, column = index[valid], row[valid], column[valid]
                scales[rows[index], columns[index]] = values[valid]
                codes[rows[index], columns[index]] = tile_codes[row, column]
                remaining[index] = False
        return codes, scales

    def _open(self, tile: _Tile) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return memory maps of a tile's codes and scales."""
        if tile.arrays is None:
            stored = tile.stored
            codes = _load(self._files.fetch(stored, "codes"), (*stored.shape, STORE_DIM), np.int8)
            scales = _load(self._files.fetch(stored, "scales"), stored.shape, np.float32)
            tile.arrays = codes, scales
            aligned = stored.is_aligned(self._grid)
            self.used[stored.name] = "copied" if aligned else "nearest pixels"
        return tile.arrays


def _contains_any(
    bounds: tuple[float, float, float, float], x: NDArray[np.float64], y: NDArray[np.float64]
) -> bool:
    left, bottom, right, top = bounds
    return bool(x.min() < right and x.max() > left and y.min() < top and y.max() > bottom)


def _load(path: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    try:
        array = open_array(path)
    except (OSError, ValueError, EOFError) as error:
        raise TileError(
            f"The tile {path} cannot be read ({error}): delete it, or copy it again, and run again."
        ) from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise TileError(
            f"The tile {path} is {array.shape} {array.dtype}, but its land mask requires "
            f"{shape} {np.dtype(dtype)}: get the tile again, or use another store."
        )
    return array
