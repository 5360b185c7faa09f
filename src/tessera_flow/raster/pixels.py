"""Read single pixels of a grid from a raster, block by block of its file.

The numbers are those of `resample.read_window`, which do not depend on the window. Pixels that
need the same blocks of the file are read in one window, so each block is fetched once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window as RasterioWindow

from .resample import (
    KERNEL_MARGIN,
    Prefetch,
    ReadOptions,
    aligned_offset,
    no_prefetch,
    read_window,
)
from .transformers import from_grid

BATCH_BYTES = 2**25
"""Decoded size of the blocks of a raster that are fetched at a time."""

KEYS_AT_A_TIME = 2**17
"""Pixels whose positions in a raster are computed at a time, each with about 400 bytes."""

LARGEST_WINDOW = 1024
"""Edge of the largest window of the grid that is read at once, in pixels."""

WARPED_WINDOW = 16
"""The same if the raster has another CRS. Its blocks are at an angle to the grid, so the rectangle
around distant pixels of one block would reach into others."""

_SMALL = 1e-6

_grouping = threading.Lock()
"""Held to group the pixels of a raster: else many threads at a time, each with its memory."""


@dataclass(frozen=True)
class PixelList:
    """N pixels of a grid.

    Attributes:
        geobox: the grid.
        rows, columns: (N,) int64, each pixel once.
    """

    geobox: GeoBox
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class _Group:
    """Pixels that need the same blocks.

    Attributes:
        index: of the pixels in their list.
        blocks: window of the raster that consists of these blocks.
        count: number of these blocks.
    """

    index: NDArray[np.int32]
    blocks: RasterioWindow
    count: int


def read_pixels(
    dataset: rasterio.DatasetReader,
    pixels: PixelList,
    options: ReadOptions,
    label: str,
    prefetch: Prefetch,
) -> NDArray[Any]:
    """Read a band of `dataset` at pixels of a grid.

    Args:
        dataset: an open raster with a CRS.
        pixels: pixels of the grid.
        options: resampling options.
        label: name of the dataset, for messages.
        prefetch: called with the windows of the dataset that are read next, and as `keep` with
            those that are read later; without a window before the pixels are grouped.

    Returns:
        (N,) in the dtype of the dataset, 0 for no data.

    Raises:
        ReadError: see `resample.read_window`.
    """
    result = np.zeros(len(pixels), dataset.dtypes[options.band - 1])
    with _grouping:
        prefetch()
        batches = list(_batches(_groups(dataset, pixels), dataset, options.band))
    for number, batch in enumerate(batches):
        later = [group.blocks for group in chain.from_iterable(batches[number + 1 :])]
        prefetch(*(group.blocks for group in batch), keep=later)
        for group in batch:
            rows, columns = pixels.rows[group.index], pixels.columns[group.index]
            top, left = int(rows.min()), int(columns.min())
            box = pixels.geobox[top : int(rows.max()) + 1, left : int(columns.max()) + 1]
            part, values = read_window(dataset, box, options, label, no_prefetch)
            image = np.zeros(box.shape, values.dtype)
            image[part] = values
            result[group.index] = image[rows - top, columns - left]
    return result


def _batches(
    groups: list[_Group], dataset: rasterio.DatasetReader, band: int
) -> Iterator[list[_Group]]:
    """Yield groups that are fetched together."""
    height, width = dataset.block_shapes[band - 1]
    size = height * width * np.dtype(dataset.dtypes[band - 1]).itemsize
    batch: list[_Group] = []
    count = 0
    for group in groups:
        if batch and (count + group.count) * size > BATCH_BYTES:
            yield batch
            batch, count = [], 0
        batch.append(group)
        count += group.count
    if batch:
        yield batch


def _groups(dataset: rasterio.DatasetReader, pixels: PixelList) -> list[_Group]:
    """Group the pixels that the dataset covers by the blocks that they need, row by row."""
    parts = [
        _keys(dataset, pixels, slice(start, start + KEYS_AT_A_TIME))
        for start in range(0, len(pixels), KEYS_AT_A_TIME)
    ]
    if not sum(len(index) for index, _ in parts):
        return []
    index = np.concatenate([index for index, _ in parts])
    keys = np.concatenate([keys for _, keys in parts], axis=1)
    del parts
    # Lexicographic order: as the blocks are in the file. Stable, and few keys differ: fast.
    order = np.lexsort(keys[::-1])
    changes = np.zeros(len(index) - 1, bool)
    for key in keys:
        ordered = key[order]
        changes |= ordered[1:] != ordered[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    height, width = dataset.shape
    block_height, block_width = dataset.block_shapes[0]
    groups = []
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        members = order[start:end]
        top, left, bottom, right = keys[:4, members[0]].tolist()
        y, x = top * block_height, left * block_width
        window = RasterioWindow(
            x, y,
            min((right + 1) * block_width, width) - x,
            min((bottom + 1) * block_height, height) - y,
        )  # fmt: skip
        count = (bottom - top + 1) * (right - left + 1)
        groups.append(_Group(index[members], window, count))
    return groups


def _keys(
    dataset: rasterio.DatasetReader, pixels: PixelList, part: slice
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the index (n,) of the pixels of a part that the dataset covers, and by what they are
    grouped, (6, n): first and last block (row, column) and window of the grid."""
    listed = PixelList(pixels.geobox, pixels.rows[part], pixels.columns[part])
    edges = _source_edges(dataset, listed)
    covered = np.isfinite(edges).all(axis=0)
    first_row, first_column, last_row, last_column = np.where(covered, edges, -2).astype(np.int64)
    height, width = dataset.shape
    covered &= (last_row >= 0) & (last_column >= 0) & (first_row < height) & (first_column < width)
    index = np.flatnonzero(covered)
    turned = from_grid(pixels.geobox, dataset) is not None
    edge = WARPED_WINDOW if turned else LARGEST_WINDOW
    block_height, block_width = dataset.block_shapes[0]
    keys = [
        np.clip(first_row[index], 0, height - 1) // block_height,
        np.clip(first_column[index], 0, width - 1) // block_width,
        np.clip(last_row[index], 0, height - 1) // block_height,
        np.clip(last_column[index], 0, width - 1) // block_width,
        listed.rows[index] // edge,
        listed.columns[index] // edge,
    ]
    return (index + part.start).astype(np.int32), np.stack(keys).astype(np.int32)


def _source_edges(dataset: rasterio.DatasetReader, pixels: PixelList) -> NDArray[np.float64]:
    """Return the first row and column and the last row and column, (4, N), of the dataset that the
    resampling of each pixel can need."""
    affine: Any = pixels.geobox.affine
    corners = []
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = affine @ (pixels.columns + float(right), pixels.rows + float(down))
        if (move := from_grid(pixels.geobox, dataset)) is not None:
            x, y = move.transform(x, y)
        corners.append(~dataset.transform @ (np.asarray(x), np.asarray(y)))
    columns = np.stack([corner[0] for corner in corners])
    rows = np.stack([corner[1] for corner in corners])
    margin = 1 + KERNEL_MARGIN / 2
    for scale in (1, 2):
        if aligned_offset(dataset, pixels.geobox, scale) is not None:
            margin = scale - 1
            break
    return np.stack(
        [
            np.floor(rows.min(axis=0) - margin + _SMALL),
            np.floor(columns.min(axis=0) - margin + _SMALL),
            np.ceil(rows.max(axis=0) + margin - _SMALL) - 1,
            np.ceil(columns.max(axis=0) + margin - _SMALL) - 1,
        ]
    )
