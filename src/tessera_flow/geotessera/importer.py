"""Published embeddings as the embeddings of a block, in place of inference.

A pixel is taken from the tile in whose cell of 0.1 degree its centre lies; where that tile has
no such pixel, or no embedding there, from the first other one, by latitude and longitude, that
has. It is the pixel of the tile in which the centre lies: on a grid of the same CRS and
lattice a copy, elsewhere the nearest neighbour, its codes and its scale together. Nothing
depends on the division into blocks.
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
from ..errors import TileError
from ..inference.block_embeddings import create_outputs
from ..models.quantize import dequantize
from ..region.grid import Block, RegionGrid, Window, tiling
from ..region.mask import read_mask
from . import STORE_DIM
from .client import Store, StoreFiles, open_client, tile_bounds
from .lists import write_lists
from .manifest import StoredTile, StoreManifest

log = logging.getLogger(__name__)

LARGEST_SCALE = 1000.0
"""Real scales are far below 1; some published files have huge ones where there is nothing."""


def import_embeddings(
    store: Store,
    manifest: StoreManifest,
    grid: RegionGrid,
    block: Block,
    roi_path: Path,
    output: Path,
    patch_size: int,
    dtype: Literal["int8", "float32"] = "int8",
    missing: Literal["fail", "nodata"] = "fail",
) -> None:
    """Write the embeddings of a block from the tiles of a store.

    Args:
        store: the store.
        manifest: its tiles, as the region has them.
        grid: the region's grid.
        block: the block.
        roi_path: the region's mask.
        output: block file with `embeddings` (H, W, 128) and, for int8, `scales` (H, W); without
            counts, which a store does not have.
        patch_size: edge of what is in memory at once, and of a stored chunk.
        dtype: `int8` takes codes and scales as they are, `float32` their product.
        missing: whether it is an error that no tile covers a pixel of the block.

    Raises:
        ConfigError: the client is not installed.
        TileError: no tile covers the block, or one is damaged or not as listed.
        ReadError: a tile cannot be downloaded.
        OutputError: the output, or what is downloaded, cannot be written.
    """
    rate = grid.downsample_rate
    inside = read_mask(roi_path, block.window)[0][::rate, ::rate]
    place = grid.product_window(block)
    with tempfile.TemporaryDirectory() as folder:
        write_lists(Path(folder), [_row(tile) for tile in manifest.tiles], manifest.year)
        client = open_client(store, lists=Path(folder))
        source = _Pixels(StoreFiles(store, client, manifest.year), manifest, grid)
        attributes: dict[str, Any] = {"block": block.id, "dataset": manifest.dataset}
        with create_block_file(output, attributes) as target:
            arrays = create_outputs(target, place.shape, patch_size, STORE_DIM, dtype, counts=False)
            for part in tiling(*place.shape, patch_size):
                wanted = inside[part.slices]
                if not wanted.any():
                    continue
                window = Window(place.y0 + part.y0, place.x0 + part.x0, *part.shape)
                codes, scales = source.take(window, wanted)
                if dtype == "int8":
                    arrays["embeddings"][part.slices] = codes
                    arrays["scales"][part.slices] = scales
                else:
                    arrays["embeddings"][part.slices] = dequantize(codes, scales)
            if not source.used:
                _report_empty(block, manifest, missing)
            target.attrs["tiles"] = sorted(source.used)
    for name in sorted(source.used):
        log.info("tile %s: %s", name, source.used[name])


def _report_empty(block: Block, manifest: StoreManifest, missing: str) -> None:
    message = f"Block {block.id}: no tile of {manifest.dataset} in {manifest.location} covers it"
    if missing == "nodata":
        log.warning("%s; published without embeddings (download.on_empty_block: nodata).", message)
        return
    raise TileError(
        f"{message}: make the region smaller, or set download.on_empty_block: nodata to publish such "
        "blocks without embeddings."
    )


def _row(tile: StoredTile) -> dict[str, Any]:
    """A row of the client's lists."""
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
    """A tile that touches a window of the region, opened when a pixel of it is taken."""

    stored: StoredTile
    bounds: tuple[float, float, float, float]
    to_tile: Transformer | None
    arrays: tuple[NDArray[np.int8], NDArray[np.float32]] | None = None

    def locate(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """(row, column) of the pixel that holds each point, and whether there is one."""
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
        used: how each tile was read of which a pixel was looked at, by name.
    """

    def __init__(self, files: StoreFiles, manifest: StoreManifest, grid: RegionGrid) -> None:
        self.used: dict[str, str] = {}
        self._files = files
        self._grid = grid
        here = CRS.from_user_input(str(grid.product_geobox.crs))
        self._to_lonlat = Transformer.from_crs(here, "EPSG:4326", always_xy=True)
        self._tiles = []
        for tile in manifest.tiles:
            there = CRS.from_user_input(tile.crs)
            move = None if there == here else Transformer.from_crs(here, there, always_xy=True)
            self._tiles.append(_Tile(tile, tile_bounds(tile, grid), move))

    def take(
        self, window: Window, wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Codes (h, w, 128) and scales (h, w) of a window of the product grid; 0 and NaN where
        `wanted` (h, w) is false or no tile has an embedding."""
        codes = np.zeros((*window.shape, STORE_DIM), np.int8)
        scales = np.full(window.shape, np.nan, np.float32)
        rows, columns = np.nonzero(wanted)
        # Affine's annotations know numbers only; arrays work the same.
        place: Any = (window.x0 + columns + 0.5, window.y0 + rows + 0.5)
        x, y = self._grid.product_geobox.affine @ place
        lon, lat = self._to_lonlat.transform(x, y)
        cell = np.floor(np.stack([lon, lat]) * 10).astype(np.int64) * 10 + 5
        near = [tile for tile in self._tiles if _holds_any(tile.bounds, x, y)]
        open_ = np.ones(len(rows), bool)
        for own in (True, False):
            for tile in near:
                if not open_.any():
                    break
                its = (cell[0] == tile.stored.lon) & (cell[1] == tile.stored.lat)
                chosen = np.flatnonzero(open_ & (its == own))
                row, column, within = tile.locate(x[chosen], y[chosen])
                chosen, row, column = chosen[within], row[within], column[within]
                if not len(chosen):
                    continue
                tile_codes, tile_scales = self._open(tile)
                found = tile_scales[row, column]
                with np.errstate(invalid="ignore"):
                    valid = (found > 0) & (found < LARGEST_SCALE)
                chosen, row, column = chosen[valid], row[valid], column[valid]
                scales[rows[chosen], columns[chosen]] = found[valid]
                codes[rows[chosen], columns[chosen]] = tile_codes[row, column]
                open_[chosen] = False
        return codes, scales

    def _open(self, tile: _Tile) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Memory maps of a tile's codes and scales."""
        if tile.arrays is None:
            stored = tile.stored
            codes = _load(self._files.fetch(stored, "codes"), (*stored.shape, STORE_DIM), np.int8)
            scales = _load(self._files.fetch(stored, "scales"), stored.shape, np.float32)
            tile.arrays = codes, scales
            exact = stored.lies_on(self._grid)
            self.used[stored.name] = "copied" if exact else "nearest pixels"
        return tile.arrays


def _holds_any(
    bounds: tuple[float, float, float, float], x: NDArray[np.float64], y: NDArray[np.float64]
) -> bool:
    left, bottom, right, top = bounds
    return bool(x.min() < right and x.max() > left and y.min() < top and y.max() > bottom)


def _load(path: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise TileError(
            f"The tile {path} cannot be read ({error}): delete it, or copy it again, and run again."
        ) from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise TileError(
            f"The tile {path} is {array.shape} {array.dtype}, but its land mask and the layout say "
            f"{shape} {np.dtype(dtype)}: get the tile again, or use another store."
        )
    return array
