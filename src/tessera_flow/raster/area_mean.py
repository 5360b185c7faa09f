"""Average a raster onto a coarser grid: a pixel is the mean of what it covers.

Overviews are not used: how an archive made them (nearest, cubic, with no data mixed in) is not
recorded in its files. Every source pixel counts by the share of the target pixel that it covers.
If the CRS is the same, edges are rounded to binary fractions of a source pixel, so that sums are
exact and equal for any window. If it differs, exact bilinear samples at the spacing of the source
pixels are averaged, which gives the same weights on grids that are not turned.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from ..errors import ReadError
from ..sensors.sentinel1 import NEGATIVE_WARNING_SHARE, negative_values, not_power
from .transformers import to_grid

log = logging.getLogger(__name__)

COARSER = 1.05
"""Grids whose pixels are larger than those of the source by more than this are averaged. Smaller
differences are those between neighbouring zones."""

MIN_COVERAGE = 0.5
"""Share of a pixel that must have data, or the pixel has none."""

MAX_INVALID_SHARE = 0.1
"""A pixel of a classification is invalid if a larger share of it is invalid or has no data."""

TOLERANCE = 1e-6
"""Of shares of a pixel."""

STRIP_PIXELS = 2**22
"""Source pixels that are averaged at a time, times the images that are made of them."""

_CLASSES = 8
"""Classes that are averaged at a time."""

SourceWindow = Callable[[GeoBox], RasterioWindow]
"""From a grid to the window of the dataset that covers it, with a margin."""

AreaMean = Callable[[Sequence[NDArray[Any]]], list[NDArray[np.float64]]]
"""From images of source pixels to their means on the target, pixels outside the source counting as
0. Reprojecting several images takes little longer than one."""


def times_coarser(dataset: rasterio.DatasetReader, geobox: GeoBox) -> float:
    """Return how many times a pixel of the grid is larger than one of the dataset.

    It is measured at the centre of the dataset, so that it does not depend on the window.
    """
    middle = (dataset.width / 2, dataset.height / 2)
    points = [(0, 0), (1, 0), (0, 1)]
    x, y = zip(
        *(dataset.transform @ (middle[0] + i, middle[1] + j) for i, j in points), strict=True
    )
    if (move := to_grid(dataset, geobox)) is not None:
        x, y = move.transform(x, y)
    width, height = (math.hypot(x[i] - x[0], y[i] - y[0]) for i in (1, 2))
    size = max(width, height)
    return abs(geobox.affine.a) / size if math.isfinite(size) and size > 0 else 1.0


def read_mean(
    dataset: rasterio.DatasetReader,
    target: GeoBox,
    source_window: SourceWindow,
    nodata: float | None,
    band: int = 1,
    label: str = "the raster",
) -> NDArray[Any]:
    """Return the mean of the source pixels that each pixel of `target` covers.

    Args:
        dataset: an open raster.
        target: the grid, coarser than the dataset.
        source_window: gives the window of the dataset that covers a grid.
        nodata: value that is no data; in rasters of floats also what is not finite or not
            above 0 (radar power).
        band: band of the dataset, from 1.
        label: name of the raster, for the log, which has the number of negative values.

    Returns:
        (H, W) in the dtype of the dataset, integers rounded half up; 0 where less than
        `MIN_COVERAGE` of a pixel has data.

    Raises:
        ReadError: a raster of floats cannot be linear power.
    """
    dtype = np.dtype(dataset.dtypes[band - 1])
    result = np.zeros(target.shape, dtype)
    negative = present = 0
    for rows, values, mean in _strips(dataset, target, source_window, band, STRIP_PIXELS // 2):
        valid = _has_data(values, nodata)
        if np.issubdtype(dtype, np.floating):
            # Averages of power skip negative values, so they are not seen afterwards.
            power = values if nodata is None else values[values != nodata]
            _check_power(power)
            counts = negative_values(power)
            negative, present = negative + counts[0], present + counts[1]
        coverage, total = mean([valid, np.where(valid, values, 0)])
        covered = coverage >= MIN_COVERAGE - TOLERANCE
        means = np.divide(total, coverage, out=np.zeros_like(total), where=covered)
        if np.issubdtype(dtype, np.integer):
            # Only sums of reprojected pixels are inexact, by about 1e-6.
            means = np.floor(np.round(means, 4) + 0.5)
        result[rows] = means
    if negative:
        log.log(
            logging.WARNING if negative >= NEGATIVE_WARNING_SHARE * present else logging.INFO,
            "%d values (%.1f %%) of %s are negative power: not in its means",
            negative, 100 * negative / present, label,
        )  # fmt: skip
    return result


def read_classes(
    dataset: rasterio.DatasetReader,
    target: GeoBox,
    source_window: SourceWindow,
    invalid: frozenset[int],
    band: int = 1,
) -> NDArray[Any]:
    """Return a class for each pixel of `target`, from the classes that it covers.

    If more than `MAX_INVALID_SHARE` of it is invalid, has no data or is outside the dataset, the
    most frequent invalid class is returned, otherwise the most frequent valid one.

    Args:
        dataset, target, source_window: as in `read_mean`; integers.
        invalid: invalid classes; 0 is one of them.
        band: band of the dataset, from 1.
    """
    result = np.zeros(target.shape, dataset.dtypes[band - 1])
    strip_pixels = STRIP_PIXELS // _CLASSES
    for rows, values, mean in _strips(dataset, target, source_window, band, strip_pixels):
        shape = result[rows].shape
        best = {group: np.zeros(shape) for group in (True, False)}
        chosen = {group: np.zeros(shape, result.dtype) for group in (True, False)}
        valid_share = np.zeros(shape)
        nodata = dataset.nodata
        for value, share in _shares(values, mean):
            bad = int(value) in invalid or value == nodata
            if not bad:
                valid_share += share
            more = share > best[bad] + TOLERANCE
            best[bad][more] = share[more]
            chosen[bad][more] = 0 if value == nodata else value
        valid = valid_share >= 1 - MAX_INVALID_SHARE - TOLERANCE
        result[rows] = np.where(valid, chosen[False], chosen[True])
    return result


def _shares(
    values: NDArray[Any], mean: AreaMean
) -> Iterator[tuple[np.integer[Any], NDArray[np.float64]]]:
    """Yield each class, in ascending order, and its share of each target pixel."""
    classes = np.unique(values)
    for start in range(0, len(classes), _CLASSES):
        group = classes[start : start + _CLASSES]
        yield from zip(group, mean([values == value for value in group]), strict=True)


def _check_power(values: NDArray[Any]) -> None:
    if problem := not_power(values):
        raise ReadError(
            f"{problem}, but gamma0 in linear power is positive. It is probably in decibels, or "
            "its no-data value is not declared. Convert it, or list the item in sentinel1.exclude."
        )


def _has_data(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    if np.issubdtype(values.dtype, np.floating):
        with np.errstate(invalid="ignore"):
            positive: NDArray[np.bool_] = np.isfinite(values) & (values > 0)
        return positive if nodata is None else positive & (values != nodata)
    if nodata is None:
        return np.ones(values.shape, np.bool_)
    present: NDArray[np.bool_] = values != nodata
    return present


def _strips(
    dataset: rasterio.DatasetReader,
    target: GeoBox,
    source_window: SourceWindow,
    band: int,
    strip_pixels: int,
) -> Iterator[tuple[slice, NDArray[Any], AreaMean]]:
    """Yield (rows of the target, source pixels, their mean on these rows), of at most about
    `strip_pixels` source pixels."""
    same = to_grid(dataset, target) is None
    a, b, left, d, e, top = tuple(dataset.transform)[:6]
    separable = same and not (b or d) and a > 0 > e
    window = source_window(target)
    pixels = max(1, window.width * window.height)
    rows_per_strip = max(1, strip_pixels * target.height // pixels)
    for first in range(0, target.height, rows_per_strip):
        rows = slice(first, min(first + rows_per_strip, target.height))
        strip = target[rows, :]
        window = source_window(strip)
        if window.width == 0 or window.height == 0:
            continue
        values = dataset.read(band, window=window)
        if separable:
            vertical = _Edges(top, e, strip.affine.f, strip.affine.e, strip.height)
            horizontal = _Edges(left, a, strip.affine.c, strip.affine.a, strip.width)
            yield rows, values, _separable(vertical, window.row_off, horizontal, window.col_off)
        else:
            yield rows, values, _reprojected(dataset, strip, window)


class _Edges:
    """The edges of target pixels along one axis, in pixels of the source."""

    def __init__(
        self, source: float, step: float, target: float, target_step: float, count: int
    ) -> None:
        self.ratio = target_step / step
        # Exact sums in float64: 16 bits of a value, two weights, and the number of pixels.
        bits = (52 - 16 - 2 * math.ceil(math.log2(self.ratio + 2))) // 2
        unit = 2.0 ** max(bits, 1)
        edges = (target + np.arange(count + 1) * target_step - source) / step
        self.edges = np.round(edges * unit) / unit

    def sums(self, values: NDArray[np.float64], offset: int) -> NDArray[np.float64]:
        """Return the weighted sums along axis 0, per target pixel; values outside count as 0.

        Args:
            values: source pixels, the first of which has the index `offset` in the source.
        """
        low, high = self.edges[:-1], self.edges[1:]
        first = np.floor(low)
        result = np.zeros((len(low), *values.shape[1:]))
        for tap in range(math.ceil((high - first).max())):
            index = first + tap
            weight = np.minimum(index + 1, high) - np.maximum(index, low)
            inside = (weight > 0) & (index >= offset) & (index < offset + len(values))
            if inside.all():
                result += weight[:, None] * values[(index - offset).astype(np.intp)]
            else:
                rows = (index[inside] - offset).astype(np.intp)
                result[inside] += weight[inside, None] * values[rows]
        return result

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Return the length of each target pixel in source pixels."""
        lengths: NDArray[np.float64] = np.diff(self.edges)
        return lengths


def _separable(rows: _Edges, row: int, columns: _Edges, column: int) -> AreaMean:
    area = rows.lengths[:, None] * columns.lengths[None, :]

    def mean(images: Sequence[NDArray[Any]]) -> list[NDArray[np.float64]]:
        by_row = [rows.sums(image.astype(np.float64), row) for image in images]
        return [columns.sums(np.ascontiguousarray(sums.T), column).T / area for sums in by_row]

    return mean


def _reprojected(
    dataset: rasterio.DatasetReader, target: GeoBox, window: RasterioWindow
) -> AreaMean:
    # The scale differs by up to a few thousandths between zones.
    times = math.ceil(times_coarser(dataset, target) - (COARSER - 1))
    # Pixels outside the dataset must count as 0, but GDAL ignores what is outside a raster.
    margin = 2 * times + 2
    transform = dataset.window_transform(window) @ Affine.translation(-margin, -margin)
    height, width = target.shape
    samples = (height * times, width * times)

    def mean(images: Sequence[NDArray[Any]]) -> list[NDArray[np.float64]]:
        masks = all(image.dtype == np.bool_ for image in images)
        dtype = "uint8" if masks else "float64"  # the result is float64
        around = ((0, 0), (margin, margin), (margin, margin))
        padded = np.pad(np.stack(images).astype(dtype), around)
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                count=padded.shape[0],
                height=padded.shape[1],
                width=padded.shape[2],
                dtype=dtype,
                crs=dataset.crs,
                transform=transform,
                interleave="band",
                photometric="minisblack",  # GDAL takes four bands for red, green, blue, alpha
                alpha="no",
            ) as source:
                source.write(padded)
            with (
                memory.open() as source,
                WarpedVRT(
                    source,
                    crs=str(target.crs),
                    transform=target.affine @ Affine.scale(1 / times),
                    height=samples[0],
                    width=samples[1],
                    resampling=Resampling.bilinear,
                    dtype="float64",
                    tolerance=1e-9,
                    XSCALE=1,
                    YSCALE=1,
                ) as vrt,
            ):
                fine = vrt.read()
        return [image.reshape(height, times, width, times).mean((1, 3)) for image in fine]

    return mean
