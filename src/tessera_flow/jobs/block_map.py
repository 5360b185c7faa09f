"""Render a map of the blocks of a region by state: done, failed, for CPUs, for GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..atomic import atomic_output
from ..products.geotiff import open_raster
from ..region.grid import RegionGrid, Window
from ..region.mask import mask_reader
from ..region.roi import RasterRoi, VectorRoi

COLOURS = {
    "done": (63, 138, 83),
    "cpu": (176, 196, 222),
    "gpu": (240, 190, 110),
    "failed": (196, 60, 50),
}
LEGEND = (
    "Green: done. Blue: to do, on CPUs. Orange: to do, on GPUs. Red: failed. Pale: outside the "
    "region."
)
_WHITE = (255, 255, 255)
_LINE = (90, 90, 90)
_PALE = 0.3
"""Opacity of a block outside the region."""
_EDGE = 720
"""Target length of the longer edge in pixels, within the limits of the cell size."""
_SMALLEST_CELL, _LARGEST_CELL = 4, 120


def render_blocks(
    grid: RegionGrid, roi: VectorRoi | RasterRoi, states: Mapping[str, str], output: Path
) -> None:
    """Write the map of one region.

    A block is a square in the colour of its state, pale outside the region; north is up.

    Args:
        grid: the region's grid.
        roi: the region.
        states: for each block a key of `COLOURS`.
        output: PNG file.

    Raises:
        OutputError: the file cannot be written.
    """
    height, width = grid.geobox.shape
    rows, columns = -(-height // grid.block_size), -(-width // grid.block_size)
    cell = min(max(_EDGE // max(rows, columns), _SMALLEST_CELL), _LARGEST_CELL)
    image: NDArray[np.uint8] = np.empty((rows * cell + 1, columns * cell + 1, 3), np.uint8)
    image[:] = _WHITE
    read = mask_reader(roi, _points(grid, (rows * cell, columns * cell), cell))
    for block in grid.blocks:
        y = block.window.y0 // grid.block_size * cell
        x = block.window.x0 // grid.block_size * cell
        colour = np.array(COLOURS[states[block.id]], np.float64)
        pale = colour + (1 - _PALE) * (np.array(_WHITE) - colour)
        inside = read(Window(y, x, cell, cell))[..., None]
        image[y : y + cell + 1, x : x + cell + 1] = _LINE
        image[y + 1 : y + cell, x + 1 : x + cell] = np.where(inside, colour, pale)[1:, 1:]
    with atomic_output(output) as part, open_raster(
        part, "w", driver="PNG", height=image.shape[0], width=image.shape[1], count=3,
        dtype="uint8",
    ) as target:  # fmt: skip
        target.write(np.moveaxis(image, 2, 0))


def _points(grid: RegionGrid, shape: tuple[int, int], cell: int) -> GeoBox:
    """Return the grid of the image's pixels: `cell` per block, also for clipped blocks."""
    return GeoBox(shape, grid.geobox.affine @ Affine.scale(grid.block_size / cell), grid.geobox.crs)
