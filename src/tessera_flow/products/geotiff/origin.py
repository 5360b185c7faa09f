"""Write which embeddings are published and which were computed, as a cloud-optimised GeoTIFF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...inference.block_embeddings import ORIGINS
from ...region.grid import RegionGrid
from ..blocks import RegionBlocks
from ..provenance import Provenance
from .writer import Placement, cog_writer

COLOURS = {0: (0, 0, 0, 0), 1: (33, 102, 172, 255), 2: (239, 138, 98, 255)}
"""(red, green, blue, alpha) by value: published is blue, computed is orange."""


def write_origin(
    output: Path, grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> None:
    """Write the origin of each embedding.

    Args:
        output: GeoTIFF of one uint8 band on the product grid with a colour table; values are the
            positions in `ORIGINS`: 0 no embedding, 1 published, 2 computed. The tag `MEANINGS`
            names them. Overviews hold values of single pixels.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to the GeoTIFF's tags.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the file cannot be written.
    """
    tags = {
        **provenance.tags(),
        "TIFFTAG_IMAGEDESCRIPTION": "Origin of the embeddings, "
        f"{provenance.region}, {provenance.period}",
        "MEANINGS": ", ".join(f"{value} {name}" for value, name in enumerate(ORIGINS)),
    }
    placement = Placement.of(grid)
    with (
        RegionBlocks(grid, blocks, provenance) as source,
        cog_writer(
            output, placement, "uint8", ["origin"], tags, nodata=0, colours=COLOURS
        ) as write,
    ):
        for block_id, inside, window in source.pieces():
            write(window, source.read(block_id, "origin", inside)[None])
