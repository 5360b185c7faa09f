"""Read dequantised embeddings of any product, window by window, also of coarser cells or of another
grid.

A view is a grid and a function from a window to float32 pixels. Views are stacked: the product,
cells that average its pixels, dimensions or components, and the grid of the export.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray

from ...errors import RegionError, TileError
from ...npy_file import open_array
from ...region.grid import Window, tiling
from ..reading.description import read_record
from ..reading.find import STORE_NAME
from ..reading.sample import Parts, open_store

ARRAYS = "stitched_representation.json"
LEAST_SHARE = 0.5
"""Share of the pixels of a cell that must have an embedding for the cell to have one."""

_MAX_PIXELS = 2**20
_FIT_PIXELS = 500_000


@dataclass(frozen=True)
class View:
    """A raster of embeddings.

    Attributes:
        shape: (height, width).
        transform: of pixel corners, rows from the north.
        crs: of the grid.
        names: of the bands.
        tile: edge of windows that are cheap to read.
        read: returns (height, width, bands) float32 of a window, NaN without an embedding.
    """

    shape: tuple[int, int]
    transform: Affine
    crs: pyproj.CRS
    names: tuple[str, ...]
    tile: int
    read: Callable[[Window], NDArray[np.float32]]


def open_view(path: Path) -> tuple[View, dict[str, Any]]:
    """Open a product: the Zarr store or the arrays, or a folder with one of them.

    Returns:
        The view, and the product's record (see `provenance`).

    Raises:
        TileError: there is no such product, or it is damaged.
    """
    for name in (STORE_NAME, ARRAYS):
        if (path / name).exists() and not (path / "zarr.json").exists():
            path = path / name
            break
    if path.name.startswith("stitched_representation"):
        path = path.with_name(ARRAYS)
    if not path.exists():
        raise TileError(f"{path} does not exist: name {STORE_NAME}, {ARRAYS} or their folder.")
    if path.is_file() and path.name == ARRAYS:
        return _arrays(path)
    if path.is_file():
        raise TileError(
            f"{path} is not a product that can be exported: name {STORE_NAME}, {ARRAYS} or their "
            "folder. GDAL and QGIS convert a GeoTIFF."
        )
    return _store(path)


def _place(record: dict[str, Any]) -> dict[str, Any]:
    height, width = record["shape"]
    return {
        "shape": (int(height), int(width)),
        "transform": Affine(*record["transform"]),
        "crs": pyproj.CRS.from_user_input(record["crs"]),
        "names": tuple(f"dimension {k}" for k in range(int(record["model"]["dim"]))),
    }


def _store(path: Path) -> tuple[View, dict[str, Any]]:
    group = open_store(path)
    record = read_record(path)
    parts = Parts(group)
    arrays: dict[str, Any] = {n: group[n] for n in ("embeddings", "scales") if n in group}
    edge = int(arrays["embeddings"].chunks[-1])

    def read(window: Window) -> NDArray[np.float32]:
        # One chunk at a time: `Parts` compares the file of each with the record.
        result = np.full((*window.shape, arrays["embeddings"].shape[1]), np.nan, np.float32)
        last_y, last_x = window.y0 + window.height, window.x0 + window.width
        for y in range(window.y0 - window.y0 % edge, last_y, edge):
            for x in range(window.x0 - window.x0 % edge, last_x, edge):
                rows = slice(max(y, window.y0), min(y + edge, last_y))
                columns = slice(max(x, window.x0), min(x + edge, last_x))
                values = parts.read(arrays["embeddings"], rows, columns)
                if "scales" in arrays:
                    scales = parts.read(arrays["scales"], rows, columns)
                    fill = arrays["embeddings"].fill_value
                    parts.check_codes(values, scales, fill, rows, columns)
                    values = values * scales
                result[
                    rows.start - window.y0 : rows.stop - window.y0,
                    columns.start - window.x0 : columns.stop - window.x0,
                ] = np.moveaxis(values, 0, -1)
        return result

    return View(**_place(record), tile=edge * max(1, 512 // edge), read=read), record


def _arrays(path: Path) -> tuple[View, dict[str, Any]]:
    record = read_record(path)
    stem = path.with_suffix("")
    shape = (*record["shape"], record["model"]["dim"])
    try:
        values = open_array(stem.with_suffix(".npy"))
        scales = None
        if record["model"]["dtype"] == "int8":
            scales = open_array(stem.with_name(f"{stem.name}_scales.npy"))
    except (OSError, ValueError, EOFError) as error:
        raise TileError(f"{stem}.npy or its scales cannot be read ({error}).") from error
    expected = str(np.dtype(record["model"]["dtype"]))
    if values.shape != shape or str(values.dtype) != expected:
        raise TileError(
            f"{stem}.npy is {values.shape} {values.dtype}, but {path.name} states {shape} "
            f"{expected}: run the workflow again."
        )
    if scales is not None and (scales.shape, scales.dtype) != (shape[:2], np.dtype(np.float32)):
        raise TileError(
            f"{stem}_scales.npy is {scales.shape} {scales.dtype}, but {path.name} states "
            f"{shape[:2]} float32: run the workflow again."
        )

    def read(window: Window) -> NDArray[np.float32]:
        pixels = np.asarray(values[window.slices], np.float32)
        return pixels if scales is None else pixels * scales[window.slices][..., np.newaxis]

    return View(**_place(record), tile=512, read=read), record


def coarser(view: View, cells: int) -> View:
    """Return the means of `cells` x `cells` pixels, from the upper left corner.

    A cell has a value if at least half of its pixels have an embedding; pixels beyond the product
    have none.
    """
    height, width = (math.ceil(n / cells) for n in view.shape)

    def read(window: Window) -> NDArray[np.float32]:
        result = np.empty((*window.shape, len(view.names)), np.float32)
        for part in tiling(*window.shape, max(1, view.tile // cells)):  # memory: a tile of pixels
            moved = replace(part, y0=part.y0 + window.y0, x0=part.x0 + window.x0)
            result[part.slices] = _means(view, cells, moved)
        return result

    return replace(
        view,
        shape=(height, width),
        transform=view.transform * Affine.scale(cells),
        tile=max(1, view.tile // cells),
        read=read,
    )


def _means(view: View, cells: int, window: Window) -> NDArray[np.float32]:
    """Return the means of some cells: of a window of at most a tile, or of one cell."""
    y0, x0 = window.y0 * cells, window.x0 * cells
    height = min(window.height * cells, view.shape[0] - y0)
    width = min(window.width * cells, view.shape[1] - x0)
    sums = np.zeros((*window.shape, len(view.names)))
    number = np.zeros(window.shape, np.int64)
    for piece in tiling(height, width, view.tile):  # one, unless a cell is larger than a tile
        pixels = view.read(replace(piece, y0=piece.y0 + y0, x0=piece.x0 + x0))
        if window.shape != (1, 1):
            missing = (window.height * cells - height, window.width * cells - width)
            edges = ((0, missing[0]), (0, missing[1]), (0, 0))
            pixels = np.pad(pixels, edges, constant_values=np.nan)
        rows, columns = (n // m for n, m in zip(pixels.shape, window.shape, strict=False))
        parts = pixels.reshape(window.height, rows, window.width, columns, -1)
        number += np.isfinite(parts[..., 0]).sum(axis=(1, 3))
        sums += np.nansum(parts, axis=(1, 3), dtype=np.float64)
    enough = number >= LEAST_SHARE * cells**2
    means = sums / np.maximum(number, 1)[..., np.newaxis]
    return np.where(enough[..., np.newaxis], means, np.nan).astype(np.float32)


def chosen(view: View, dimensions: tuple[int, ...]) -> View:
    """Return some of the dimensions, in this order.

    Raises:
        TileError: the product does not have one of them.
    """
    missing = [k for k in dimensions if not 0 <= k < len(view.names)]
    if missing or not dimensions:
        raise TileError(
            f"--bands: the product has the dimensions 0 to {len(view.names) - 1}, not "
            f"{', '.join(map(str, missing)) or 'none'}."
        )
    names = tuple(view.names[k] for k in dimensions)
    return replace(view, names=names, read=lambda window: view.read(window)[..., dimensions])


def components(view: View, number: int) -> tuple[View, dict[str, Any]]:
    """Return the first principal components of all dimensions, and how they are made.

    They are fitted on all pixels with an embedding, or on those of every n-th row and column if
    there are more than 500,000. The entry of a component that is largest in magnitude is positive.

    Raises:
        TileError: fewer pixels with an embedding than components, or fewer dimensions.
    """
    step = max(1, math.ceil(math.sqrt(view.shape[0] * view.shape[1] / _FIT_PIXELS)))
    dim = len(view.names)
    total, product, pixels = np.zeros(dim), np.zeros((dim, dim)), 0
    for window in tiling(*view.shape, view.tile):
        first = (-window.y0 % step, -window.x0 % step)
        values = view.read(window)[first[0] :: step, first[1] :: step].reshape(-1, dim)
        values = values[np.isfinite(values).all(axis=1)].astype(np.float64)
        total += values.sum(axis=0)
        product += values.T @ values
        pixels += len(values)
    if not 1 <= number <= min(dim, pixels - 1):
        raise TileError(
            f"--pca {number}: the product has {dim} dimensions and {pixels} pixels with an "
            "embedding that components are fitted on."
        )
    mean = total / pixels
    covariance = (product - pixels * np.outer(mean, mean)) / (pixels - 1)
    variances, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :number]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(number)])
    record = {
        "components": number,
        "pixels": pixels,
        "variance_shares": (variances[::-1][:number] / variances.sum()).tolist(),
        "mean": mean.tolist(),
        "axes": axes.T.tolist(),
    }

    def read(window: Window) -> NDArray[np.float32]:
        return np.asarray((view.read(window) - mean) @ axes, np.float32)

    names = tuple(f"component {k + 1}" for k in range(number))
    return replace(view, names=names, read=read), record


def nearest(view: View, grid: tuple[tuple[int, int], Affine, pyproj.CRS]) -> View:
    """Return the pixels whose centres are nearest to those of another grid.

    Args:
        view: the embeddings.
        grid: shape, transform and CRS.

    Raises:
        RegionError: the CRS cannot be transformed into each other.
    """
    shape, transform, crs = grid
    try:
        to_source = pyproj.Transformer.from_crs(crs, view.crs, always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise RegionError(f"{crs.name} cannot be transformed to {view.crs.name}.") from error
    inverse = ~view.transform

    def read(window: Window) -> NDArray[np.float32]:
        x, y = transform @ tuple(
            np.meshgrid(
                window.x0 + np.arange(window.width) + 0.5,
                window.y0 + np.arange(window.height) + 0.5,
            )
        )
        column, row = inverse @ to_source.transform(x, y)
        inside = (row >= 0) & (row < view.shape[0]) & (column >= 0) & (column < view.shape[1])
        result = np.full((*window.shape, len(view.names)), np.nan, np.float32)
        if not inside.any():
            return result
        rows, columns = row[inside].astype(np.int64), column[inside].astype(np.int64)
        y0, x0 = int(rows.min()), int(columns.min())
        source = Window(y0, x0, int(rows.max()) - y0 + 1, int(columns.max()) - x0 + 1)
        if source.height * source.width > _MAX_PIXELS and max(window.shape) > 1:
            half = max(window.shape) // 2
            for part in tiling(*window.shape, half):
                moved = replace(part, y0=part.y0 + window.y0, x0=part.x0 + window.x0)
                result[part.slices] = read(moved)
            return result
        result[inside] = view.read(source)[rows - y0, columns - x0]
        return result

    return replace(view, shape=shape, transform=transform, crs=crs, tile=512, read=read)
