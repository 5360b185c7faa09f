"""A region's mask on its grid: drawn window by window, written once, read by every block."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyproj
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window as RasterioWindow

from ..atomic import atomic_output
from ..errors import RegionError
from .grid import Window, crop, tiling
from .roi import RasterRoi, VectorRoi, reproject

MASK_TILE = 512
MASK_STRIP = 2048
MOST_SOURCE_PIXELS = 2**24
"""Pixels of a raster mask read at once, however fine it is."""

MaskReader = Callable[[Window], NDArray[np.bool_]]


def mask_reader(roi: VectorRoi | RasterRoi, geobox: GeoBox) -> MaskReader:
    """A function from a window of `geobox` to its (H, W) bool mask, True inside.

    A vector's pixel is inside when its centre lies in a polygon. A raster is resampled by
    nearest neighbour: the value at the pixel's centre decides.
    """
    if isinstance(roi, VectorRoi):
        return _vector_mask_reader(roi, geobox)
    return lambda window: _raster_mask(roi, crop(geobox, window))


def _vector_mask_reader(roi: VectorRoi, geobox: GeoBox) -> MaskReader:
    geometry = reproject(roi.geometry, roi.crs, pyproj.CRS.from_user_input(str(geobox.crs)))

    def read(window: Window) -> NDArray[np.bool_]:
        part = crop(geobox, window)
        left, bottom, right, top = part.boundingbox
        margin = 2 * abs(part.affine.a)
        near = shapely.clip_by_rect(
            geometry, left - margin, bottom - margin, right + margin, top + margin
        )
        if near.is_empty:
            return np.zeros(window.shape, np.bool_)
        drawn: NDArray[np.uint8] = rasterio.features.rasterize(
            [(near, 1)], out_shape=window.shape, transform=part.affine, dtype=np.uint8
        )
        return drawn > 0

    return read


def _raster_mask(roi: RasterRoi, geobox: GeoBox) -> NDArray[np.bool_]:
    height, width = geobox.shape
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    a, _, c, _, e, f = tuple(geobox.affine)[:6]
    inverse = ~roi.transform
    target = pyproj.CRS.from_user_input(str(geobox.crs))
    if roi.crs.equals(target):
        columns = np.floor(inverse.a * (c + a * x) + inverse.c).astype(np.int64)[None, :]
        rows = np.floor(inverse.e * (f + e * y) + inverse.f).astype(np.int64)[:, None]
    else:
        transformer = pyproj.Transformer.from_crs(target, roi.crs, always_xy=True)
        xx, yy = np.meshgrid(c + a * x, f + e * y)
        sx, sy = transformer.transform(xx, yy)
        columns = np.floor(np.nan_to_num(inverse.a * sx + inverse.c, nan=-1, posinf=-1)).astype(
            np.int64
        )
        rows = np.floor(np.nan_to_num(inverse.e * sy + inverse.f, nan=-1, posinf=-1)).astype(
            np.int64
        )
    within: NDArray[np.bool_] = (
        (rows >= 0) & (rows < roi.shape[0]) & (columns >= 0) & (columns < roi.shape[1])
    )
    if not within.any():
        return within
    rows = np.clip(rows, 0, roi.shape[0] - 1)
    columns = np.clip(columns, 0, roi.shape[1] - 1)
    row0, column0 = int(rows.min()), int(columns.min())
    source = RasterioWindow(
        column0, row0, int(columns.max()) - column0 + 1, int(rows.max()) - row0 + 1
    )
    if source.width * source.height > MOST_SOURCE_PIXELS and max(geobox.shape) > 1:
        return _by_halves(roi, geobox)
    with rasterio.open(roi.path) as dataset:
        values = dataset.read(1, window=source)
        positive: NDArray[np.bool_] = (values > 0) & (dataset.read_masks(1, window=source) > 0)
    within &= positive[rows - row0, columns - column0]
    return within


def _by_halves(roi: RasterRoi, geobox: GeoBox) -> NDArray[np.bool_]:
    height, width = geobox.shape
    if height >= width:
        halves = [geobox[: height // 2, :], geobox[height // 2 :, :]]
    else:
        halves = [geobox[:, : width // 2], geobox[:, width // 2 :]]
    return np.concatenate([_raster_mask(roi, half) for half in halves], axis=int(height < width))


def write_mask(roi: VectorRoi | RasterRoi, geobox: GeoBox, output: Path) -> int:
    """Write the region's mask on its grid: a tiled GeoTIFF, uint8, 1 = inside.

    Strips have a fixed size, so that the mask does not depend on how it is later cut.

    Returns:
        Number of pixels inside.

    Raises:
        RegionError: no pixel is inside.
        OutputError: the file cannot be written.
    """
    height, width = geobox.shape
    read = mask_reader(roi, geobox)
    inside = 0
    with atomic_output(output) as part:
        with rasterio.open(
            part,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=1,
            dtype="uint8",
            crs=str(geobox.crs),
            transform=geobox.affine,
            compress="deflate",
            tiled=True,
            blockxsize=MASK_TILE,
            blockysize=MASK_TILE,
            bigtiff="if_safer",
        ) as dataset:
            for window in tiling(height, width, MASK_STRIP):
                mask = read(window)
                inside += int(mask.sum())
                dataset.write(
                    mask.astype(np.uint8),
                    1,
                    window=RasterioWindow(window.x0, window.y0, window.width, window.height),
                )
        if inside == 0:
            raise no_pixel_error(roi)
        _check_written(part, inside)
    return inside


def _check_written(path: Path, inside: int) -> None:
    """Make sure that a mask holds the pixels drawn: GDAL reports a full disk that it meets
    when it closes a file on standard error only.

    Raises:
        OSError: fewer pixels, or none, can be read.
    """
    try:
        with rasterio.open(path) as dataset:
            found = 0
            for window in tiling(dataset.height, dataset.width, MASK_STRIP):
                place = RasterioWindow(window.x0, window.y0, window.width, window.height)
                found += int(dataset.read(1, window=place).sum(dtype=np.int64))
            uncompressed = dataset.height * dataset.width
    except rasterio.errors.RasterioIOError:
        found, uncompressed = -1, 2**20
    if found != inside:
        full = shutil.disk_usage(path.parent).free < uncompressed
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise OSError(errno.EIO, "it differs when read back; is a quota used up?")


def no_pixel_error(roi: VectorRoi | RasterRoi) -> RegionError:
    """The sentence for a region without a pixel."""
    if isinstance(roi, RasterRoi):
        return RegionError(
            f"The mask {roi.path} has no positive pixel at the centre of a pixel of the grid: mark "
            "the inside with values above 0, over at least a pixel."
        )
    return RegionError(
        f"No pixel centre lies inside {roi.path}: the region is smaller than a pixel; enlarge it "
        "or choose a finer resolution."
    )


def read_mask(path: str | Path, window: Window) -> tuple[NDArray[np.bool_], GeoBox]:
    """A window of a mask written by `write_mask`: (H, W) bool, and its grid."""
    with rasterio.open(path) as dataset:
        values: NDArray[np.uint8] = dataset.read(
            1, window=RasterioWindow(window.x0, window.y0, window.width, window.height)
        )
    return values > 0, crop(mask_geobox(path), window)


def mask_geobox(path: str | Path) -> GeoBox:
    """The region's full grid, from a mask written by `write_mask`."""
    with rasterio.open(path) as dataset:
        return GeoBox(dataset.shape, dataset.transform, dataset.crs)
