"""Find the pixels of labels, and read their embeddings; no label is dropped in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import rasterio.features
import shapely
import zarr
from affine import Affine
from numpy.typing import NDArray

from ..errors import LabelError
from ..products.reading.sample import read_pixels
from ..products.tables.points import Polygons
from ..region.crs import reproject
from ..region.pixel_order import pixel_priority
from .label_states import (
    CONFLICT,
    MEANINGS,
    NO_COORDINATES,
    NO_EMBEDDING,
    NO_PIXEL,
    NO_VALUE,
    OUTSIDE,
    STATES,
    TAKEN,
    USED,
)
from .labels import Labels

MAX_PIXELS = 200_000
"""Labelled pixels in memory; their embeddings take 100 MB."""

_TILE = 2048


@dataclass(frozen=True)
class LabelledPixels:
    """The pixels that a map is learned from, and what became of each label.

    Attributes:
        rows, columns: (m,) int64 position in the product grid; no two are the same.
        owner: (m,) int64 position of the label in its file.
        values: (m,) float64 number, or position of the class.
        embeddings: (m, K) float32, all finite.
        states: (n,) of each label of the file, one of `STATES`.
        used: (n,) int64 pixels that are used of it.
        conflicts: pixels that have labels of different classes, which are not used: row, column
            and the positions of the labels.
        averaged: pixels with several numbers, of which the mean is used.
        capped: polygons with more pixels than are used.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    owner: NDArray[np.int64]
    values: NDArray[np.float64]
    embeddings: NDArray[np.float32]
    states: NDArray[np.str_]
    used: NDArray[np.int64]
    conflicts: tuple[tuple[int, int, tuple[int, ...]], ...]
    averaged: int
    capped: int

    def counts(self) -> dict[str, int]:
        """Return the number of labels of each state that occurs."""
        counted = Counter(self.states.tolist())
        return {state: counted[state] for state in STATES if counted[state]}


@dataclass(frozen=True)
class _Candidates:
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    owner: NDArray[np.int64]


def label_pixels(group: zarr.Group, labels: Labels, per_polygon: int) -> LabelledPixels:
    """Return the pixels of labels in a store of embeddings.

    Args:
        group: the store.
        labels: the labels.
        per_polygon: largest number of pixels of a polygon. Those of lowest priority are used,
            which follows from the position of a pixel only.

    Raises:
        LabelError: no label can be used, or there are too many.
        TileError: a part of the store is missing or damaged.
    """
    states = np.full(len(labels.values), USED, dtype="<U16")
    states[~np.isfinite(labels.values)] = NO_VALUE
    grid = _Grid(group)
    if labels.polygons:
        candidates, capped = _of_polygons(grid, labels, per_polygon, states)
    else:
        candidates, capped = _of_points(grid, labels, states), 0
    if len(candidates.rows) > MAX_PIXELS:
        raise LabelError(
            f"The labels have {len(candidates.rows):,} pixels, more than {MAX_PIXELS:,}: use fewer "
            "labels" + (", or set pixels_per_polygon lower." if labels.polygons else ".")
        )
    embeddings, _ = read_pixels(group, candidates.rows, candidates.columns)
    valid: NDArray[np.bool_] = np.asarray(np.isfinite(embeddings).all(axis=1))
    _mark(states, candidates.owner, valid, NO_EMBEDDING)
    kept = _Candidates(*(part[valid] for part in vars(candidates).values()))
    keep, values, conflicts, averaged = _one_label_each(kept, labels, states)
    used = np.bincount(kept.owner[keep], minlength=len(states))
    if not len(keep):
        raise LabelError(_nothing_left(states, labels, grid))
    return LabelledPixels(
        kept.rows[keep],
        kept.columns[keep],
        kept.owner[keep],
        values,
        embeddings[valid][keep],
        states,
        used.astype(np.int64),
        conflicts,
        averaged,
        capped,
    )


class _Grid:
    """The grid of a store."""

    def __init__(self, group: zarr.Group) -> None:
        attributes: dict[str, Any] = group.attrs.asdict()
        self.crs = pyproj.CRS.from_user_input(
            attributes.get("proj:code") or attributes["proj:wkt2"]
        )
        self.name = attributes.get("proj:code", "its CRS")
        self.shape = tuple(int(n) for n in attributes["spatial:shape"])
        self.affine = Affine(*attributes["spatial:transform"])
        self.bbox = attributes["spatial:bbox"]


def _of_points(grid: _Grid, labels: Labels, states: NDArray[np.str_]) -> _Candidates:
    points: Any = labels.features
    x, y = points.to(grid.crs)
    column, row = ~grid.affine @ (x, y)
    known = np.isfinite(points.x) & np.isfinite(points.y)
    height, width = grid.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    valued = states == USED
    states[valued & ~known] = NO_COORDINATES
    states[valued & known & ~inside] = OUTSIDE
    owner = np.flatnonzero(valued & known & inside)
    return _Candidates(row[owner].astype(np.int64), column[owner].astype(np.int64), owner)


def _of_polygons(
    grid: _Grid, labels: Labels, most: int, states: NDArray[np.str_]
) -> tuple[_Candidates, int]:
    """Return the selected pixels of all polygons, and the number of polygons with more."""
    assert isinstance(labels.features, Polygons)
    rows, columns, owner, capped = [], [], [], 0
    total = 0
    for index, polygon in enumerate(labels.features.geometry):
        if states[index] != USED:
            continue
        if polygon is None or shapely.is_empty(polygon):
            states[index] = NO_COORDINATES
            continue
        polygon = reproject(polygon, labels.features.crs, grid.crs)
        cells = _cells(grid, polygon, most)
        if cells is None or not len(cells[0]):
            states[index] = OUTSIDE if cells is None else NO_PIXEL
            continue
        capped += cells[2] > most
        total += len(cells[0])
        if total > MAX_PIXELS:
            raise LabelError(
                f"The labels have more than {MAX_PIXELS:,} pixels: use fewer labels, or set "
                "pixels_per_polygon lower."
            )
        rows.append(cells[0])
        columns.append(cells[1])
        owner.append(np.full(len(cells[0]), index))
    join = np.concatenate
    empty = np.empty(0, np.int64)
    return _Candidates(
        *(join([empty, *parts]).astype(np.int64) for parts in (rows, columns, owner))
    ), capped


def _cells(
    grid: _Grid, polygon: shapely.Geometry, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int] | None:
    """Return rows and columns of at most `most` pixels whose centres are in a polygon, and the
    number of all; None if it is outside."""
    corners: Any = tuple(shapely.get_coordinates(polygon).T)
    x, y = ~grid.affine @ corners
    if not np.isfinite([x, y]).all():
        return None
    height, width = grid.shape
    top, bottom = max(0, int(np.floor(y.min()))), min(height, int(np.ceil(y.max())))
    left, right = max(0, int(np.floor(x.min()))), min(width, int(np.ceil(x.max())))
    if top >= bottom or left >= right:
        return None
    rows, columns = np.empty(0, np.int64), np.empty(0, np.int64)
    number = 0
    for y0 in range(top, bottom, _TILE):
        for x0 in range(left, right, _TILE):
            mask = rasterio.features.rasterize(
                [(polygon, 1)],
                out_shape=(min(_TILE, bottom - y0), min(_TILE, right - x0)),
                transform=grid.affine @ Affine.translation(x0, y0),
                dtype=np.uint8,
            )
            r, c = np.nonzero(mask)
            number += len(r)
            rows = np.concatenate([rows, r + y0])
            columns = np.concatenate([columns, c + x0])
            if len(rows) > most:
                priority = pixel_priority(rows.astype(np.uint64), columns.astype(np.uint64))
                chosen = np.sort(np.argpartition(priority, most - 1)[:most])
                rows, columns = rows[chosen], columns[chosen]
    beyond = x.min() < 0 or x.max() > width or y.min() < 0 or y.max() > height
    return None if not number and beyond else (rows, columns, number)


def _mark(
    states: NDArray[np.str_], owner: NDArray[np.int64], kept: NDArray[np.bool_], state: str
) -> None:
    """Set the state of labels that had pixels and have none left."""
    had = np.unique(owner)
    lost = np.setdiff1d(had, owner[kept])
    states[lost] = state


def _one_label_each(
    cells: _Candidates, labels: Labels, states: NDArray[np.str_]
) -> tuple[NDArray[np.intp], NDArray[np.float64], tuple[Any, ...], int]:
    """Return the candidates that are kept (one of each pixel), and their values.

    Of several labels of the same class in one pixel the first is kept; pixels with labels of
    different classes are not used; of several numbers the mean is used.
    """
    position = np.stack([cells.rows, cells.columns], axis=1)
    _, which = np.unique(position, axis=0, return_inverse=True)
    which = which.ravel()
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which))[:-1]
    keep, values, conflicts, averaged = [], [], [], 0
    lost_to: dict[int, str] = {}
    for members in np.split(order, ends) if len(order) else []:
        labelled = labels.values[cells.owner[members]]
        first = members[0]
        if labels.classes and (labelled != labelled[0]).any():
            owners = tuple(int(n) for n in cells.owner[members])
            conflicts.append((int(cells.rows[first]), int(cells.columns[first]), owners))
            lost_to |= dict.fromkeys(owners, CONFLICT)
            continue
        averaged += len(members) > 1 and not labels.classes
        keep.append(first)
        values.append(float(labelled.mean()))
        for other in cells.owner[members[1:]]:
            lost_to.setdefault(int(other), TAKEN)
    kept = np.array(keep, np.intp)
    by_position = np.argsort(kept)
    kept = kept[by_position]
    remaining = set(cells.owner[kept].tolist())
    for index, state in lost_to.items():
        if index not in remaining:
            states[index] = state
    return kept, np.array(values, np.float64)[by_position], tuple(conflicts), averaged


def _nothing_left(states: NDArray[np.str_], labels: Labels, grid: _Grid) -> str:
    counted = Counter(states.tolist())
    listed = ", ".join(f"{n} {MEANINGS[state]}" for state, n in counted.most_common())
    west, south, east, north = grid.bbox
    return (
        f"None of the {len(states)} {labels.noun} can be used ({listed}). The product covers x "
        f"{west:g} to {east:g} and y {south:g} to {north:g} in {grid.name}: check the labels, "
        "their CRS and the order of their coordinates."
    )
