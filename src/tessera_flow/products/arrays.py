"""Write the stitched arrays of the published pipeline: one .npy file each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_output
from ..npy_file import allocate, put
from ..region.grid import RegionGrid, Window
from .blocks import COUNT_KINDS, WINDOW_BYTES, RegionBlocks
from .provenance import Provenance


def write_arrays(
    output_representation: Path,
    output_scales: Path | None,
    output_counts: Path | None,
    output_provenance: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
) -> None:
    """Write the complete region as plain NumPy arrays on the product grid, rows from the north.

    Args:
        output_representation: (H, W, K) int8 or float32; int8 code 0 or NaN is nodata.
        output_scales: (H, W) float32, NaN is nodata; required for int8, None for float32. If
            None, an old `*_scales.npy` beside the representation is deleted, because it does
            not belong to the new arrays. The same holds for the counts.
        output_counts: (H, W, 3) uint16: valid S2, S1 ascending, S1 descending steps; None for
            published embeddings, whose counts are not known.
        output_provenance: JSON file with the record, because .npy files hold no metadata.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to the JSON file.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: a file cannot be written.
        ValueError: `output_scales` does not match the data type of the blocks, or
            `output_counts` is given for blocks without counts (or the reverse).
    """
    with RegionBlocks(grid, blocks, provenance) as source, ExitStack() as stack:
        if source.quantised != (output_scales is not None):
            raise ValueError(f"output_scales is {output_scales} for {source.dtype} embeddings")
        if source.counted != (output_counts is not None):
            raise ValueError(f"output_counts is {output_counts}, but counted: {source.counted}")
        targets = {"embeddings": output_representation}
        if output_counts is not None:
            targets["counts"] = output_counts
        if output_scales is not None:
            targets["scales"] = output_scales
        for name, target in targets.items():
            _write_array(stack.enter_context(atomic_output(target)), source, name)
        document = provenance.to_json() | {
            "arrays": {target.name: _describe(source, name) for name, target in targets.items()}
        }
        temporary = stack.enter_context(atomic_output(output_provenance))
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for name, output in (("scales", output_scales), ("counts", output_counts)):
        if output is None:
            old = output_representation.with_name(f"{output_representation.stem}_{name}.npy")
            old.unlink(missing_ok=True)


def _describe(source: RegionBlocks, name: str) -> dict[str, Any]:
    nodata = source.nodata(name)
    description: dict[str, Any] = {
        "shape": [*source.shape, *source.trailing(name)],
        "dtype": str(source.array_dtype(name)),
    }
    if name == "counts":
        description["last_axis"] = list(COUNT_KINDS)
    else:
        description["nodata"] = "NaN" if np.isnan(nodata) else nodata
    return description


def _write_array(path: Path, source: RegionBlocks, name: str) -> None:
    allocate(path, source.shape + source.trailing(name), source.array_dtype(name))
    nodata = source.nodata(name)
    if nodata != 0:
        for cell in source.empty_cells():
            rows = max(1, WINDOW_BYTES // (cell.width * source.pixel_bytes(name)))
            for y0 in range(cell.y0, cell.y0 + cell.height, rows):
                height = min(rows, cell.y0 + cell.height - y0)
                put(path, Window(y0, cell.x0, height, cell.width).slices, nodata)
    for block_id, inside, window in source.pieces():
        put(path, window.slices, source.read(block_id, name, inside))
