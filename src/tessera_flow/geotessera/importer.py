"""Import published embeddings as the embeddings of a block, instead of inference."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..block_file import create_array, create_block_file
from ..config.empty_block import OnEmptyBlock, handle_empty
from ..errors import TileError
from ..inference.block_embeddings import create_outputs
from ..models.quantize import dequantize
from ..region.grid import Block, RegionGrid, Window, tiling
from ..region.mask import read_mask
from ..region.needed import HOLES, NOT_NEEDED
from . import STORE_DIM
from .listing import open_listed
from .manifest import StoreManifest
from .pixels import Pixels
from .stores import Store

log = logging.getLogger(__name__)


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
    filled: bool = False,
) -> None:
    """Write the embeddings of a block from a store.

    Args:
        store: the store.
        manifest: its parts that overlap the region.
        grid: the region's grid.
        block: the block.
        roi_path: the region's mask.
        output: block file with `embeddings` (H, W, 128) and, for int8, `scales` (H, W); without
            counts, which a store does not have.
        patch_size: edge of a window that is processed at once, and of a stored chunk.
        dtype: `int8` for unchanged codes and scales, `float32` for their product.
        on_empty_block: `fail` if a block without any embedding is an error, else `nodata`.
        filled: whether what is missing will be computed: the output also has `holes` (H, W) uint8,
            or is marked as `region.needed.NOT_NEEDED`, and no block is an error.

    Raises:
        TileError: the block has no embedding, or a file is damaged or differs from the list.
        ItemError: the store has changed since it was listed.
        ReadError: the store cannot be read.
        OutputError: the output cannot be written.
    """
    rate = grid.downsample_rate
    inside = read_mask(roi_path, block.window)[0][::rate, ::rate]
    extent = grid.product_window(block)
    attributes: dict[str, Any] = {"block": block.id, "dataset": manifest.dataset}
    with (
        open_listed(store, manifest, grid) as parts,
        create_block_file(output, attributes) as target,
    ):
        source, missing = Pixels(parts, grid), np.zeros(extent.shape, np.uint8)
        arrays = create_outputs(target, extent.shape, patch_size, STORE_DIM, dtype, counts=False)
        for patch in tiling(*extent.shape, patch_size):
            mask = inside[patch.slices]
            if not mask.any():
                continue
            window = Window(extent.y0 + patch.y0, extent.x0 + patch.x0, *patch.shape)
            codes, scales = source.read(window, mask)
            missing[patch.slices] = mask & np.isnan(scales)
            if dtype == "int8":
                arrays["embeddings"][patch.slices] = codes
                arrays["scales"][patch.slices] = scales
            else:
                arrays["embeddings"][patch.slices] = dequantize(codes, scales)
        if not source.used and not filled:
            _report_empty(block, manifest, on_empty_block)
        target.attrs["tiles"] = sorted(source.used)
        target.attrs["without_codes"] = source.without_codes
        target.attrs["impossible_scales"] = source.impossible_scales
        if filled:
            target.attrs["patch_size"], target.attrs["downsample_rate"] = patch_size, rate
            target.attrs[NOT_NEEDED] = not missing.any()
            chunk = (patch_size, patch_size)
            create_array(target, HOLES, missing.shape, chunk, np.uint8)[:] = missing
            log.info("%d pixels of the region are not published", missing.sum())
    for name in sorted(source.used):
        log.info("%s %s: %s", manifest.unit, name, source.used[name])
    if source.without_codes:
        log.warning(
            "%d pixels of block %s are left out: the store has scales there, but no codes",
            source.without_codes,
            block.id,
        )
    if source.impossible_scales:
        log.warning(
            "%d pixels of block %s are left out: their scales are not those of an embedding",
            source.impossible_scales,
            block.id,
        )


def _report_empty(block: Block, manifest: StoreManifest, on_empty_block: OnEmptyBlock) -> None:
    message = (
        f"Block {block.id}: no {manifest.unit} of {manifest.dataset} in {manifest.location} has an "
        "embedding there"
    )
    handle_empty(on_empty_block, message, "make the region smaller", TileError)
