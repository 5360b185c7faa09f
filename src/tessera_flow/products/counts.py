"""Write the observation counts as a cloud-optimised GeoTIFF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..region.grid import RegionGrid, Window
from .blocks import COUNT_KINDS, RegionBlocks
from .geotiff import write_cog
from .provenance import Provenance


def write_counts(
    output: Path, grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> None:
    """Write the number of observations of each pixel's embedding.

    Args:
        output: cloud-optimised GeoTIFF on the product grid, uint16, one band for each of
            `COUNT_KINDS` (valid Sentinel-2, Sentinel-1 ascending, Sentinel-1 descending
            steps); 0 outside the region. Overviews hold counts of single pixels.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to the GeoTIFF's tags.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the file cannot be written.
    """
    tags = {
        **provenance.tags(),
        "TIFFTAG_IMAGEDESCRIPTION": "Valid observations per pixel (Sentinel-2, Sentinel-1 "
        f"ascending, Sentinel-1 descending), {provenance.region}, {provenance.period}",
    }
    with RegionBlocks(grid, blocks, provenance) as source:
        write_cog(output, grid, "uint16", COUNT_KINDS, tags, _pieces(source))


def _pieces(source: RegionBlocks) -> Iterator[tuple[Window, NDArray[Any]]]:
    for block_id, inside, window in source.pieces():
        counts = source.read(block_id, "counts", inside)
        yield window, np.ascontiguousarray(np.moveaxis(counts, -1, 0))
