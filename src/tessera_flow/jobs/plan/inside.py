"""Sample which share of each block is inside the region."""

from __future__ import annotations

from affine import Affine
from odc.geo.geobox import GeoBox

from ...config.configuration import Config
from ...region.blocks import read_region
from ...region.grid import RegionGrid, Window
from ...region.mask import mask_reader

SAMPLES = 32
"""Samples along the edge of a block."""


def inside_shares(config: Config, grid: RegionGrid) -> dict[str, float]:
    """Return the share of each block of a region that is inside it, by the name of the block.

    Each block has samples on a regular grid; one that none of them hits has the share of one.

    Raises:
        RegionError: the region cannot be read.
    """
    size = grid.block_size
    height, width = (-(-edge // size) for edge in grid.geobox.shape)
    affine = grid.geobox.affine @ Affine.scale(size / SAMPLES)
    samples = GeoBox((height * SAMPLES, width * SAMPLES), affine, grid.geobox.crs)
    read = mask_reader(read_region(config, grid.name), samples)
    shares = {}
    for block in grid.blocks:
        window = block.window
        y0, x0 = window.y0 // size * SAMPLES, window.x0 // size * SAMPLES
        rows, columns = (-(-edge * SAMPLES // size) for edge in window.shape)
        inside = read(Window(y0, x0, rows, columns))
        shares[block.id] = max(float(inside.mean()), 1 / inside.size)
    return shares
