"""A window of an open raster on a grid, exactly, whatever the window.

GDAL's defaults make the result of a reprojection depend on the window that is read (an
approximate transformer, a kernel scale estimated per window): a seam between blocks.
`WarpedVRT` with a tolerance of 1e-9 and the kernel scale fixed at 1 gives the same pixels
for any window, equal to an exact bilinear computation. Where the lattices coincide, or the
file's pixels are twice the grid's, no warp is needed at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyproj
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from ..errors import ReadError
from .upsample2x import double_bilinear, double_nearest

KERNEL_MARGIN = 3
"""Pixels around the overlap that a resampling kernel can still reach."""

LATTICE_TOLERANCE = 1e-6
"""Part of a pixel by which two lattices may differ and still count as one."""


@dataclass(frozen=True)
class ReadOptions:
    """How pixels come onto the grid.

    Attributes:
        resampling: `bilinear` or `nearest`.
        declare_nodata: treat 0 as no data in files that declare none, so that it is never
            mixed into a value (`preprocessing: corrected`).
    """

    resampling: Literal["bilinear", "nearest"]
    declare_nodata: bool


Part = tuple[tuple[slice, slice], NDArray[Any]]
Before = Callable[[RasterioWindow], None]


def nothing(window: RasterioWindow) -> None:
    """Before a file on a disk is read."""


def read_window(
    dataset: rasterio.DatasetReader,
    geobox: GeoBox,
    options: ReadOptions,
    label: str = "the file",
    before: Before | None = None,
) -> Part:
    """Read band 1 of `dataset` on the pixels of `geobox` that it can reach.

    Where both lattices coincide pixels are copied; else resampled exactly.

    Args:
        dataset: an open raster.
        geobox: the grid.
        options: how.
        label: what it is, for messages.
        before: told the window of the dataset that is about to be read.

    Returns:
        (rows, columns) of the part of `geobox`, and that part's pixels in the dataset's
        dtype; 0 where there is no data.

    Raises:
        ReadError: the raster cannot be used: no CRS, or a no-data value that would be mixed
            into others.
    """
    before = before or nothing
    if dataset.crs is None:
        raise ReadError(
            f"{label} has no coordinate reference system: assign the right one "
            "(gdal_edit.py -a_srs), or remove the item."
        )
    rows, columns = _overlap(dataset, geobox)
    part = geobox[rows, columns]
    if 0 in part.shape:
        return (rows, columns), np.zeros(part.shape, dataset.dtypes[0])
    for scale in (1, 2):
        offset = _lattice_offset(dataset, part, scale)
        if offset is None or (scale == 2 and not _can_double(dataset, options)):
            continue
        inner, window = _common(dataset, (part.height, part.width), offset, scale)
        place = (_shifted(rows, inner[0]), _shifted(columns, inner[1]))
        if 0 in (window.width, window.height):
            return place, np.zeros((window.height, window.width), dataset.dtypes[0])
        if scale == 1:
            return place, _copied(dataset, window, before)
        return place, _doubled(dataset, window, options, before)
    return (rows, columns), _warped(dataset, part, options, label, before)


def _shifted(outer: slice, inner: slice) -> slice:
    return slice(outer.start + inner.start, outer.start + inner.stop)


def _warped(
    dataset: rasterio.DatasetReader,
    part: GeoBox,
    options: ReadOptions,
    label: str,
    before: Before,
) -> NDArray[Any]:
    nodata = _source_nodata(dataset, options, label)
    height, width = part.shape
    before(_reach(dataset, part))
    with WarpedVRT(
        dataset,
        crs=str(part.crs),
        transform=part.affine,
        height=height,
        width=width,
        resampling=Resampling[options.resampling],
        src_nodata=nodata,
        nodata=0 if nodata is not None else None,
        tolerance=1e-9,
        XSCALE=1,
        YSCALE=1,
    ) as vrt:
        pixels: NDArray[Any] = vrt.read(1)
        return pixels


def _source_nodata(
    dataset: rasterio.DatasetReader, options: ReadOptions, label: str
) -> float | None:
    """The value never to be mixed into another, or None.

    Raises:
        ReadError: whole numbers with another no-data value than 0 are to be interpolated:
            GDAL knows one such value, and 0 is no data in these products.
    """
    nodata: float | None = dataset.nodata
    if not options.declare_nodata:
        return nodata
    if nodata is None:
        return 0
    whole = np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer)
    if whole and nodata != 0 and options.resampling == "bilinear":
        raise ReadError(
            f"{label} declares {nodata:g} as no data, but in Sentinel-2 bands "
            "0 is no data: correct the file (gdal_edit.py -a_nodata 0)."
        )
    return nodata


def _transformed(
    bounds: tuple[float, float, float, float], source: Any, target: Any
) -> tuple[float, float, float, float]:
    """Bounds in another CRS; not finite where they cannot be told."""
    source, target = pyproj.CRS.from_user_input(source), pyproj.CRS.from_user_input(target)
    if source.equals(target):
        return bounds
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)
    left, bottom, right, top = bounds
    result: tuple[float, float, float, float] = transformer.transform_bounds(
        left, bottom, right, top, densify_pts=21
    )
    return result


def _pixels_within(
    bounds: tuple[float, float, float, float], affine: Any, shape: tuple[int, int], reach: float
) -> tuple[slice, slice]:
    """Rows and columns of a raster that lie within bounds in its CRS, with a margin."""
    height, width = shape
    if not np.isfinite(bounds).all():
        return slice(0, height), slice(0, width)
    (x0, y0), (x1, y1) = ~affine @ (bounds[0], bounds[3]), ~affine @ (bounds[2], bounds[1])
    top = int(np.clip(np.floor(min(y0, y1) - reach), 0, height))
    left = int(np.clip(np.floor(min(x0, x1) - reach), 0, width))
    bottom = int(np.clip(np.ceil(max(y0, y1) + reach), top, height))
    right = int(np.clip(np.ceil(max(x0, x1) + reach), left, width))
    return slice(top, bottom), slice(left, right)


def _overlap(dataset: rasterio.DatasetReader, geobox: GeoBox) -> tuple[slice, slice]:
    """Rows and columns of `geobox` that lie over the dataset, with a margin."""
    bounds = _transformed(tuple(dataset.bounds), dataset.crs, str(geobox.crs))
    reach = KERNEL_MARGIN * max(1.0, abs(dataset.transform.a / geobox.affine.a))
    return _pixels_within(bounds, geobox.affine, (geobox.height, geobox.width), reach)


def _reach(dataset: rasterio.DatasetReader, part: GeoBox) -> RasterioWindow:
    """The window of the dataset that a warp onto `part` needs."""
    box = part.boundingbox
    bounds = (box.left, box.bottom, box.right, box.top)
    bounds = _transformed(bounds, str(part.crs), dataset.crs)
    rows, columns = _pixels_within(bounds, dataset.transform, dataset.shape, 1 + KERNEL_MARGIN / 2)
    return RasterioWindow.from_slices(rows, columns)


def _lattice_offset(
    dataset: rasterio.DatasetReader, geobox: GeoBox, scale: int
) -> tuple[int, int] | None:
    """(row, column), on the dataset's lattice made `scale` times as fine, of the pixel under
    the grid's first one; None if that is not the grid's lattice."""
    if not pyproj.CRS.from_user_input(dataset.crs).equals(
        pyproj.CRS.from_user_input(str(geobox.crs))
    ):
        return None
    a, b, _, d, e, _ = tuple(dataset.transform)[:6]
    ga, gb, _, gd, ge, _ = tuple(geobox.affine)[:6]
    finer = (a / scale, e / scale)
    if b or d or gb or gd or not np.allclose(finer, (ga, ge), rtol=1e-12, atol=0):
        return None
    column, row = ~dataset.transform @ (geobox.affine.c, geobox.affine.f)
    column, row = column * scale, row * scale
    if max(abs(column - round(column)), abs(row - round(row))) > LATTICE_TOLERANCE:
        return None
    return round(row), round(column)


def _common(
    dataset: rasterio.DatasetReader, shape: tuple[int, int], offset: tuple[int, int], scale: int
) -> tuple[tuple[slice, slice], RasterioWindow]:
    """What a grid of `shape` at `offset` and the dataset have in common: (rows, columns) of the
    grid, and the window of the dataset, both at the grid's resolution."""
    starts, stops = [], []
    for first, count, whole in zip(offset, shape, dataset.shape, strict=True):
        start = max(0, -first)
        starts.append(start)
        stops.append(max(start, min(count, whole * scale - first)))
    rows, columns = (slice(a, b) for a, b in zip(starts, stops, strict=True))
    window = RasterioWindow(
        offset[1] + starts[1], offset[0] + starts[0], stops[1] - starts[1], stops[0] - starts[0]
    )
    return (rows, columns), window


def _copied(
    dataset: rasterio.DatasetReader,
    window: RasterioWindow,
    before: Before,
) -> NDArray[Any]:
    before(window)
    pixels: NDArray[Any] = dataset.read(1, window=window)
    if dataset.nodata is not None and dataset.nodata != 0:
        for row in pixels:
            row[np.isnan(row) if np.isnan(dataset.nodata) else row == dataset.nodata] = 0
    return pixels


def _can_double(dataset: rasterio.DatasetReader, options: ReadOptions) -> bool:
    if dataset.nodata not in (None, 0):
        return False
    return options.resampling == "nearest" or dataset.dtypes[0] == "uint16"


def _doubled(
    dataset: rasterio.DatasetReader,
    window: RasterioWindow,
    options: ReadOptions,
    before: Before,
) -> NDArray[Any]:
    """The window, given on the lattice of half pixels."""
    margin = 1 if options.resampling == "bilinear" else 0
    top, left = window.row_off // 2, window.col_off // 2
    bottom = -(-(window.row_off + window.height) // 2)
    right = -(-(window.col_off + window.width) // 2)
    height, width = dataset.shape
    first_row, last_row = max(0, top - margin), min(height, bottom + margin)
    first_column, last_column = max(0, left - margin), min(width, right + margin)
    whole = RasterioWindow(
        first_column, first_row, last_column - first_column, last_row - first_row
    )
    before(whole)
    pixels: NDArray[Any] = dataset.read(1, window=whole)
    if margin:
        # Beyond the edge there is nothing to weigh in, which repeating the edge amounts to.
        missing_rows = (first_row - top + 1, bottom + 1 - last_row)
        missing_columns = (first_column - left + 1, right + 1 - last_column)
        if any(missing_rows) or any(missing_columns):
            pixels = np.pad(pixels, (missing_rows, missing_columns), mode="edge")
        nodata = options.declare_nodata or dataset.nodata == 0
        doubled: NDArray[Any] = double_bilinear(pixels, nodata)
    else:
        doubled = double_nearest(pixels)
    y, x = window.row_off - 2 * top, window.col_off - 2 * left
    return doubled[y : y + window.height, x : x + window.width]


def block_ranges(
    dataset: rasterio.DatasetReader, window: RasterioWindow
) -> Iterator[tuple[int, int]]:
    """Byte ranges (start, stop) of the blocks that a window touches; none for formats that do
    not tell."""
    height, width = dataset.block_shapes[0]
    for y in range(window.row_off // height, -(-(window.row_off + window.height) // height)):
        for x in range(window.col_off // width, -(-(window.col_off + window.width) // width)):
            with contextlib.suppress(rasterio.errors.RasterioError, TypeError, ValueError):
                start = int(dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=1))
                size = int(dataset.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1))
                yield start, start + size
