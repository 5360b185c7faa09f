"""Write the embeddings of sites as GeoParquet, cell by cell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely
from numpy.typing import NDArray

from ...atomic import atomic_output
from ...block_file import get_array, open_block_file
from ...dates import Slice
from ...errors import TileError
from ...models.quantize import dequantize
from ...region.crs import WGS84
from ...region.sites import OK, OUTSIDE_UTM, SCENE_BITS, Cell, polygon_pixels, square_pixels
from ..blocks import COUNT_KINDS

INSIDE, NO_EMBEDDING, NO_PIXEL = "ok", "no embedding", "no pixel"
"""As in `sample` and `polygons`, whose readers of vector files are not needed here."""
NO_SCENES, FAILED = "no scenes", "failed"
MONTHS = "s2_months"
BATCH_ROWS = 8192
"""Rows in memory at a time."""

_SENSOR_NAMES = {"sentinel2": "Sentinel-2", "sentinel1": "Sentinel-1"}


@dataclass(frozen=True)
class SiteLayout:
    """The rows and columns of the table of embeddings.

    Attributes:
        size: edge of the square around a point.
        polygons: whether the sites are polygons.
        mean: a row is the mean of a polygon; otherwise a pixel.
        codes: int8 codes and a scale; otherwise float32.
        dim: dimensions.
        id_type: type of the ids.
        sensors: in use.
    """

    size: int
    polygons: bool
    mean: bool
    codes: bool
    dim: int
    id_type: pa.DataType
    sensors: tuple[str, ...]

    @property
    def offsets(self) -> bool:
        """Whether a site has several rows, which state their position."""
        return not self.mean and (self.polygons or self.size > 1)

    def schema(self, metadata: Mapping[str, Any]) -> pa.Schema:
        """Return the schema; `metadata` is written into it as JSON."""
        count = pa.float32() if self.mean else pa.uint16()
        fields = [
            ("id", self.id_type),
            ("geometry", pa.binary()),
            ("period_start", pa.date32()),
            ("period_end", pa.date32()),
            ("state", pa.string()),
            ("reason", pa.string()),
            ("crs", pa.string()),
            ("x", pa.float64()),
            ("y", pa.float64()),
            ("cell", pa.string()),
        ]
        if self.offsets:
            fields += [("pixel_row", pa.int32()), ("pixel_column", pa.int32())]
        if self.mean:
            fields += [("pixels", pa.int32()), ("pixels_inside", pa.int32())]
        fields += [(name, count) for name in COUNT_KINDS]
        if not self.mean:
            fields.append((MONTHS, pa.uint8()))
        if self.codes:
            fields += [("codes", pa.list_(pa.int8(), self.dim)), ("scale", pa.float32())]
        else:
            fields.append(("embedding", pa.list_(pa.float32(), self.dim)))
        geo = {
            "version": "1.1.0",
            "primary_column": "geometry",
            "columns": {
                "geometry": {
                    "encoding": "WKB",
                    "geometry_types": ["Polygon", "MultiPolygon"] if self.polygons else ["Point"],
                    "crs": pyproj.CRS.from_user_input("OGC:CRS84").to_json_dict(),
                }
            },
        }
        return pa.schema(fields).with_metadata(
            {"geo": json.dumps(geo), "tessera_flow": json.dumps(metadata)}
        )


@dataclass(frozen=True)
class CellRows:
    """Rows of the plan that are in one cell and period.

    Attributes:
        rows: see `jobs.sites.table.write_rows`.
        cell: of the rows.
        file: the embeddings file of the cell; None if it has none.
        reason: why it has none.
    """

    rows: pa.Table
    cell: Cell
    file: Path | None
    reason: str = ""


def site_pixels(
    rows: pa.Table, cell: Cell, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return which row of the plan (P,), and row and column (P,) in the grid of the cell, of each
    pixel of some sites."""
    if "geometry" in rows.column_names:
        parts = []
        geometries = shapely.from_wkb(rows["geometry"].to_numpy(zero_copy_only=False))
        for number, geometry in enumerate(geometries):
            name = str(rows["id"][number].as_py())
            row, column = polygon_pixels(geometry, WGS84, cell, name)
            parts.append(np.stack([np.full(len(row), number), row, column]))
        which, row, column = np.concatenate(parts, axis=1).astype(np.int64)
        return which, row, column
    centre = rows["row"].to_numpy(), rows["column"].to_numpy()
    row, column = square_pixels(*centre, size)
    which = np.repeat(np.arange(rows.num_rows), size * size)
    return which, row.reshape(-1), column.reshape(-1)


def write_sites(
    output: Path,
    cells: Iterable[CellRows],
    unplaced: pa.Table,
    layout: SiteLayout,
    metadata: Mapping[str, Any],
) -> Counter[str]:
    """Write the table of embeddings: rows in the order of the cells, then those without a place.

    Args:
        output: Parquet file with geometries (GeoParquet 1.1, WGS 84).
        cells: the rows with a place.
        unplaced: rows of the plan without one.
        layout: rows and columns.
        metadata: JSON-able record of how the embeddings were made.

    Returns:
        Number of rows by state.

    Raises:
        TileError: an embeddings file is missing or damaged.
        OutputError: the output cannot be written.
    """
    states: Counter[str] = Counter()
    schema = layout.schema(metadata)
    with (
        atomic_output(output) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for batch in _regrouped(_tables(cells, unplaced, layout, schema)):
            for entry in batch["state"].value_counts().to_pylist():
                states[entry["values"]] += entry["counts"]
            writer.write_table(batch, row_group_size=BATCH_ROWS)
    return states


def _regrouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables, so that groups of rows in the file are not small."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= BATCH_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _tables(
    cells: Iterable[CellRows], unplaced: pa.Table, layout: SiteLayout, schema: pa.Schema
) -> Iterator[pa.Table]:
    for cell in cells:
        if cell.file is None:
            yield _without_pixels(cell.rows, schema, FAILED, cell.reason)
            continue
        pixels = _CellPixels.read(cell.file, layout)
        for start in range(0, cell.rows.num_rows, step := max(1, BATCH_ROWS // layout.size**2)):
            yield _rows_of_cell(cell.rows.slice(start, step), cell.cell, pixels, layout, schema)
    if unplaced.num_rows:
        yield _without_pixels(unplaced, schema)


@dataclass(frozen=True)
class _CellPixels:
    """The pixels of a cell, in the order of their keys.

    Attributes:
        path: of the embeddings file.
        keys: (P,) see `_keys`.
        embeddings, scales, counts, months, scenes: (P, ...) as in the file; scales None for
            float32.
    """

    path: Path
    keys: NDArray[np.int64]
    embeddings: NDArray[Any]
    scales: NDArray[np.float32] | None
    counts: NDArray[np.uint16]
    months: NDArray[Any] | None
    scenes: NDArray[np.uint8]

    @classmethod
    def read(cls, path: Path, layout: SiteLayout) -> _CellPixels:
        with open_block_file(path) as group:
            found = {name: np.asarray(get_array(group, name)[:]) for name, _ in group.arrays()}
        try:
            positions = found["positions"].reshape(2, -1)
            used = positions[0] >= 0
            flat = {
                name: values.reshape(-1, *values.shape[2:])[used]
                for name, values in found.items()
                if name != "positions"
            }
            keys = _keys(positions[0][used], positions[1][used])
            embeddings = flat["embeddings"]
            if embeddings.shape[1] != layout.dim or not (np.diff(keys) > 0).all():
                raise ValueError
            return cls(
                path, keys, embeddings, flat.get("scales"), flat["counts"], flat.get("months"),
                flat["scenes"],
            )  # fmt: skip
        except (KeyError, ValueError, IndexError) as error:
            raise TileError(
                f"{path} is not the embeddings file of a cell: delete it and run again."
            ) from error

    def find(self, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the indices of pixels.

        Raises:
            TileError: one is missing.
        """
        keys = _keys(row, column)
        index = np.searchsorted(self.keys, keys)
        if len(keys) and (
            not len(self.keys) or (self.keys[np.minimum(index, len(self.keys) - 1)] != keys).any()
        ):
            raise TileError(
                f"{self.path} has not the pixels of the present table: delete it and run again."
            )
        return index

    def values(self, index: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return embeddings (N, K) float32, NaN where there is none."""
        if self.scales is None:
            return self.embeddings[index].astype(np.float32)
        return dequantize(self.embeddings[index], self.scales[index])


def _keys(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = row.astype(np.int64) * 2**32 + column
    return keys


def _rows_of_cell(
    rows: pa.Table, cell: Cell, pixels: _CellPixels, layout: SiteLayout, schema: pa.Schema
) -> pa.Table:
    which, row, column = site_pixels(rows, cell, layout.size)
    index = pixels.find(row, column)
    if layout.mean:
        return _means(rows, which, pixels, index, layout, schema)
    without = np.setdiff1d(np.arange(rows.num_rows), which)
    embedded = _embedded(pixels, index)
    state = np.where(embedded, INSIDE, np.where(pixels.scenes[index] == 0, NO_SCENES, NO_EMBEDDING))
    reasons = _reasons(pixels, index, state, layout)
    a, _, c, _, e, f = tuple(cell.geobox.affine)[:6]
    new: dict[str, Any] = {
        "state": state,
        "reason": reasons,
        "x": c + a * (column + 0.5),
        "y": f + e * (row + 0.5),
        **dict(zip(COUNT_KINDS, pixels.counts[index].T, strict=True)),
    }
    if pixels.months is not None:
        new[MONTHS] = np.bitwise_count(pixels.months[index][:, 0]).astype(np.uint8)
    if layout.offsets:
        new["pixel_row"] = (row - rows["row"].to_numpy()[which]).astype(np.int32)
        new["pixel_column"] = (column - rows["column"].to_numpy()[which]).astype(np.int32)
    if layout.codes:
        new["codes"] = _lists(pixels.embeddings[index], embedded)
        scales = np.zeros(len(index), np.float32) if pixels.scales is None else pixels.scales[index]
        new["scale"] = pa.array(scales, mask=~embedded)
    else:
        new["embedding"] = _lists(pixels.values(index), embedded)
    table = _completed(rows.take(pa.array(which)), new, schema)
    if len(without):
        text = "no centre of a pixel is in the polygon"
        empty = rows.take(pa.array(without))
        table = pa.concat_tables([table, _without_pixels(empty, schema, NO_PIXEL, text)])
    return table


def _means(
    rows: pa.Table,
    which: NDArray[np.int64],
    pixels: _CellPixels,
    index: NDArray[np.intp],
    layout: SiteLayout,
    schema: pa.Schema,
) -> pa.Table:
    """Return one row for each polygon, with the mean over its pixels that have an embedding."""
    count = rows.num_rows
    embedded = _embedded(pixels, index)
    inside = np.bincount(which, minlength=count)
    used = np.bincount(which[embedded], minlength=count)
    sums = np.zeros((count, layout.dim))
    np.add.at(sums, which[embedded], pixels.values(index[embedded]))
    counts = np.zeros((count, len(COUNT_KINDS)))
    np.add.at(counts, which, pixels.counts[index])
    covered = np.bincount(which, pixels.scenes[index] > 0, minlength=count) > 0
    state = np.select(
        [used > 0, inside == 0, ~covered], [INSIDE, NO_PIXEL, NO_SCENES], NO_EMBEDDING
    )
    texts = {
        INSIDE: None,
        NO_PIXEL: "no centre of a pixel is in the polygon",
        NO_SCENES: "no scene of the period covers it",
        NO_EMBEDDING: "no pixel has enough valid observations",
    }
    with np.errstate(invalid="ignore"):
        means = (sums / np.maximum(used, 1)[:, None]).astype(np.float32)
        mean_counts = (counts / inside[:, None]).astype(np.float32)
    new: dict[str, Any] = {
        "state": state,
        "reason": [texts[name] for name in state],
        "x": rows["x"].to_numpy(),
        "y": rows["y"].to_numpy(),
        "pixels": used.astype(np.int32),
        "pixels_inside": inside.astype(np.int32),
        **{
            name: pa.array(values, mask=inside == 0)
            for name, values in zip(COUNT_KINDS, mean_counts.T, strict=True)
        },
        "embedding": _lists(means, used > 0),
    }
    return _completed(rows, new, schema)


def _embedded(pixels: _CellPixels, index: NDArray[np.intp]) -> NDArray[np.bool_]:
    if pixels.scales is not None:
        return np.isfinite(pixels.scales[index])
    finite: NDArray[np.bool_] = np.isfinite(pixels.embeddings[index]).all(axis=1)
    return finite


def _reasons(
    pixels: _CellPixels, index: NDArray[np.intp], state: NDArray[Any], layout: SiteLayout
) -> list[str | None]:
    """Return why pixels have no embedding."""
    reasons: list[str | None] = [None] * len(index)
    for number in np.flatnonzero(state != INSIDE):
        scenes, counts = int(pixels.scenes[index[number]]), pixels.counts[index[number]].tolist()
        missing = [
            _SENSOR_NAMES[sensor] for sensor in layout.sensors if not scenes & SCENE_BITS[sensor]
        ]
        if scenes == 0:
            reasons[number] = "no scene of the period covers it"
            continue
        text = f"{counts[0]} valid Sentinel-2 and {counts[1] + counts[2]} Sentinel-1 observations"
        if missing:
            text += f"; no {' and no '.join(missing)} scene covers it"
        reasons[number] = text
    return reasons


def _lists(values: NDArray[Any], present: NDArray[np.bool_]) -> pa.FixedSizeListArray:
    """Return (N, K) values as lists, null where they are not present."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(
        flat, values.shape[1], mask=pa.array(~np.asarray(present, bool))
    )


def _without_pixels(
    rows: pa.Table, schema: pa.Schema, state: str | None = None, reason: str | None = None
) -> pa.Table:
    """Return rows without embeddings; by default their state is that of the plan."""
    states = rows["state"].cast(pa.string()).to_pylist() if state is None else None
    texts = {OUTSIDE_UTM: "UTM is used between 80 S and 84 N"}
    new: dict[str, Any] = {
        "state": states or [state] * rows.num_rows,
        "reason": [texts.get(s) for s in states] if states else [reason] * rows.num_rows,
        "x": rows["x"],
        "y": rows["y"],
    }
    return _completed(rows, new, schema)


def _completed(rows: pa.Table, new: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Return a table of the schema from rows of the plan and new columns; the others are null."""
    days = [Slice.from_name(name) for name in rows["period"].cast(pa.string()).to_pylist()]
    placed = np.array(rows["state"].cast(pa.string()).to_pylist(), object) == OK
    epsg = rows["epsg"].to_pylist()
    columns: dict[str, Any] = {
        "id": rows["id"],
        "geometry": _geometry(rows),
        "period_start": [day.start for day in days],
        "period_end": [day.end for day in days],
        "crs": [f"EPSG:{code}" if ok else None for code, ok in zip(epsg, placed, strict=True)],
        "cell": [
            name if ok else None
            for name, ok in zip(rows["cell"].cast(pa.string()).to_pylist(), placed, strict=True)
        ],
        **new,
    }
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows.num_rows, field.type))
        elif isinstance(values, pa.Array | pa.ChunkedArray):
            arrays.append(values if values.type == field.type else values.cast(field.type))
        else:
            arrays.append(pa.array(values, field.type, from_pandas=field.name in ("x", "y")))
    return pa.table(arrays, schema=schema)


def _geometry(rows: pa.Table) -> pa.Array:
    if "geometry" in rows.column_names:
        return rows["geometry"]
    longitude, latitude = rows["longitude"].to_numpy(), rows["latitude"].to_numpy()
    points = shapely.to_wkb(shapely.points(longitude, latitude))
    known = np.isfinite(longitude) & np.isfinite(latitude)
    return pa.array(np.where(known, points, None), pa.binary())
