"""Divide the pixel grid of a region into blocks and patches.

The grid is one immutable `odc.geo.geobox.GeoBox`. Windows are in pixels, rows first, half-open.

odc-geo is imported when a GeoBox is first needed: the workflow is read again in every cluster job,
which needs names and windows of blocks only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        """Return (rows, columns) slices to index two axes of an array."""
        return (
            slice(self.y0, self.y0 + self.height),
            slice(self.x0, self.x0 + self.width),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.height, self.width

    def every(self, n: int) -> Window:
        """Return this window on the grid of pixels 0, n, 2n, ... of this grid.

        Raises:
            ValueError: the first row or column is not a multiple of n.
        """
        if self.y0 % n or self.x0 % n:
            raise ValueError(f"window {self} does not start at a multiple of {n} pixels")
        return Window(self.y0 // n, self.x0 // n, -(-self.height // n), -(-self.width // n))


def tiling(height: int, width: int, size: int) -> Iterator[Window]:
    """Yield squares of `size` that cover (height, width), row by row; the last ones are clipped."""
    for y0 in range(0, height, size):
        for x0 in range(0, width, size):
            yield Window(y0, x0, min(size, height - y0), min(size, width - x0))


def patch_name(window: Window) -> str:
    """Return the name of a patch in a `patches` block file, from its window in the block."""
    return f"{window.y0}_{window.x0}"


def crop(geobox: GeoBox, window: Window) -> GeoBox:
    """Return the grid of `window` within `geobox`."""
    rows, columns = window.slices
    return geobox[rows, columns]


def subsample(geobox: GeoBox, n: int) -> GeoBox:
    """Return the grid of pixels 0, n, 2n, ... of `geobox`, with the same pixel centres.

    Pixels of the result are n times as large around the same centre, so the origin moves up and
    left by (n - 1) / 2 pixels.
    """
    if n == 1:
        return geobox
    from affine import Affine
    from odc.geo.geobox import GeoBox

    height, width = geobox.shape
    shift = -(n - 1) / 2
    affine = geobox.affine @ Affine.translation(shift, shift) @ Affine.scale(n)
    return GeoBox((-(-height // n), -(-width // n)), affine, geobox.crs)


@dataclass(frozen=True)
class Block:
    """The unit of download, stacking, retiling and inference.

    Attributes:
        id: name of the block in file names, `b<row>_<column>` of the block grid.
        window: window in the grid of the region, in source pixels (before `downsample_rate`).
    """

    id: str
    window: Window


@dataclass(frozen=True)
class RegionGrid:
    """Grid of a region, and the blocks that contain a pixel of the region.

    Attributes:
        name: name of the region in the configuration.
        crs: CRS of the grid, as `EPSG:<code>` or WKT.
        transform: the first six numbers of the affine transform of the grid, in CRS units.
        shape: (height, width) of the grid in pixels.
        block_size: edge length of a block in pixels of `geobox`.
        downsample_rate: products have every n-th pixel of `geobox`.
        blocks: blocks with at least one pixel inside the region, row by row.
    """

    name: str
    crs: str
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]
    block_size: int
    downsample_rate: int
    blocks: tuple[Block, ...]

    @classmethod
    def of(
        cls,
        name: str,
        geobox: GeoBox,
        block_size: int,
        downsample_rate: int,
        blocks: tuple[Block, ...],
    ) -> RegionGrid:
        """Return the region on the grid of a GeoBox."""
        a, b, c, d, e, f = tuple(geobox.affine)[:6]
        height, width = geobox.shape
        return cls(
            name,
            str(geobox.crs),
            (a, b, c, d, e, f),
            (height, width),
            block_size,
            downsample_rate,
            blocks,
        )

    @cached_property
    def geobox(self) -> GeoBox:
        """Return the full grid of the region at `resolution`."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        return GeoBox(self.shape, Affine(*self.transform), self.crs)

    @property
    def product_geobox(self) -> GeoBox:
        """Return the grid of stacks and products: `geobox` after `downsample_rate`."""
        return subsample(self.geobox, self.downsample_rate)

    def block(self, block_id: str) -> Block:
        """Return the block named `block_id`.

        Raises:
            KeyError: the region does not have this block.
        """
        for block in self.blocks:
            if block.id == block_id:
                return block
        raise KeyError(f"region {self.name} has no block {block_id}")

    def product_window(self, block: Block) -> Window:
        """Return the window of a block in `product_geobox`."""
        return block.window.every(self.downsample_rate)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document that `from_json` reads back without loss."""
        return {
            "name": self.name,
            "crs": self.crs,
            "transform": list(self.transform),
            "shape": list(self.shape),
            "block_size": self.block_size,
            "downsample_rate": self.downsample_rate,
            "blocks": [
                [b.id, b.window.y0, b.window.x0, b.window.height, b.window.width]
                for b in self.blocks
            ],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RegionGrid:
        """Return the grid of a document from `to_json`."""
        height, width = document["shape"]
        a, b, c, d, e, f = document["transform"]
        return cls(
            name=document["name"],
            crs=document["crs"],
            transform=(a, b, c, d, e, f),
            shape=(height, width),
            block_size=document["block_size"],
            downsample_rate=document["downsample_rate"],
            blocks=tuple(Block(name, Window(*numbers)) for name, *numbers in document["blocks"]),
        )


def block_id(row: int, column: int) -> str:
    """Return the name of the block at (row, column) of the block grid."""
    return f"b{row:03d}_{column:03d}"
