"""The pixel grid of a region and its division into blocks and patches.

The grid itself is one immutable `odc.geo.geobox.GeoBox`; this module only cuts it.
Every window is given in pixels, rows first, half-open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels: rows y0 .. y0+height, columns x0 .. x0+width."""

    y0: int
    x0: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns), to index the last or first two axes of an array."""
        return (
            slice(self.y0, self.y0 + self.height),
            slice(self.x0, self.x0 + self.width),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)"""
        return self.height, self.width

    def every(self, n: int) -> Window:
        """The same rectangle on the grid that keeps pixels 0, n, 2n, ... of this one.

        Raises:
            ValueError: the window does not begin on a kept pixel.
        """
        if self.y0 % n or self.x0 % n:
            raise ValueError(f"window {self} does not begin on a multiple of {n} pixels")
        return Window(self.y0 // n, self.x0 // n, -(-self.height // n), -(-self.width // n))


def tiling(height: int, width: int, size: int) -> Iterator[Window]:
    """Cut (height, width) into squares of `size`, row by row; the last ones are clipped."""
    for y0 in range(0, height, size):
        for x0 in range(0, width, size):
            yield Window(y0, x0, min(size, height - y0), min(size, width - x0))


def crop(geobox: GeoBox, window: Window) -> GeoBox:
    """The part of `geobox` that `window` covers."""
    rows, columns = window.slices
    return geobox[rows, columns]


def subsample(geobox: GeoBox, n: int) -> GeoBox:
    """The grid of pixels 0, n, 2n, ... of `geobox`; centres stay where they were.

    A kept pixel is drawn n times as wide around its own centre, so the origin moves up
    and left by half of n - 1 pixels.
    """
    if n == 1:
        return geobox
    height, width = geobox.shape
    shift = -(n - 1) / 2
    affine = geobox.affine @ Affine.translation(shift, shift) @ Affine.scale(n)
    return GeoBox((-(-height // n), -(-width // n)), affine, geobox.crs)


@dataclass(frozen=True)
class Block:
    """The unit of download, stacking, retiling and inference.

    Attributes:
        id: name of the block in file names, `b<row>_<column>` of the block grid.
        window: its place in the region's grid, in source pixels (before
            `downsample_rate`).
    """

    id: str
    window: Window


@dataclass(frozen=True)
class RegionGrid:
    """One region's grid, and the blocks of it that hold a pixel of the region.

    Attributes:
        name: the region's name in the configuration.
        geobox: the region's full grid at `resolution`.
        block_size: edge of a block in pixels of `geobox`.
        downsample_rate: keep every n-th pixel of `geobox` in the products.
        blocks: blocks with at least one pixel inside, row by row.
    """

    name: str
    geobox: GeoBox
    block_size: int
    downsample_rate: int
    blocks: tuple[Block, ...]

    @property
    def product_geobox(self) -> GeoBox:
        """The grid of stacks and products: `geobox` after `downsample_rate`."""
        return subsample(self.geobox, self.downsample_rate)

    def block(self, block_id: str) -> Block:
        """The block named `block_id`.

        Raises:
            KeyError: the region has no such block.
        """
        for block in self.blocks:
            if block.id == block_id:
                return block
        raise KeyError(f"region {self.name} has no block {block_id}")

    def product_window(self, block: Block) -> Window:
        """The block's place in `product_geobox`."""
        return block.window.every(self.downsample_rate)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that `from_json` reads back without loss."""
        return {
            "name": self.name,
            "crs": str(self.geobox.crs),
            "transform": list(self.geobox.affine)[:6],
            "shape": list(self.geobox.shape),
            "block_size": self.block_size,
            "downsample_rate": self.downsample_rate,
            "blocks": [
                [b.id, b.window.y0, b.window.x0, b.window.height, b.window.width]
                for b in self.blocks
            ],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RegionGrid:
        """Read what `to_json` wrote."""
        height, width = document["shape"]
        return cls(
            name=document["name"],
            geobox=GeoBox((height, width), Affine(*document["transform"]), document["crs"]),
            block_size=document["block_size"],
            downsample_rate=document["downsample_rate"],
            blocks=tuple(Block(name, Window(*numbers)) for name, *numbers in document["blocks"]),
        )


def block_id(row: int, column: int) -> str:
    """Name of the block at (row, column) of the block grid."""
    return f"b{row:03d}_{column:03d}"
