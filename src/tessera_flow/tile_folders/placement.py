"""Where tile folders are in the grid of a region, by their names and their `roi.tiff`.

The published pipeline places the raster of a region at the bounds of its shape and writes that
position into `roi.tiff`, while its pixels are on the multiples of the pixel size around these
bounds. So the position in `roi.tiff` may be up to a pixel right of and below the pixels. Its grid
may also be one row or column smaller than that of the region here, whose bounds are extended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from ..errors import TileError
from ..products.tile_facts import TileFact, fact_about
from ..region.grid import RegionGrid, Window, crop
from .format import ROI_FILE, folder_window, is_tile_folder

_TOLERANCE = 1e-3
"""Pixels; smaller differences are rounding."""

Shift = tuple[float, float]
"""Of a label to the right and downwards, in units of the CRS."""


@dataclass(frozen=True)
class Placed:
    """A tile folder and the window of the product grid that its name states."""

    folder: Path
    window: Window


@dataclass(frozen=True)
class Found:
    """The tile folders in a folder.

    Attributes:
        tiles: those that overlap a block of the region, by name.
        outside: names of the others.
        unnamed: names of folders with arrays whose name states no window.
    """

    tiles: list[Placed]
    outside: list[str]
    unnamed: list[str]

    def in_window(self, extent: Window) -> list[Placed]:
        """Return the tiles that overlap a window of the product grid."""
        return [tile for tile in self.tiles if _overlap(tile.window, extent)]

    @property
    def facts(self) -> list[TileFact]:
        """The facts about folders that no block uses."""
        return [*fact_about("outside", self.outside), *fact_about("unnamed", self.unnamed)]


def find_tiles(location: Path, grid: RegionGrid) -> Found:
    """Find the tile folders of a region.

    Whatever has the name of a tile counts as one, also a file or a link to nothing, so that it is
    reported when it is read.

    Raises:
        TileError: the folder cannot be read.
    """
    tiles, outside, unnamed = [], [], []
    blocks = _Blocks(grid)
    try:
        with os.scandir(location) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                window = folder_window(entry.name)
                if window is None:
                    if entry.is_dir() and is_tile_folder(Path(entry.path)):
                        unnamed.append(entry.name)
                elif blocks.overlap(window):
                    tiles.append(Placed(Path(entry.path), window))
                else:
                    outside.append(entry.name)
    except OSError as error:
        raise TileError(
            f"The tile folders in {location} cannot be listed ({error.strerror}): check "
            "tiles.location."
        ) from error
    return Found(tiles, outside, unnamed)


class _Blocks:
    """The blocks of a region, by row and column of the block grid."""

    def __init__(self, grid: RegionGrid) -> None:
        self._edge = grid.block_size // grid.downsample_rate
        windows = map(grid.product_window, grid.blocks)
        self._windows = {(w.y0 // self._edge, w.x0 // self._edge): w for w in windows}
        self._rows, self._columns = (-(-size // grid.block_size) for size in grid.shape)

    def overlap(self, window: Window) -> bool:
        """Return whether a window of the product grid overlaps a block."""
        last_row = (window.y0 + window.height - 1) // self._edge
        last_column = (window.x0 + window.width - 1) // self._edge
        return any(
            (row, column) in self._windows and _overlap(window, self._windows[row, column])
            for row in range(window.y0 // self._edge, min(last_row + 1, self._rows))
            for column in range(window.x0 // self._edge, min(last_column + 1, self._columns))
        )


def _overlap(one: Window, other: Window) -> bool:
    return (
        other.x0 < one.x0 + one.width
        and one.x0 < other.x0 + other.width
        and other.y0 < one.y0 + one.height
        and one.y0 < other.y0 + other.height
    )


def match_patches(
    tiles: Collection[Placed], patches: Collection[Window], grid: RegionGrid, patch_size: int
) -> dict[Window, Placed]:
    """Return the tile of each patch that has one.

    A tile at the right or lower edge of the grid may be one column or row short.

    Raises:
        TileError: a tile covers no patch, or two tiles cover one.
    """
    height, width = grid.product_geobox.shape
    by_start = {(patch.y0, patch.x0): patch for patch in patches}
    matched: dict[Window, Placed] = {}
    for tile in tiles:
        window = tile.window
        patch = by_start.get((window.y0, window.x0))
        if patch is None:
            raise TileError(_not_at_a_patch(tile, grid, patch_size))
        at_right, at_bottom = patch.x0 + patch.width == width, patch.y0 + patch.height == height
        if not (
            0 <= patch.width - window.width <= at_right
            and 0 <= patch.height - window.height <= at_bottom
        ):
            raise TileError(_of_another_size(tile, patch, grid, patch_size))
        if patch in matched:
            raise TileError(
                f"The tiles {matched[patch].folder} and {tile.folder} cover the same pixels: "
                "remove one of them."
            )
        matched[patch] = tile
    return matched


def _not_at_a_patch(tile: Placed, grid: RegionGrid, patch_size: int) -> str:
    window = tile.window
    text = (
        f"The tile {tile.folder} covers {window.width} x {window.height} px from column "
        f"{window.x0}, row {window.y0}, which is not a patch of {patch_size} px of this region's "
        "grid: "
    )
    if window.x0 % patch_size or window.y0 % patch_size:
        return text + (
            f"patches start at multiples of {patch_size} px: set grid.patch_size to the edge of "
            "the tiles."
        )
    return text + (
        f"blocks of {grid.block_size // grid.downsample_rate} px are divided into patches "
        "separately: set grid.block_size to a multiple of the edge of the tiles."
    )


def _of_another_size(tile: Placed, patch: Window, grid: RegionGrid, patch_size: int) -> str:
    window = tile.window
    height, width = grid.product_geobox.shape
    text = (
        f"The tile {tile.folder} covers {window.width} x {window.height} px from column "
        f"{window.x0}, row {window.y0}, which is not a patch of {patch_size} px of this region's "
        f"grid: there it has {patch.width} x {patch.height} px. "
    )
    if max(window.shape) > patch_size:
        return text + "Set grid.patch_size to the edge of the tiles."
    if max(patch.shape) == patch_size and (
        patch.x0 + patch.width < width and patch.y0 + patch.height < height
    ):
        return text + "Set grid.patch_size to the edge of the tiles, or correct the folder's name."
    return text + (
        f"The grid of the region has {width} x {height} px, so the tiles were made for another "
        f"region or another resolution: set regions.{grid.name}.roi and crs, and grid.resolution, "
        "to those for which they were made."
    )


def label_shift(tile: Placed, grid: RegionGrid) -> Shift | None:
    """Return by how much the position in `roi.tiff` is right of and below the pixels.

    Returns:
        Two numbers of at least 0 and less than a pixel; None if the tile states no position.

    Raises:
        TileError: the tile is elsewhere, in another CRS, or has pixels of another size.
    """
    path = tile.folder / ROI_FILE
    if not os.path.lexists(path):
        return None
    try:
        with rasterio.open(path, driver="GTiff") as raster:
            crs, transform = raster.crs, raster.transform
    except RasterioError as error:
        raise TileError(f"{path} cannot be read as a raster ({error}): copy it again.") from error
    if crs is None:
        return None
    window = tile.window
    expected = crop(grid.product_geobox, Window(window.y0, window.x0, 1, 1)).affine
    found = (transform.a, transform.b, transform.d, transform.e)
    pixel = abs(expected.a)
    if any(
        abs(one - other) > _TOLERANCE * pixel
        for one, other in zip(found, (pixel, 0, 0, -pixel), strict=True)
    ):
        raise TileError(
            f"{path} has pixels of {transform.a:.10g} x {transform.e:.10g} units (rotation "
            f"{transform.b:.10g}, {transform.d:.10g}), but the grid of this region has "
            f"{pixel:.10g} x {-pixel:.10g}: set grid.resolution (and grid.downsample_rate) to "
            "those of the tiles."
        )
    right, down = transform.c - expected.c, expected.f - transform.f
    least, most = -_TOLERANCE * pixel, pixel * (1 - _TOLERANCE)
    same_crs = rasterio.crs.CRS.from_user_input(str(grid.product_geobox.crs)) == crs
    if not same_crs or not (least <= right < most and least <= down < most):
        setting = "align" if same_crs and max(abs(right), abs(down)) < pixel else "roi and crs"
        raise TileError(
            f"{path} starts at {transform.c}, {transform.f} in {crs}, but column {window.x0}, row "
            f"{window.y0} of this region's grid is at {expected.c}, {expected.f} in "
            f"{grid.product_geobox.crs}: set regions.{grid.name}.{setting} to that for which the "
            "tiles were made."
        )
    return _rounded(right, pixel), _rounded(down, pixel)


def _rounded(shift: float, pixel: float) -> float:
    return 0.0 if abs(shift) <= _TOLERANCE * pixel else shift


def check_shifts(
    shifts: Mapping[Path, Shift | None], grid: RegionGrid, location: Path
) -> Shift | None:
    """Check that the pixels of the tiles are on the grid of the region.

    Tiles that this software exported have their pixels where `roi.tiff` states; other tiles have
    them on multiples of the pixel size.

    Args:
        shifts: of each tile, see `label_shift`.
        grid: the region's grid.
        location: the folder of the tiles, with the records of exported tiles.

    Returns:
        The shift of the labels of all tiles; None if there is none.

    Raises:
        TileError: the tiles are not on the grid, or have different shifts.
    """
    by_shift: dict[Shift, Path] = {}
    for folder, shift in shifts.items():
        if shift is not None:
            key = (round(shift[0], 3), round(shift[1], 3))
            by_shift.setdefault(key, folder)
    if len(by_shift) > 1:
        (one, first), (other, second) = list(by_shift.items())[:2]
        raise TileError(
            f"The labels of the tiles {first} and {second} are {one} and {other} units from this "
            "region's grid: they were made for different regions, so keep only those of this one."
        )
    shift = next(iter(by_shift), (0.0, 0.0))
    on_multiples = all(
        abs(value / abs(grid.transform[0]) - round(value / abs(grid.transform[0]))) <= _TOLERANCE
        for value in (grid.transform[2], grid.transform[5])
    )
    if on_multiples and shift == (0.0, 0.0):
        return None
    exported = _exported(location)
    ours = {folder.name in exported for folder in shifts}
    if not on_multiples and False in ours:
        raise TileError(
            f"The grid of this region starts at {grid.transform[2]}, {grid.transform[5]}, which "
            "are no multiples of its pixel size, but the pixels of tile folders of the published "
            f"pipeline are on these multiples, whatever roi.tiff states: set regions.{grid.name}."
            "align to grid."
        )
    if on_multiples and True in ours:
        raise TileError(
            f"The tiles in {location} were exported from a grid that starts {shift[0]}, {shift[1]} "
            f"units right of and below this one: set regions.{grid.name}.align to roi."
        )
    return shift if shift != (0.0, 0.0) else None


def _exported(location: Path) -> set[str]:
    """Return the names of the tiles that this software exported to a folder."""
    names: set[str] = set()
    for path in location.glob("*.json"):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            names.update(map(str, document["tiles"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return names
