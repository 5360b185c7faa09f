"""Compute the data of the explorer: embeddings of a thinned grid, small enough for the page.

`explorer.js` compares a pixel with all others from these data alone, without any request.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray

from ...region.grid import RegionGrid
from ..blocks import RegionBlocks
from ..components import valid_pixels
from ..provenance import Provenance
from .overview import sites

EDGE = 300
"""Most rows and columns of the image."""

_GAP = 4
"""Columns between two panels."""

CODE_BYTES = 4_000_000
"""Most bytes of all codes; in the page they take a third more."""

_MEMORY_BYTES = 100_000_000
_BATCH = 8192
_REFERENCES = 32
_NODES = (9, 17, 33, 65, 129)
_DEVIATION_METRES = 0.9
_METRES_PER_DEGREE = 111_319.49


@dataclass(frozen=True)
class Panel:
    """A part of the image: a site, or the whole region.

    Attributes:
        left: column of the image at which it begins; its first row is that of the image.
        row, column: of its first pixel in the thinned grid.
        height, width: in pixels of the thinned grid.
    """

    left: int
    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class Explorer:
    """The embeddings of every `step`-th row and column of a region, or of its far sites side by
    side.

    The cosine of two pixels a and b is sum(w a b) / sqrt(sum(w a a) sum(w b b)), with the codes a
    and b and the weights w.

    Attributes:
        step: in pixels of the product grid.
        panels: what the image shows, see `Panel`.
        valid: (h, w) whether a pixel of the image has an embedding.
        codes: (n, k) int8, of the pixels with an embedding, row by row.
        weights: (k,) float64.
        dim: K, dimensions of the embeddings.
        exact: whether the codes are the int8 codes of the product; otherwise they are the k
            leading components of the directions of the embeddings.
        deviation: (mean, largest) difference from the cosine of the stored embeddings, of 32
            pixels with all others.
    """

    step: int
    panels: tuple[Panel, ...]
    valid: NDArray[np.bool_]
    codes: NDArray[np.int8]
    weights: NDArray[np.float64]
    dim: int
    exact: bool
    deviation: tuple[float, float]


def read_explorer(
    grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> Explorer | None:
    """Read the embeddings of a thinned grid, in one pass; None if no pixel of it has one.

    Args:
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: of the products.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
    """
    with RegionBlocks(grid, blocks, provenance) as source:
        edge = min(EDGE, int((_MEMORY_BYTES / source.pixel_bytes("embeddings")) ** 0.5))
        height, width = source.shape
        windows = sites(grid) or [(0, 0, width, height)]
        step, panels = _panels(windows, max(1, edge))
        valid, values = _thinned(source, step, panels)
        quantised = source.quantised
    if not len(values):
        return None
    dim = values.shape[1]
    size = min(dim, max(1, CODE_BYTES // len(values)))
    exact = quantised and size == dim
    if exact:
        codes, weights = values.astype(np.int8), np.ones(dim)
    else:
        codes, weights = _components(values, size)
    return Explorer(
        step, panels, valid, codes, weights, dim, exact, _deviation(values, codes, weights)
    )


def _panels(
    windows: Sequence[tuple[int, int, int, int]], edge: int
) -> tuple[int, tuple[Panel, ...]]:
    """Return the smallest step with which windows (x, y, width, height), side by side, have at most
    `edge` rows and columns, and the panels."""
    step = 1
    while True:
        panels: list[Panel] = []
        left = 0
        for x, y, width, height in windows:
            row, column = -(-y // step), -(-x // step)
            rows, columns = -(-(y + height) // step) - row, -(-(x + width) // step) - column
            if rows > 0 and columns > 0:
                panels.append(Panel(left, row, column, rows, columns))
                left += columns + _GAP
        if max(left - _GAP, *(panel.height for panel in panels)) <= edge:
            return step, tuple(panels)
        step += 1


def _thinned(
    source: RegionBlocks, step: int, panels: Sequence[Panel]
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Return which pixels of the image have an embedding, and the values of those that have one,
    (n, K); the scale of a pixel does not change its direction."""
    shape = max(panel.height for panel in panels), panels[-1].left + panels[-1].width
    valid = np.zeros(shape, bool)
    values = np.zeros((*shape, source.dim), source.dtype)
    for block_id, inside, window in source.pieces():
        y0, x0 = -window.y0 % step, -window.x0 % step
        if y0 >= window.height or x0 >= window.width:
            continue
        top, left = (window.y0 + y0) // step, (window.x0 + x0) // step
        thinned = source.read(block_id, "embeddings", inside)[y0::step, x0::step]
        if source.quantised:
            scales = source.read(block_id, "scales", inside)[y0::step, x0::step]
            known = valid_pixels(None, scales)
        else:
            known = valid_pixels(thinned, None)
        known &= (thinned != 0).any(axis=-1)  # a vector of zeros has no direction
        for panel in panels:
            rows = max(top, panel.row), min(top + known.shape[0], panel.row + panel.height)
            columns = (
                max(left, panel.column),
                min(left + known.shape[1], panel.column + panel.width),
            )
            if rows[0] >= rows[1] or columns[0] >= columns[1]:
                continue
            given = slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left)
            start = panel.left - panel.column
            target = (
                slice(rows[0] - panel.row, rows[1] - panel.row),
                slice(columns[0] + start, columns[1] + start),
            )
            valid[target], values[target] = known[given], thinned[given]
    return valid, values[valid]


def _units(values: NDArray[Any]) -> NDArray[np.float64]:
    vectors = values.astype(np.float64)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _components(values: NDArray[Any], size: int) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Return the codes and weights of the `size` leading components of the unit vectors: of their
    second moments, not of their covariance, so that products of components approximate cosines."""
    moments = np.zeros((values.shape[1],) * 2)
    for start in range(0, len(values), _BATCH):
        units = _units(values[start : start + _BATCH])
        moments += units.T @ units
    axes = np.linalg.eigh(moments)[1][:, ::-1][:, :size]
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[np.newaxis], axis=0))
    scores = np.concatenate(
        [
            (_units(values[start : start + _BATCH]) @ axes).astype(np.float32)
            for start in range(0, len(values), _BATCH)
        ]
    )
    scales = np.maximum(np.abs(scores).max(axis=0).astype(np.float64), 1e-12) / 127
    return np.rint(scores / scales).astype(np.int8), scales**2


def _deviation(
    values: NDArray[Any], codes: NDArray[np.int8], weights: NDArray[np.float64]
) -> tuple[float, float]:
    chosen = np.unique(np.linspace(0, len(values) - 1, _REFERENCES).astype(int))
    roots = np.sqrt(weights)
    references, dequantised = _units(values[chosen]), _units(codes[chosen] * roots)
    total = largest = 0.0
    for start in range(0, len(values), _BATCH):
        batch = slice(start, start + _BATCH)
        expected = _units(values[batch]) @ references.T
        difference = np.abs(_units(codes[batch] * roots) @ dequantised.T - expected)
        total += float(difference.sum())
        largest = max(largest, float(difference.max()))
    return total / (len(values) * len(chosen)), largest


def page_data(explorer: Explorer, grid: RegionGrid) -> dict[str, Any]:
    """Return the data that `explorer.js` reads, as JSON values.

    `valid` has a bit for each pixel, row by row, the highest bit of a byte first; `codes` are those
    of the valid pixels; both in base64. `nodes` are degrees of longitude and latitude on a regular
    grid of points from corner to corner of the region's grid, between which the page interpolates.
    """
    geobox = grid.product_geobox
    height, width = (int(n) for n in geobox.shape)
    return {
        "height": explorer.valid.shape[0],
        "width": explorer.valid.shape[1],
        "step": explorer.step,
        "panels": [asdict(panel) for panel in explorer.panels],
        "shape": [height, width],
        "size": len(explorer.weights),
        "weights": [float(f"{weight:.9g}") for weight in explorer.weights],
        "valid": base64.b64encode(np.packbits(explorer.valid).tobytes()).decode("ascii"),
        "codes": base64.b64encode(explorer.codes.tobytes()).decode("ascii"),
        "crs": grid.crs if len(grid.crs) < 20 else "the CRS of the region",
        "transform": [float(n) for n in geobox.affine[:6]],
        "nodes": nodes(geobox.affine, grid.crs, height, width),
    }


def nodes(affine: Any, crs: str, height: int, width: int) -> dict[str, list[list[float]]] | None:
    """Return degrees of longitude and latitude of a regular grid of points from corner to corner.

    They are as many as it takes for the values between them, by bilinear interpolation, to deviate
    by less than a metre. Longitudes are continuous: beyond the antimeridian they are larger than
    180 or smaller than -180.

    Args:
        affine: (column, row) to coordinates in `crs`.
        crs: of the grid.
        height, width: of the grid, in pixels.

    Returns:
        None if there are no such points, as around a pole.
    """
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)

    def degrees(number: int) -> NDArray[np.float64]:
        rows, columns = np.meshgrid(
            np.linspace(0, height, number), np.linspace(0, width, number), indexing="ij"
        )
        lon, lat = to_degrees.transform(*(affine * (columns, rows)))
        lon = np.unwrap(np.unwrap(lon, period=360, axis=0), period=360, axis=1)
        return np.stack([lon, lat])

    for number in _NODES:
        exact = degrees(2 * number - 1)
        shown = exact[:, ::2, ::2]
        middle = (shown[:, 1:, 1:] + shown[:, :-1, :-1] + shown[:, 1:, :-1] + shown[:, :-1, 1:]) / 4
        sides = (shown[:, :, 1:] + shown[:, :, :-1]) / 2, (shown[:, 1:] + shown[:, :-1]) / 2
        worst = max(
            _metres(middle, exact[:, 1::2, 1::2]),
            _metres(sides[0], exact[:, ::2, 1::2]),
            _metres(sides[1], exact[:, 1::2, ::2]),
        )
        if worst < _DEVIATION_METRES:
            return {name: np.round(shown[k], 7).tolist() for k, name in enumerate(("lon", "lat"))}
    return None


def _metres(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the largest distance of pairs of points near to each other; infinite without one."""
    lon, lat = (one - other) * _METRES_PER_DEGREE
    distances = np.hypot(lon * np.cos(np.radians(other[1])), lat)
    return float(np.nan_to_num(distances, nan=np.inf).max())
