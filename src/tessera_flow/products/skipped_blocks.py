"""Write products without blocks that failed: the file that replaces a block, and the list."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..atomic import write_text
from ..block_file import create_block_file
from ..inference.block_embeddings import create_outputs
from ..region.grid import RegionGrid, crop


def write_skipped_block(
    output: Path,
    shape: Sequence[int],
    patch_size: int,
    dim: int,
    dtype: str,
    counts: bool = True,
    months: int = 0,
    origin: bool = False,
) -> None:
    """Write an `embeddings` file in which no pixel has an embedding.

    Args:
        output: the file to write.
        shape: (H, W) of the block in the products.
        patch_size: edge of a stored chunk.
        dim, dtype: dimensions and type of the embeddings of the other blocks.
        counts: whether the other blocks have observation counts.
        months: months that the masks of the other blocks have bits for; 0 without masks.
        origin: whether the other blocks have the origin of their pixels.

    Raises:
        OutputError: the file cannot be written.
    """
    with create_block_file(output, {"skipped": True}) as group:
        create_outputs(group, (shape[0], shape[1]), patch_size, dim, dtype, counts, months, origin)


def write_skip_list(output: Path, grid: RegionGrid, reasons: Mapping[str, str]) -> None:
    """Write the list of blocks that the products are made without.

    Args:
        output: JSON file: `crs`, and as `skipped_blocks` a list of `block`, `bounds` (left,
            bottom, right, top in that CRS) and `reason`.
        grid: the region's grid.
        reasons: why each block was skipped, by block.

    Raises:
        OutputError: the file cannot be written.
    """
    entries = [
        {
            "block": block.id,
            "bounds": list(crop(grid.geobox, block.window).boundingbox.bbox),
            "reason": reasons[block.id],
        }
        for block in grid.blocks
        if block.id in reasons
    ]
    document = {"crs": grid.crs, "skipped_blocks": entries}
    write_text(output, json.dumps(document, indent=2) + "\n")
