"""Rasterise the mask of a region window by window, write it once, and read it per block."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from .crs import reproject
from .grid import Window, crop, tiling
from .roi import RasterRoi, VectorRoi

MASK_TILE = 512
MASK_STRIP = 2048
MAX_SOURCE_PIXELS = 2**24
"""Maximum number of pixels of a raster mask to read at once."""

MaskReader = Callable[[Window], NDArray[np.bool_]]


def mask_reader(roi: VectorRoi | RasterRoi, geobox: GeoBox) -> MaskReader:
    """Return a function from a window of `geobox` to its (H, W) bool mask, True inside.

    Vector: a pixel is inside if its centre is in a polygon. Raster: nearest neighbour, the value
    at the centre of the pixel.
    """
    if isinstance(roi, VectorRoi):
        return _vector_mask_reader(roi, geobox)
    return lambda window: _raster_mask(roi, crop(geobox, window))


def _vector_mask_reader(roi: VectorRoi, geobox: GeoBox) -> MaskReader:
    geometry = reproject(roi.geometry, roi.crs, pyproj.CRS.from_user_input(str(geobox.crs)))

    def read(window: Window) -> NDArray[np.bool_]:
        cropped = crop(geobox, window)
        left, bottom, right, top = cropped.boundingbox
        margin = 2 * abs(cropped.affine.a)
        clipped = shapely.clip_by_rect(
            geometry, left - margin, bottom - margin, right + margin, top + margin
        )
        if clipped.is_empty:
            return np.zeros(window.shape, np.bool_)
        mask: NDArray[np.uint8] = rasterio.features.rasterize(
            [(clipped, 1)], out_shape=window.shape, transform=cropped.affine, dtype=np.uint8
        )
        return mask > 0

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
    if source.width * source.height > MAX_SOURCE_PIXELS and max(geobox.shape) > 1:
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
    """Write the mask of a region on its grid: a tiled GeoTIFF, uint8, 1 = inside.

    Windows have a fixed size, so the mask does not depend on the size of blocks.

    Returns:
        Number of pixels inside the region.

    Raises:
        RegionError: no pixel is inside the region.
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
    """Check that the file contains the mask.

    When a disk is full as GDAL closes a file, GDAL reports it on standard error only.

    Raises:
        OSError: the number of pixels inside differs, or the file cannot be read.
    """
    try:
        with rasterio.open(path) as dataset:
            count = 0
            for window in tiling(dataset.height, dataset.width, MASK_STRIP):
                source = RasterioWindow(window.x0, window.y0, window.width, window.height)
                count += int(dataset.read(1, window=source).sum(dtype=np.int64))
            uncompressed = dataset.height * dataset.width
    except rasterio.errors.RasterioIOError:
        count, uncompressed = -1, 2**20
    if count != inside:
        full = shutil.disk_usage(path.parent).free < uncompressed
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise OSError(errno.EIO, "the file differs when read back; a quota may be exceeded")


def no_pixel_error(roi: VectorRoi | RasterRoi) -> RegionError:
    """Return the error for a region without a pixel."""
    if isinstance(roi, RasterRoi):
        return RegionError(
            f"The mask {roi.path} has no positive value at the centre of any grid pixel: mark the "
            "inside with values above 0, over at least one pixel of the grid."
        )
    return RegionError(
        f"No pixel centre is inside {roi.path}: the region is smaller than a pixel; enlarge it "
        "or choose a finer resolution."
    )


def read_mask(path: str | Path, window: Window) -> tuple[NDArray[np.bool_], GeoBox]:
    """Return a window of a mask from `write_mask` as (H, W) bool, True inside, and its grid.

    Raises:
        RegionError: the file is damaged.
    """
    with _opened_mask(path) as dataset:
        values: NDArray[np.uint8] = dataset.read(
            1, window=RasterioWindow(window.x0, window.y0, window.width, window.height)
        )
    return values > 0, crop(mask_geobox(path), window)


def mask_geobox(path: str | Path) -> GeoBox:
    """Return the full grid of the region from a mask written by `write_mask`.

    Raises:
        RegionError: the file is damaged.
    """
    with _opened_mask(path) as dataset:
        return GeoBox(dataset.shape, dataset.transform, dataset.crs)


@contextmanager
def _opened_mask(path: str | Path) -> Iterator[rasterio.DatasetReader]:
    try:
        with rasterio.open(path, driver="GTiff") as dataset:
            if dataset.crs is None:
                raise RegionError(
                    f"{path} is damaged: it has no coordinate reference system. Delete it and run "
                    "again."
                )
            yield dataset
    except rasterio.errors.RasterioError as error:
        raise RegionError(
            f"{path} is damaged ({str(error).splitlines()[0]}): delete it and run again."
        ) from error
