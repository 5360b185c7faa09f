"""Products with holes: what stands for a block that could not be computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..atomic import write_text
from ..block_file import create_block_file
from ..inference.block_embeddings import create_outputs
from ..region.grid import RegionGrid


def write_skipped_block(
    output: Path,
    shape: Sequence[int],
    patch_size: int,
    dim: int,
    dtype: str,
    counts: bool = True,
) -> None:
    """Write an `embeddings` file in which no pixel has an embedding.

    Args:
        output: the file to make.
        shape: (H, W) of the block in the products.
        patch_size: edge of a stored chunk.
        dim, dtype: dimensions and type of the embeddings of the other blocks.
        counts: whether the other blocks have observation counts.

    Raises:
        OutputError: the file cannot be written.
    """
    with create_block_file(output, {"hole": True}) as group:
        create_outputs(group, (shape[0], shape[1]), patch_size, dim, dtype, counts)


def write_skip_list(output: Path, grid: RegionGrid, holes: Mapping[str, str]) -> None:
    """Write which blocks the products were made without.

    Args:
        output: JSON file: a list of `block`, `bounds` (left, bottom, right, top in the CRS of
            the products) and `reason`.
        grid: the region's grid.
        holes: reasons by block.

    Raises:
        OutputError: the file cannot be written.
    """
    a, _, c, _, e, f = tuple(grid.geobox.affine)[:6]
    entries = []
    for block in grid.blocks:
        if block.id in holes:
            w = block.window
            left, top = c + a * w.x0, f + e * w.y0
            bounds = [left, top + e * w.height, left + a * w.width, top]
            entries.append({"block": block.id, "bounds": bounds, "reason": holes[block.id]})
    write_text(output, json.dumps({"crs": str(grid.geobox.crs), "holes": entries}, indent=2) + "\n")
