"""Write cloud-optimised GeoTIFFs of many bands, which readers open band by band.

The bands are stored one after another (INTERLEAVE=BAND), so three of 128 bands cost three bands to
read. GDAL's COG driver has this only from 3.11 on. Here its GTiff driver copies a tiled file with
overviews, which gives the same order of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError
from rasterio.windows import Window as RasterWindow

from ...atomic import atomic_output
from ...raster.heap import release_large_blocks
from ...region.grid import Window
from .writer import GDAL_OPTIONS, TILE, gdal_writes, open_raster, scratch_folder

WINDOW_BYTES = 128 * 2**20
"""Largest size of all bands of a tile."""

EXPORT_TAG = "EXPORT"
"""Metadata that exports of a user have, and products of the workflow do not have."""

_SMALLEST_TILE = 128

Piece = tuple[Window, Callable[[int], NDArray[Any]]]
"""A window, and a function that returns (height, width) values of one band in it."""


@dataclass(frozen=True)
class BandRaster:
    """A raster of many bands.

    Attributes:
        shape: (height, width).
        transform: of pixel corners.
        crs: WKT.
        dtype: of all bands.
        nodata: of all bands.
        bands: description of each.
        tags: metadata of the file.
    """

    shape: tuple[int, int]
    transform: Affine
    crs: str
    dtype: str
    nodata: float
    bands: Sequence[str]
    tags: Mapping[str, str]


def tile_edge(pixel_bytes: int) -> int:
    """Return the edge of a tile, in pixels, for pixels of `pixel_bytes` in all bands."""
    edge = TILE
    while edge > _SMALLEST_TILE and edge * edge * pixel_bytes > WINDOW_BYTES:
        edge //= 2
    return edge


def write_band_cog(
    output: Path,
    raster: BandRaster,
    tile: int,
    pieces: Iterable[Piece],
    overviews: Resampling = Resampling.average,
    threads: int = 1,
) -> None:
    """Write a raster tile by tile; pixels that no piece covers have no data.

    Args:
        output: the GeoTIFF to make.
        raster: its form.
        tile: edge of a tile, in pixels.
        pieces: windows that are tiles, in the order of rows; none twice.
        overviews: how they are made; none if the raster is one tile.
        threads: that compress.

    Raises:
        OutputError: the file cannot be written.
    """
    release_large_blocks()
    pixel = len(raster.bands) * np.dtype(raster.dtype).itemsize
    needed = 3 * pixel * raster.shape[0] * raster.shape[1]
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_output(output))
        stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
        scratch = stack.enter_context(scratch_folder(temporary))
        stack.enter_context(gdal_writes(output, needed))
        tiled, cog = scratch / "tiled.tif", scratch / "cog.tif"
        sums = _write_tiles(tiled, raster, tile, pieces, threads)
        if levels := _levels(raster.shape, tile):
            with rasterio.open(tiled, "r+") as file:
                file.build_overviews(levels, overviews)
        rasterio.shutil.copy(
            tiled,
            cog,
            driver="GTiff",
            copy_src_overviews="YES",
            compress="DEFLATE",
            predictor=3 if np.dtype(raster.dtype).kind == "f" else 2,
            num_threads=threads,
            **_layout(tile),
        )
        tiled.unlink()
        _read_back(cog, sums)
        cog.replace(temporary)


def _layout(tile: int) -> dict[str, Any]:
    edges = {"tiled": "YES", "blockxsize": tile, "blockysize": tile}
    return {**edges, "interleave": "BAND", "bigtiff": "IF_SAFER"}


def _levels(shape: tuple[int, int], tile: int) -> list[int]:
    """Return the factors of overviews: up to the first that is one tile."""
    levels = []
    factor = 1
    while max(shape) > factor * tile:
        factor *= 2
        levels.append(factor)
    return levels


def _write_tiles(
    path: Path, raster: BandRaster, tile: int, pieces: Iterable[Piece], threads: int
) -> NDArray[np.uint64]:
    sums = np.zeros(len(raster.bands), np.uint64)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=raster.shape[0],
        width=raster.shape[1],
        count=len(raster.bands),
        dtype=raster.dtype,
        nodata=raster.nodata,
        crs=raster.crs,
        transform=raster.transform,
        compress="ZSTD",
        zstd_level=1,
        num_threads=threads,
        sparse_ok=True,
        **_layout(tile),
    ) as target:
        target.update_tags(**raster.tags)
        target.descriptions = tuple(raster.bands)
        for window, values in pieces:
            target_window = RasterWindow(window.x0, window.y0, window.width, window.height)
            for k in range(len(raster.bands)):
                band = values(k)
                target.write(band, k + 1, window=target_window)
                sums[k] += _bits(band, raster.nodata)
    return sums


def _read_back(path: Path, sums: NDArray[np.uint64]) -> None:
    """Compare a file with the data that were written to it (see `writer.read_back`)."""
    with open_raster(path) as file:
        for k in range(file.count):
            total = np.uint64(0)
            for y in range(0, file.height, TILE):
                strip = RasterWindow(0, y, file.width, min(TILE, file.height - y))
                total += _bits(file.read(k + 1, window=strip), file.nodata)
            if total != sums[k]:
                raise RasterioIOError(
                    "the file differs from the data written to it; is a quota used up?"
                )


def _bits(values: NDArray[Any], nodata: float) -> np.uint64:
    """Return the sum of the bits of the values with data, as unsigned integers."""
    unsigned = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    data = np.isfinite(values) if np.isnan(nodata) else values != nodata
    return np.uint64(unsigned.sum(where=data, dtype=np.uint64))
