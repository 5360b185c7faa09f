"""Sample embeddings at points from a Zarr store, chunk by chunk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyproj
import zarr
import zarr.storage
from affine import Affine
from numpy.typing import NDArray
from zarr.abc.store import Store

from ...errors import RegionError, TileError
from ...inference.block_embeddings import ORIGINS
from ..blocks import COUNT_KINDS
from ..checksums import STORE_RECORD, Checksums, damage_message
from ..stores.cube import CUBE
from ..tables.points import Points

logger = logging.getLogger(__name__)

_NAMES_IN_MESSAGE = 5
INSIDE, NO_EMBEDDING, OUTSIDE = "ok", "no embedding", "outside"
NO_COORDINATES = "no coordinates"


@dataclass(frozen=True)
class Sample:
    """Embeddings and counts of a store at n points.

    Attributes:
        embeddings: (n, K) float32, NaN without an embedding.
        counts: (n, 3) uint16: valid S2, S1 ascending, S1 descending steps; (n, 0) if the
            store has no counts.
        rows, columns: (n,) int64 position in the product grid, -1 outside.
        state: (n,) `ok`, `no embedding`, `outside` or `no coordinates`.
        origin: (n,) `published`, `computed` or `none`; None if the store does not have it.
    """

    embeddings: NDArray[np.float32]
    counts: NDArray[np.uint16]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    state: NDArray[np.str_]
    origin: NDArray[np.str_] | None = None

    def columns_after(self, table: pa.Table) -> pa.Table:
        """Return `table` with the sample's columns `row`, `column`, `state`, `origin` and the
        counts, where they are known, and `e000`, `e001`, ... appended.

        Raises:
            RegionError: the table already has such a column; of two columns with one name,
                readers use only the first.
        """
        new: dict[str, NDArray[Any]] = {
            "row": self.rows,
            "column": self.columns,
            "state": self.state,
            **({} if self.origin is None else {"origin": self.origin}),
            **dict(zip(COUNT_KINDS, self.counts.T, strict=False)),
            **{f"e{k:03d}": self.embeddings[:, k] for k in range(self.embeddings.shape[1])},
        }
        return append_columns(table, new, "points")


def append_columns(table: pa.Table, new: Mapping[str, NDArray[Any]], features: str) -> pa.Table:
    """Return a table with more columns.

    Raises:
        RegionError: it has one of them; `features` names its rows.
    """
    if duplicates := [name for name in new if name in table.column_names]:
        raise RegionError(
            f"The {features} already have the columns {', '.join(duplicates[:_NAMES_IN_MESSAGE])}, "
            "which the table of embeddings adds: rename or remove them."
        )
    for name, values in new.items():
        table = table.append_column(name, pa.array(values))
    return table


def open_store(path: Path | Store, cube: bool = False) -> zarr.Group:
    """Open a store written by `zarr_store.write_zarr` for reading; with `cube` also one of several
    periods.

    Raises:
        TileError: it is not such a store.
    """
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise TileError(
            f"{path} is not a Zarr v3 store: name embeddings.zarr of a region and period."
        ) from error
    if "embeddings" not in group or "spatial:transform" not in group.attrs:
        raise TileError(
            f"{path} is a Zarr store without embeddings or without their transform: name "
            "embeddings.zarr of a region and period."
        )
    if CUBE in group.attrs and not cube:
        raise TileError(
            f"{path} has several periods: name embeddings.zarr of one of them, beside it."
        )
    return group


def sample_store(group: zarr.Group, points: Points, required: bool = True, time: int = 0) -> Sample:
    """Sample the pixel that contains each point; each chunk is read once for all its points.

    Args:
        group: the store.
        points: the points.
        required: whether it is an error if all of them are outside the store.
        time: index of the period.

    Raises:
        RegionError: there are points, but all of them are outside the store.
        TileError: a part of the store that is read is missing, shortened or altered.
    """
    attributes: dict[str, Any] = group.attrs.asdict()
    crs = pyproj.CRS.from_user_input(attributes.get("proj:code") or attributes["proj:wkt2"])
    height, width = (int(n) for n in attributes["spatial:shape"])
    x, y = points.to(crs)
    column, row = ~Affine(*attributes["spatial:transform"]) @ (x, y)
    known = np.isfinite(points.x) & np.isfinite(points.y)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    if required and known.any() and not inside.any():
        west, south, east, north = attributes["spatial:bbox"]
        raise RegionError(
            f"None of the {known.sum()} points is in the product, which covers x {west:g} to "
            f"{east:g} and y {south:g} to {north:g} in {attributes.get('proj:code', 'its CRS')}: "
            "check the points' CRS and the order of their coordinates."
        )
    rows = np.where(inside, row, -1).astype(np.int64)
    columns = np.where(inside, column, -1).astype(np.int64)
    embeddings, counts = read_pixels(group, rows, columns, time)
    valid = np.isfinite(embeddings).all(axis=1)
    state = np.where(inside, np.where(valid, INSIDE, NO_EMBEDDING), OUTSIDE)
    state = np.where(known, state, NO_COORDINATES)
    for name in (NO_EMBEDDING, OUTSIDE, NO_COORDINATES):
        if number := int((state == name).sum()):
            logger.warning("%d of %d points: %s", number, len(state), name)
    origin = read_origin(group, rows, columns, time)
    return Sample(embeddings, counts, rows, columns, state, origin)


def read_pixels(
    group: zarr.Group, rows: NDArray[np.int64], columns: NDArray[np.int64], time: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Read pixels of a store; each chunk is read once.

    Args:
        group: the store.
        rows, columns: (n,) position in the product grid; -1 outside.
        time: index of the period.

    Returns:
        (n, K) embeddings, NaN where there is none; (n, 3) counts, or (n, 0) if there are none.

    Raises:
        TileError: a part of the store that is read is missing, shortened or altered.
    """
    stored: dict[str, Any] = {
        name: group[name]
        for name in ("embeddings", "scales", "observation_counts")
        if name in group
    }
    parts = Parts(group, time)
    dim = stored["embeddings"].shape[1]
    embeddings = np.full((len(rows), dim), np.nan, np.float32)
    counted = "observation_counts" in stored
    counts = np.zeros((len(rows), len(COUNT_KINDS) if counted else 0), np.uint16)
    targets = {"observation_counts": counts, "embeddings": embeddings}
    for name in (name for name in targets if name in stored):
        target = targets[name]
        for y, x, selected in _by_chunk(stored[name], rows, columns):
            chunk = parts.read(stored[name], y, x)
            target[selected] = chunk[:, rows[selected] - y.start, columns[selected] - x.start].T
    if "scales" in stored:
        absent = (embeddings == stored["embeddings"].fill_value).all(axis=1)
        for y, x, selected in _by_chunk(stored["scales"], rows, columns):
            scales = parts.read(stored["scales"], y, x)[
                rows[selected] - y.start, columns[selected] - x.start
            ]
            if (absent[selected] & np.isfinite(scales)).any():
                raise parts.missing_codes(y, x)
            embeddings[selected] *= scales[:, np.newaxis]
    return embeddings, counts


def read_origin(
    group: zarr.Group, rows: NDArray[np.int64], columns: NDArray[np.int64], time: int = 0
) -> NDArray[np.str_] | None:
    """Return the origin of pixels, as of `read_pixels`: (n,) names of `ORIGINS`; None if the store
    does not have it."""
    if "origin" not in group:
        return None
    array: Any = group["origin"]
    parts, values = Parts(group, time), np.zeros(len(rows), np.uint8)
    for y, x, selected in _by_chunk(array, rows, columns):
        chunk = parts.read(array, y, x)
        values[selected] = chunk[rows[selected] - y.start, columns[selected] - x.start]
    return np.array(ORIGINS)[values]


class Parts:
    """Read parts of a store's arrays, and compare their files with the store's record.

    Attributes:
        root: the store's folder; its name, if it is not one.
    """

    def __init__(self, group: zarr.Group, time: int = 0) -> None:
        """Read the record, and check the metadata of the arrays; `time` is the index of the period
        that is read.

        Raises:
            TileError: the record, or metadata, are damaged.
        """
        store = group.store_path.store
        self._time = time
        self.root = Path(str(getattr(store, "root", group.store_path)), group.path)
        self._record: Checksums | None = None
        if not isinstance(store, zarr.storage.LocalStore):
            return  # sizes of remote files are not requested
        if not (self.root / STORE_RECORD).exists():
            logger.warning(
                "%s has no %s: a missing part of it may not be noticed", self.root, STORE_RECORD
            )
            return
        self._record = Checksums.of_store(self.root)
        names = [name for name in self._record.sizes if name.endswith("zarr.json")]
        if faults := list(self._record.only(names).changed_contents()):
            raise TileError(damage_message(self.root, faults))

    def check_codes(
        self, codes: NDArray[Any], scales: NDArray[Any], fill: Any, rows: slice, columns: slice
    ) -> None:
        """Check that every pixel with a scale has codes, (K, h, w).

        Raises:
            TileError: one has not.
        """
        if ((codes == fill).all(axis=0) & np.isfinite(scales)).any():
            raise self.missing_codes(rows, columns)

    def missing_codes(self, rows: slice, columns: slice) -> TileError:
        """Return the error of pixels with a scale and no codes."""
        where = (
            f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
        )
        return TileError(damage_message(self.root, [f"codes of {where} are missing"]))

    def read(self, array: Any, rows: slice, columns: slice) -> NDArray[Any]:
        """Return a chunk of an array, without its axis of time.

        Raises:
            TileError: its file is missing, shortened or altered.
        """
        edges = array.shards or array.chunks
        shard = rows.start // edges[-2], columns.start // edges[-1]
        middle = ["0"] * (array.ndim - 3)
        name = "/".join([array.basename, "c", str(self._time), *middle, *map(str, shard)])
        fault = self._record and name in self._record.sizes and self._record.fault(name)
        if fault:
            raise TileError(damage_message(self.root, [fault]))
        try:
            return np.asarray(array[(self._time, ..., rows, columns)])
        except (RuntimeError, ValueError, LookupError, EOFError, OSError) as error:
            fault = f"{name} cannot be decoded ({error})"
            raise TileError(damage_message(self.root, [fault])) from error


def _by_chunk(
    array: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> list[tuple[slice, slice, NDArray[np.intp]]]:
    """Return the chunks of an array that contain points: (rows, columns, indices of the points)."""
    height, width = array.shape[-2:]
    edges = array.chunks[-2:]
    inside = np.flatnonzero(rows >= 0)
    cells = np.stack([rows[inside] // edges[0], columns[inside] // edges[1]], axis=1)
    chunks, which = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which, minlength=len(chunks)))
    # np.split of an empty array returns one group.
    groups = np.split(inside[order], ends[:-1])[: len(chunks)]
    return [
        (
            slice(int(r) * edges[0], min((int(r) + 1) * edges[0], height)),
            slice(int(c) * edges[1], min((int(c) + 1) * edges[1], width)),
            group,
        )
        for (r, c), group in zip(chunks, groups, strict=True)
    ]
