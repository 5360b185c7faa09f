"""A picture of the blocks over their region: which are done, left, failed, for a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from .atomic import atomic_output
from .grid import RegionGrid

COLOURS = {
    "done": (63, 138, 83),
    "cpu": (176, 196, 222),
    "gpu": (240, 190, 110),
    "failed": (196, 60, 50),
}
_NOTHING = (255, 255, 255)
_LINE = (90, 90, 90)
_CELL = 12
"""Edge of a block in the picture, in pixels."""
_LARGEST = 2400


def draw_blocks(grid: RegionGrid, states: Mapping[str, str], output: Path) -> None:
    """Write the picture of one region.

    Args:
        grid: the region's grid.
        states: for each block a key of `COLOURS`.
        output: PNG file; north is up, a block is a square.

    Raises:
        OutputError: the file cannot be written.
    """
    height, width = grid.geobox.shape
    rows, columns = -(-height // grid.block_size), -(-width // grid.block_size)
    cell = max(2, min(_CELL, _LARGEST // max(rows, columns)))
    picture: NDArray[np.uint8] = np.empty((rows * cell + 1, columns * cell + 1, 3), np.uint8)
    picture[:] = _NOTHING
    for block in grid.blocks:
        y = block.window.y0 // grid.block_size * cell
        x = block.window.x0 // grid.block_size * cell
        picture[y : y + cell + 1, x : x + cell + 1] = _LINE
        picture[y + 1 : y + cell, x + 1 : x + cell] = COLOURS[states[block.id]]
    with atomic_output(output) as part, rasterio.open(
        part, "w", driver="PNG", height=picture.shape[0], width=picture.shape[1], count=3,
        dtype="uint8",
    ) as target:  # fmt: skip
        target.write(np.moveaxis(picture, 2, 0))
