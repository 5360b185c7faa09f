"""Read and check the table of sites, and write its rows in the order of cells and periods."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from ...atomic import atomic_output
from ...config.configuration import Config
from ...config.years import FIRST_YEAR, LAST_YEAR
from ...dates import Slice
from ...errors import RegionError
from ...products.tables.points import Points, Polygons, read_features
from ...region.crs import WGS84, to_lonlat
from ...region.sites import (
    MARGIN_METRES,
    OK,
    Cell,
    Places,
    distinct_pixels,
    place_sites,
    polygon_pixels,
    square_pixels,
)
from ..assumptions import MOST_PIXELS

MAX_ROWS = 500_000
"""Rows of a table, times the periods if it has no years."""

_COUNTED = 200
"""Polygons after which pixels are counted."""
_SHOWN = 5
_DEGREE = 111_320.0
"""Metres of a degree of latitude."""


def write_rows(
    config: Config, output: Path, metadata: Mapping[bytes, str] | None = None
) -> dict[str, Any]:
    """Read the table of sites, and write its rows for each period in the order of the cells.

    Columns: `id` as in the table; `table_row` int64, from 0; `period` (`Slice.name`); `state`, see
    `region.sites.Places`; `cell`; `epsg`, `row`, `column` int32 of the pixel in the cell;
    `longitude`, `latitude`, `x`, `y` float64; of polygons `geometry`, WKB in degrees. Rows without
    a place are the last ones.

    Args:
        config: of the run.
        output: Arrow IPC file.
        metadata: of the file.

    Returns:
        `units` (arguments of `SiteUnit`), `unplaced`, `rows`, `sha256` of the file, `polygons`.

    Raises:
        RegionError: the table cannot be read or used.
        OutputError: the output cannot be written.
    """
    sites = config.sites
    path = Path(str(sites.table))
    with path.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    features = _features(config, path)
    ids = _ids(path, features.table, sites.id)
    which, periods = _periods(config, path, features.table)
    if len(which) > MAX_ROWS:
        raise RegionError(
            f"sites.table {path} has {len(which)} rows for all periods, more than {MAX_ROWS}: "
            "divide the table, or the periods, into several runs."
        )
    _check_unique(path, ids, which, periods, sites.id)
    geometry: NDArray[np.object_] | None = None
    crs = features.crs
    if isinstance(features, Polygons):
        geometry = features.geometry
        points = shapely.point_on_surface(geometry)
        x, y = shapely.get_x(points), shapely.get_y(points)
    else:
        x, y = features.x, features.y
    places = place_sites(x, y, crs, config.grid.resolution)
    # The cell decides the order, the zone first; rows of a cell are in the order of the table.
    order = np.lexsort(
        [
            which[:, 0],
            *(getattr(places, name)[which[:, 0]] for name in ("cell_row", "cell_column", "epsg")),
            which[:, 1],
            places.state[which[:, 0]] != OK,
        ]
    )
    which = which[order]
    rows = which[:, 0]
    cells = _cell_names(places, config.grid.resolution)[rows]
    columns = _columns(ids, which, places, cells, list(periods))
    wkb, areas = None, None
    if geometry is not None:
        degrees = np.array([None if g is None else to_lonlat(g, crs) for g in geometry], object)
        areas = _polygon_pixels(config, path, degrees, places, ids)
        wkb = shapely.to_wkb(degrees).tolist()
        columns["geometry"] = pa.array(wkb, pa.binary()).take(pa.array(rows))
    table = pa.table(columns).replace_schema_metadata(metadata)
    units = _units(config, places, rows, which[:, 1], cells, list(periods), areas, wkb)
    with (
        atomic_output(output) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    return {
        "units": units,
        "unplaced": int((places.state[rows] != OK).sum()),
        "rows": len(rows),
        "sha256": sha256,
        "polygons": geometry is not None,
    }


def _columns(
    ids: pa.Array,
    which: NDArray[np.int64],
    places: Places,
    cells: NDArray[Any],
    periods: list[str],
) -> dict[str, Any]:
    """Return the columns of the rows of the plan, apart from the geometry."""
    rows = which[:, 0]
    return {
        "id": ids.take(pa.array(rows)),
        "table_row": pa.array(rows),
        "period": pa.DictionaryArray.from_arrays(pa.array(which[:, 1], pa.int32()), periods),
        "state": pa.array(places.state[rows]).dictionary_encode(),
        "cell": pa.array(cells).dictionary_encode(),
        **{
            name: pa.array(getattr(places, name)[rows])
            for name in ("epsg", "row", "column", "longitude", "latitude", "x", "y")
        },
    }


def _features(config: Config, path: Path) -> Points | Polygons:
    sites = config.sites
    try:
        features = read_features(
            path, sites.x, sites.y, sites.crs,
            encoding=sites.encoding, separator=sites.separator, layer=sites.layer,
        )  # fmt: skip
    except RegionError as error:
        # The reader names the options of `tessera-flow sample`.
        text = str(error)
        for option in ("x", "y", "crs", "encoding", "separator", "layer"):
            text = text.replace(f"--{option}", f"sites.{option}")
        raise RegionError(text) from None
    if isinstance(features, Polygons) and config.sites.size != 1:
        raise RegionError(
            f"sites.size is {config.sites.size}, but {path} has polygons: remove sites.size, or "
            "give points."
        )
    if isinstance(features, Polygons) and sites.values == "codes" and sites.polygons == "mean":
        raise RegionError(
            f"sites.values is codes, but {path} has polygons, whose means have no codes: remove "
            "sites.values, or set sites.polygons to pixels."
        )
    if features.table.num_rows == 0:
        raise RegionError(f"sites.table {path} has no rows: it needs at least one site.")
    return features


def _ids(path: Path, table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        raise RegionError(
            f"sites.table {path} has no column {name}: name the column with the id of each site in "
            f"sites.id. Its columns are {', '.join(table.column_names)}."
        )
    ids = table[name].combine_chunks()
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.chunk(0)
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if pa.types.is_floating(ids.type):
        ids = pc.if_else(pc.is_nan(ids), None, ids)
    try:
        texts = pc.utf8_trim_whitespace(ids.cast(pa.string()))
    except pa.ArrowException as error:
        raise RegionError(
            f"sites.table {path}: column {name} has no text and no numbers ({error}): name the "
            "column with the id of each site in sites.id."
        ) from error
    missing = np.flatnonzero(pc.fill_null(pc.equal(texts, ""), True).to_numpy(False))
    if missing.size:
        raise RegionError(
            f"sites.table {path}: {missing.size} rows have no id in column {name}, the first is "
            f"row {missing[0] + 1}: give each site an id."
        )
    return ids


def _check_unique(
    path: Path, ids: pa.Array, which: NDArray[np.int64], periods: Mapping[str, Any], name: str
) -> None:
    """Refuse an id that occurs twice in one period.

    Raises:
        RegionError: there is one.
    """
    encoded = ids.cast(pa.string()).dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)[which[:, 0]]
    keys = codes * len(periods) + which[:, 1]
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if not same.size:
        return
    repeated = which[order[same + 1], 0]
    names = dict.fromkeys(encoded[int(row)].as_py() for row in repeated)
    first = order[same[0]], order[same[0] + 1]
    shown = ", ".join(list(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    raise RegionError(
        f"sites.table {path}: ids in column {name} occur more than once in the same period "
        f"({len(names)}: {shown}); the first in rows {which[first[0], 0] + 1} and "
        f"{which[first[1], 0] + 1}: give each site an id of its own, or another period."
    )


def _periods(
    config: Config, path: Path, table: pa.Table
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Return (row of the table, number of the period) of each row of the plan, and the periods."""
    sites, names = config.sites, table.column_names
    for key in ("year", "start", "end"):
        given = getattr(sites, key)
        if given is not None and given not in names:
            raise RegionError(
                f"sites.{key} is {given}, but {path} has no such column: its columns are "
                f"{', '.join(names)}."
            )
    if (sites.start is None) != (sites.end is None):
        raise RegionError("sites.start and sites.end belong together: give both, or neither.")
    if sites.year is not None and sites.start is not None:
        raise RegionError("sites.year and sites.start are two ways to give a period: remove one.")
    year = sites.year or ("year" if "year" in names and sites.start is None else None)
    days = (sites.start or "start", sites.end or "end") if year is None else ("", "")
    if year is None and set(days) <= set(names):
        texts = _days(path, table, *days)
    elif year is not None and {"start", "end"} <= set(names) and sites.year is None:
        raise RegionError(
            f"{path} has the columns year, start and end, which give the period twice: name the "
            "one that counts in sites.year, or those in sites.start and sites.end."
        )
    elif year is not None:
        texts = _years(path, table, year)
    else:
        all_periods = list(_config_periods(config))
        if not all_periods:
            raise RegionError(
                f"{path} has neither a column year nor columns start and end: name the column in "
                "sites.year, or add the period of all sites to periods."
            )
        count = table.num_rows
        rows = np.tile(np.arange(count), len(all_periods))
        return (
            np.stack([rows, np.repeat(np.arange(len(all_periods)), count)], axis=1),
            dict.fromkeys(all_periods),
        )
    found, which = np.unique(texts, return_inverse=True)
    pairs = np.stack([np.arange(table.num_rows), which.reshape(-1)], axis=1)
    return pairs.astype(np.int64), dict.fromkeys(found.tolist())


def _years(path: Path, table: pa.Table, name: str) -> NDArray[Any]:
    values = table[name]
    try:
        numbers = values.cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise RegionError(f"{path}: column {name} is not a year such as 2023 ({error}).") from error
    with np.errstate(invalid="ignore"):
        wrong = ~((numbers >= FIRST_YEAR) & (numbers <= LAST_YEAR) & (numbers % 1 == 0))
    bad = np.flatnonzero(wrong)
    if bad.size:
        raise RegionError(
            f"{path}: {bad.size} rows have no year such as 2023 in column {name}, the first is row "
            f"{bad[0] + 1} with {values[int(bad[0])].as_py()}: correct them."
        )
    years, which = np.unique(numbers.astype(int), return_inverse=True)
    return np.array([f"{y}-01-01_{y}-12-31" for y in years])[which]


def _days(path: Path, table: pa.Table, start: str, end: str) -> NDArray[Any]:
    firsts, lasts = _iso(path, table, start), _iso(path, table, end)
    names: dict[tuple[str, str], str] = {}
    for row, (first, last) in enumerate(zip(firsts, lasts, strict=True), 1):
        if (first, last) in names:
            continue
        try:
            period = Slice(_day(first), _day(last))
        except ValueError:
            raise RegionError(
                f"{path}: row {row} has {first!r} in column {start} and {last!r} in column {end}, "
                f"but both must be days such as 2021-07-01, from {FIRST_YEAR} to {LAST_YEAR}: "
                "correct them."
            ) from None
        if period.end < period.start:
            raise RegionError(
                f"{path}: row {row} has the last day {last} before the first day {first}: swap or "
                "correct them."
            )
        names[first, last] = period.name
    return np.array([names[pair] for pair in zip(firsts, lasts, strict=True)])


def _day(text: str) -> datetime.date:
    # `fromisoformat` also takes 20210701 and 2021-W26-4, which are numbers and slips in a table.
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text) is None:
        raise ValueError(text)
    day = datetime.date.fromisoformat(text)
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(text)
    return day


def _iso(path: Path, table: pa.Table, name: str) -> list[str]:
    """Return the days of a column as text; of a time with a time zone, the day in that zone."""
    column = table[name]
    if pa.types.is_timestamp(column.type):
        local = pc.local_timestamp(column) if column.type.tz is not None else column
        column = pc.floor_temporal(local, unit="day").cast(pa.date32())
    try:
        return [(text or "").strip() for text in column.cast(pa.string()).to_pylist()]
    except pa.ArrowException as error:
        raise RegionError(
            f"{path}: column {name} has no days such as 2021-07-01 ({error})."
        ) from error


def _cell_names(places: Places, resolution: float) -> NDArray[Any]:
    keys = np.stack([places.epsg, places.cell_column, places.cell_row], axis=1)
    cells, which = np.unique(keys, axis=0, return_inverse=True)
    names = [
        Cell(int(epsg), int(column), int(row), resolution).name if epsg else ""
        for epsg, column, row in cells
    ]
    return np.array(names)[which.reshape(-1)]


def _units(
    config: Config,
    places: Places,
    rows: NDArray[np.int64],
    periods: NDArray[np.int64],
    cells: NDArray[Any],
    names: list[str],
    areas: NDArray[np.int64] | None,
    wkb: list[bytes | None] | None,
) -> list[list[Any]]:
    """Return the arguments of each `SiteUnit`."""
    placed = int((places.state[rows] == OK).sum())
    if not placed:
        return []
    changes = (periods[1:placed] != periods[: placed - 1]) | (
        cells[1:placed] != cells[: placed - 1]
    )
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    ends = np.append(starts[1:], placed)
    units = []
    for first, end in zip(starts.tolist(), ends.tolist(), strict=True):
        members = rows[first:end]
        if wkb is None or areas is None:
            pixels = point_pixels(places.row[members], places.column[members], config.sites.size)
            count, content = len(pixels), np.ascontiguousarray(pixels).tobytes()
        else:
            count = int(areas[members].sum())
            if count > MOST_PIXELS:
                cell = Cell.of_name(str(cells[first]), config.grid.resolution)
                count = _distinct_pixels([wkb[row] for row in members], cell)
            content = b"".join(sorted(wkb[row] or b"" for row in members))
        digest = hashlib.sha256(content).hexdigest()
        units.append(
            [names[int(periods[first])], str(cells[first]), first, end - first, count, digest]
        )
    return units


def _distinct_pixels(wkb: Sequence[bytes | None], cell: Cell) -> int:
    """Return the number of pixels of a cell that are in any of some polygons (WKB in degrees); it
    stops above `MOST_PIXELS`."""
    inside = np.zeros(cell.geobox.shape, bool)
    for start in range(0, len(wkb), _COUNTED):
        for geometry in shapely.from_wkb(wkb[start : start + _COUNTED]):
            inside[polygon_pixels(geometry, WGS84, cell, "of sites")] = True
        if (count := int(np.count_nonzero(inside))) > MOST_PIXELS:
            break
    return count


def _polygon_pixels(
    config: Config,
    path: Path,
    degrees: NDArray[np.object_],
    places: Places,
    ids: pa.Array,
) -> NDArray[np.int64]:
    """Return the number of pixels (N,) of the bounds of polygons, about; 0 without a polygon.

    Raises:
        RegionError: a polygon is too large for a site.
    """
    left, bottom, right, top = shapely.bounds(degrees).T
    width = (right - left) * _DEGREE * np.cos(np.radians(places.latitude))
    height = (top - bottom) * _DEGREE
    large = np.flatnonzero(np.fmax(width, height) > MARGIN_METRES)
    if large.size:
        raise RegionError(
            f"sites.table {path}: {large.size} polygons are larger than {MARGIN_METRES / 1000:g} "
            f"km, the first has the id {ids[int(large[0])].as_py()}: compute them as regions."
        )
    edges = [np.ceil(np.nan_to_num(edge) / config.grid.resolution) for edge in (width, height)]
    return np.where(places.state == OK, np.maximum(1, edges[0] * edges[1]), 0).astype(np.int64)


def point_pixels(row: NDArray[Any], column: NDArray[Any], size: int) -> NDArray[np.int64]:
    """Return the (row, column) of the pixels (P, 2) of some points, each once, row by row."""
    return distinct_pixels(*square_pixels(row, column, size))


def _config_periods(config: Config) -> Mapping[str, tuple[datetime.date, datetime.date]]:
    """Return first and last day of the periods of the configuration, each once."""
    return {
        Slice(period.start, period.end).name: (period.start, period.end)
        for period in config.periods.values()
    }
