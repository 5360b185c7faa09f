"""Resample a window of a raster onto a grid, independently of the window.

With GDAL's defaults the result of a reprojection depends on the window (an approximate
transformer, a kernel scale estimated per window), which gives seams between blocks.
`WarpedVRT` with a tolerance of 1e-9 and a fixed kernel scale of 1 gives the same pixels for any
window, equal to an exact bilinear computation. No warp is needed if the raster is aligned with
the grid and its pixels have the same or twice the size. On a coarser grid a pixel is the mean of
what it covers (`area_mean`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from ..errors import ReadError
from .area_mean import COARSER, read_classes, read_mean, times_coarser
from .transformers import crs_text, same_crs, transformer
from .upsample2x import upsample_bilinear, upsample_nearest

KERNEL_MARGIN = 3
"""Pixels around the overlap that a resampling kernel can reach."""

ALIGNMENT_TOLERANCE = 1e-6
"""Largest offset, as a fraction of a pixel, at which two grids count as aligned."""


@dataclass(frozen=True)
class ReadOptions:
    """Resampling options.

    Attributes:
        resampling: `bilinear` or `nearest`.
        declare_nodata: treat 0 as no data in files that declare none, so that it does not
            enter interpolated values (`preprocessing: corrected`).
        invalid_classes: of a classification, the classes that are not valid. On a grid that is
            coarser than the raster, classes are not averaged (see `area_mean`).
        band: band of the raster, from 1.
    """

    resampling: Literal["bilinear", "nearest"]
    declare_nodata: bool
    invalid_classes: frozenset[int] = frozenset()
    band: int = 1


PlacedPixels = tuple[tuple[slice, slice], NDArray[Any]]
"""(rows, columns) of a part of a grid, and its pixels."""

Prefetch = Callable[..., None]
"""Called with windows (`RasterioWindow`) of the dataset before they are read, and as `keep` with
those that are read later."""


def no_prefetch(*windows: RasterioWindow, keep: Sequence[RasterioWindow] = ()) -> None:
    """Do nothing, for a file on a disk."""


def read_window(
    dataset: rasterio.DatasetReader,
    geobox: GeoBox,
    options: ReadOptions,
    label: str = "the file",
    prefetch: Prefetch | None = None,
) -> PlacedPixels:
    """Read a band of `dataset` on the part of `geobox` that it covers.

    Pixels are copied if the dataset is aligned with the grid, averaged if the grid is coarser, and
    otherwise resampled exactly.

    Args:
        dataset: an open raster.
        geobox: the grid.
        options: resampling options.
        label: name of the dataset, for messages.
        prefetch: called with the window of the dataset before it is read.

    Returns:
        (rows, columns) of the part of `geobox`, and its pixels in the dtype of the dataset;
        0 for no data.

    Raises:
        ReadError: the raster has no CRS, or a no-data value that cannot be excluded from the
            interpolation.
    """
    prefetch = prefetch or no_prefetch
    check_crs(dataset, label)
    rows, columns = _overlap(dataset, geobox)
    target = geobox[rows, columns]
    if 0 in target.shape:
        return (rows, columns), np.zeros(target.shape, dataset.dtypes[options.band - 1])
    for scale in (1, 2):
        offset = aligned_offset(dataset, target, scale)
        if offset is None or (scale == 2 and not _can_upsample(dataset, options)):
            continue
        inner, window = _common(dataset, (target.height, target.width), offset, scale)
        slices = (_shifted(rows, inner[0]), _shifted(columns, inner[1]))
        if 0 in (window.width, window.height):
            return slices, np.zeros((window.height, window.width), dataset.dtypes[options.band - 1])
        if scale == 1:
            return slices, _copied(dataset, window, options.band, prefetch)
        return slices, _upsampled(dataset, window, options, prefetch)
    if times_coarser(dataset, target) > COARSER:
        return (rows, columns), _averaged(dataset, target, options, label, prefetch)
    return (rows, columns), _warped(dataset, target, options, label, prefetch)


def check_crs(dataset: rasterio.DatasetReader, label: str) -> None:
    """Check that a raster has a CRS.

    Raises:
        ReadError: it has none.
    """
    if dataset.crs is None:
        raise ReadError(
            f"{label} has no coordinate reference system: assign the correct one "
            "(gdal_edit.py -a_srs) or remove the item."
        )


def _shifted(outer: slice, inner: slice) -> slice:
    return slice(outer.start + inner.start, outer.start + inner.stop)


def _averaged(
    dataset: rasterio.DatasetReader,
    target: GeoBox,
    options: ReadOptions,
    label: str,
    prefetch: Prefetch,
) -> NDArray[Any]:
    def source_window(part: GeoBox) -> RasterioWindow:
        return _source_window(dataset, part)

    prefetch(source_window(target))
    if options.invalid_classes:
        return read_classes(dataset, target, source_window, options.invalid_classes, options.band)
    nodata = _source_nodata(dataset, options, label)
    try:
        return read_mean(dataset, target, source_window, nodata, options.band, label)
    except ReadError as error:
        raise ReadError(f"Cannot use {label}: {error}") from None


def _warped(
    dataset: rasterio.DatasetReader,
    target: GeoBox,
    options: ReadOptions,
    label: str,
    prefetch: Prefetch,
) -> NDArray[Any]:
    nodata = _source_nodata(dataset, options, label)
    height, width = target.shape
    prefetch(_source_window(dataset, target))
    with WarpedVRT(
        dataset,
        crs=str(target.crs),
        transform=target.affine,
        height=height,
        width=width,
        resampling=Resampling[options.resampling],
        src_nodata=nodata,
        nodata=0 if nodata is not None else None,
        tolerance=1e-9,
        XSCALE=1,
        YSCALE=1,
    ) as vrt:
        pixels: NDArray[Any] = vrt.read(options.band)
        return pixels


def _source_nodata(
    dataset: rasterio.DatasetReader, options: ReadOptions, label: str
) -> float | None:
    """Return the value to exclude from the interpolation, or None.

    Raises:
        ReadError: an integer raster to be interpolated declares another value than 0. GDAL
            supports one no-data value, and 0 is no data in these products.
    """
    nodata: float | None = dataset.nodata
    if not options.declare_nodata:
        return nodata
    if nodata is None:
        return 0
    is_integer = np.issubdtype(np.dtype(dataset.dtypes[options.band - 1]), np.integer)
    if is_integer and nodata != 0 and options.resampling == "bilinear":
        raise ReadError(
            f"{label} declares {nodata:g} as no data, but in Sentinel-2 bands "
            "0 is no data: correct the file (gdal_edit.py -a_nodata 0)."
        )
    return nodata


def _transformed(
    bounds: tuple[float, float, float, float], source: Any, target: Any
) -> tuple[float, float, float, float]:
    """Return bounds in another CRS; not finite where the transformation is undefined."""
    move = transformer(crs_text(source), crs_text(target))
    if move is None:
        return bounds
    left, bottom, right, top = bounds
    result: tuple[float, float, float, float] = move.transform_bounds(
        left, bottom, right, top, densify_pts=21
    )
    return result


def _pixels_within(
    bounds: tuple[float, float, float, float], affine: Any, shape: tuple[int, int], margin: float
) -> tuple[slice, slice]:
    """Return the rows and columns of a raster within bounds in its CRS, with a margin in pixels."""
    height, width = shape
    if not np.isfinite(bounds).all():
        return slice(0, height), slice(0, width)
    (x0, y0), (x1, y1) = ~affine @ (bounds[0], bounds[3]), ~affine @ (bounds[2], bounds[1])
    top = int(np.clip(np.floor(min(y0, y1) - margin), 0, height))
    left = int(np.clip(np.floor(min(x0, x1) - margin), 0, width))
    bottom = int(np.clip(np.ceil(max(y0, y1) + margin), top, height))
    right = int(np.clip(np.ceil(max(x0, x1) + margin), left, width))
    return slice(top, bottom), slice(left, right)


def _overlap(dataset: rasterio.DatasetReader, geobox: GeoBox) -> tuple[slice, slice]:
    """Return the rows and columns of `geobox` that the dataset covers, with a margin."""
    left, bottom, right, top = dataset.bounds
    # In rasters whose first row is the southern one, rasterio's top is below its bottom.
    bounds = (min(left, right), min(bottom, top), max(left, right), max(bottom, top))
    bounds = _transformed(bounds, dataset.crs, geobox.crs)
    margin = KERNEL_MARGIN * max(1.0, abs(dataset.transform.a / geobox.affine.a))
    return _pixels_within(bounds, geobox.affine, (geobox.height, geobox.width), margin)


def _source_window(dataset: rasterio.DatasetReader, target: GeoBox) -> RasterioWindow:
    """Return the window of the dataset that a warp onto `target` reads."""
    box = target.boundingbox
    bounds = (box.left, box.bottom, box.right, box.top)
    bounds = _transformed(bounds, target.crs, dataset.crs)
    rows, columns = _pixels_within(bounds, dataset.transform, dataset.shape, 1 + KERNEL_MARGIN / 2)
    return RasterioWindow.from_slices(rows, columns)


def aligned_offset(
    dataset: rasterio.DatasetReader, geobox: GeoBox, scale: int
) -> tuple[int, int] | None:
    """Return (row, column) of the first pixel of the grid in the dataset's grid refined by
    `scale`; None if the two are not aligned."""
    if not same_crs(crs_text(dataset.crs), crs_text(geobox.crs)):
        return None
    a, b, _, d, e, _ = tuple(dataset.transform)[:6]
    ga, gb, _, gd, ge, _ = tuple(geobox.affine)[:6]
    finer = (a / scale, e / scale)
    if b or d or gb or gd or not np.allclose(finer, (ga, ge), rtol=1e-12, atol=0):
        return None
    column, row = ~dataset.transform @ (geobox.affine.c, geobox.affine.f)
    column, row = column * scale, row * scale
    if max(abs(column - round(column)), abs(row - round(row))) > ALIGNMENT_TOLERANCE:
        return None
    return round(row), round(column)


def _common(
    dataset: rasterio.DatasetReader, shape: tuple[int, int], offset: tuple[int, int], scale: int
) -> tuple[tuple[slice, slice], RasterioWindow]:
    """Return the overlap of the dataset and a grid of `shape` at `offset`: (rows, columns) of the
    grid, and the window of the dataset, both at the resolution of the grid."""
    starts, stops = [], []
    for first, count, size in zip(offset, shape, dataset.shape, strict=True):
        start = max(0, -first)
        starts.append(start)
        stops.append(max(start, min(count, size * scale - first)))
    rows, columns = (slice(a, b) for a, b in zip(starts, stops, strict=True))
    window = RasterioWindow(
        offset[1] + starts[1], offset[0] + starts[0], stops[1] - starts[1], stops[0] - starts[0]
    )
    return (rows, columns), window


def _copied(
    dataset: rasterio.DatasetReader,
    window: RasterioWindow,
    band: int,
    prefetch: Prefetch,
) -> NDArray[Any]:
    prefetch(window)
    pixels: NDArray[Any] = dataset.read(band, window=window)
    if dataset.nodata is not None and dataset.nodata != 0:
        for row in pixels:
            row[np.isnan(row) if np.isnan(dataset.nodata) else row == dataset.nodata] = 0
    return pixels


def _can_upsample(dataset: rasterio.DatasetReader, options: ReadOptions) -> bool:
    if dataset.nodata not in (None, 0):
        return False
    return options.resampling == "nearest" or dataset.dtypes[options.band - 1] == "uint16"


def _upsampled(
    dataset: rasterio.DatasetReader,
    window: RasterioWindow,
    options: ReadOptions,
    prefetch: Prefetch,
) -> NDArray[Any]:
    """Return the pixels of a window of the dataset upsampled by two."""
    margin = 1 if options.resampling == "bilinear" else 0
    top, left = window.row_off // 2, window.col_off // 2
    bottom = -(-(window.row_off + window.height) // 2)
    right = -(-(window.col_off + window.width) // 2)
    height, width = dataset.shape
    first_row, last_row = max(0, top - margin), min(height, bottom + margin)
    first_column, last_column = max(0, left - margin), min(width, right + margin)
    source = RasterioWindow(
        first_column, first_row, last_column - first_column, last_row - first_row
    )
    prefetch(source)
    pixels: NDArray[Any] = dataset.read(options.band, window=source)
    if margin:
        # Pixels outside the raster have no weight; repeating the edge has the same effect.
        missing_rows = (first_row - top + 1, bottom + 1 - last_row)
        missing_columns = (first_column - left + 1, right + 1 - last_column)
        if any(missing_rows) or any(missing_columns):
            pixels = np.pad(pixels, (missing_rows, missing_columns), mode="edge")
        nodata = options.declare_nodata or dataset.nodata == 0
        result: NDArray[Any] = upsample_bilinear(pixels, nodata)
    else:
        result = upsample_nearest(pixels)
    y, x = window.row_off - 2 * top, window.col_off - 2 * left
    return result[y : y + window.height, x : x + window.width]


def block_ranges(
    dataset: rasterio.DatasetReader, window: RasterioWindow
) -> Iterator[tuple[int, int]]:
    """Yield byte ranges (start, stop) of the blocks that a window intersects; none for formats
    without this information."""
    height, width = dataset.block_shapes[0]
    for y in range(window.row_off // height, -(-(window.row_off + window.height) // height)):
        for x in range(window.col_off // width, -(-(window.col_off + window.width) // width)):
            with contextlib.suppress(rasterio.errors.RasterioError, TypeError, ValueError):
                start = int(dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=1))
                size = int(dataset.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1))
                yield start, start + size
