"""Read items from a stac-geoparquet file in batches; unused columns are not read."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import shapely

from ..input_files import MAX_LIST_VALUES, decoded_bytes, list_values, open_texts

BATCH = 1000
MAGIC = b"PAR1"
MAX_ITEMS = 2**28
"""Bytes that the values of 100 items may take."""

_ROWS = 100
_BYTES_OF_OBJECT = 48
"""Of a number or text in Python, beside its own bytes."""

_TOP = ("id", "collection", "bbox")
_UNREAD = ("links", "stac_version", "stac_extensions", "type")


def is_parquet(path: Path) -> bool:
    """Return whether a file starts with the magic bytes of Parquet."""
    try:
        with path.open("rb") as handle:
            return handle.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_items(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of a stac-geoparquet file as STAC documents without links.

    In this format `id`, `collection`, `bbox`, `geometry`, `assets` and each property are columns.
    Only one batch is in memory, independent of the size of the file and of what its texts, which
    may repeat, take.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a stac-geoparquet file, or its items take too much memory.
    """
    with open_texts(path) as file:
        if (number := list_values(file)) > MAX_LIST_VALUES:
            raise ValueError(f"a group of its rows has {number:,} values in lists")
        names = file.schema_arrow.names
        missing = [name for name in ("id", "assets") if name not in names]
        if missing:
            raise ValueError(f"it has no column {' and no column '.join(missing)}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"it has several columns named {', '.join(twice)}")
        columns = [name for name in names if name not in _UNREAD]
        plain = pa.schema([_without_dictionaries(file.schema_arrow.field(n)) for n in columns])
        for batch in file.iter_batches(BATCH, columns=columns):
            for row in _rows(batch, plain):
                yield _item(row)


def _without_dictionaries(field: pa.Field) -> pa.Field:
    kind = field.type
    if pa.types.is_dictionary(kind):
        return field.with_type(kind.value_type)
    if pa.types.is_struct(kind):
        return field.with_type(pa.struct([_without_dictionaries(child) for child in kind]))
    if pa.types.is_map(kind):
        key, item = _without_dictionaries(kind.key_field), _without_dictionaries(kind.item_field)
        return field.with_type(pa.map_(key, item))
    if pa.types.is_list(kind):
        return field.with_type(pa.list_(_without_dictionaries(kind.value_field)))
    return field


def _rows(batch: pa.RecordBatch, plain: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch of `open_texts`; `plain` is its schema without dictionaries."""
    known = _needed(batch) <= MAX_ITEMS
    if known:
        batch = batch.cast(plain)  # of dictionaries, to_pylist takes three times as long
    # to_pylist converts all rows to Python objects: some tens of kB per item.
    for start in range(0, batch.num_rows, _ROWS):
        rows = batch.slice(start, _ROWS)
        if not known and (needed := _needed(rows)) > MAX_ITEMS:
            raise ValueError(
                f"{rows.num_rows} of its items take {needed / 1e9:.1f} GB of memory, more than the "
                f"limit of {MAX_ITEMS / 1e9:.1f} GB"
            )
        yield from rows.to_pylist()


def _needed(batch: pa.RecordBatch) -> int:
    return decoded_bytes(batch, _BYTES_OF_OBJECT)


def _item(row: dict[str, Any]) -> dict[str, Any]:
    assets = _parsed(row.pop("assets", None)) or {}
    if not isinstance(assets, dict):  # a map column is read as pairs
        assets = dict(assets)
    item = {name: row.pop(name, None) for name in _TOP}
    box = _parsed(item["bbox"])
    item["bbox"] = (
        [box["xmin"], box["ymin"], box["xmax"], box["ymax"]] if isinstance(box, dict) else box
    )
    geometry = _geometry(row.pop("geometry", None))
    if geometry is not None:
        item["geometry"] = geometry
    nested = _parsed(row.pop("properties", None)) or {}
    if not isinstance(nested, dict):
        nested = dict(nested)
    properties = {name: _plain(value) for name, value in (row | nested).items()}
    item["properties"] = {name: value for name, value in properties.items() if value is not None}
    item["assets"] = {
        key: {name: value for name, value in asset.items() if value is not None}
        for key, asset in assets.items()
        if asset
    }
    return item


def _parsed(value: Any) -> Any:
    """Return the value of a JSON text, any other value unchanged.

    Raises:
        ValueError: a text is not JSON.
    """
    return json.loads(value) if isinstance(value, str | bytes) else value


def _geometry(value: Any) -> dict[str, Any] | None:
    """Return a geometry in WKB or as GeoJSON; None if it is missing or invalid."""
    if isinstance(value, str):
        value = json.loads(value)
    if isinstance(value, dict):
        return value
    if not isinstance(value, bytes):
        return None
    try:
        document: dict[str, Any] = json.loads(shapely.to_geojson(shapely.from_wkb(value)))
    except shapely.errors.GEOSException:
        return None
    return document


def _plain(value: Any) -> Any:
    """Return the value of a property: RFC 3339 for a time, a list or object for its JSON text,
    None for NaN, which is a missing number in tables of pandas."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, str) and value[:1] in ("[", "{"):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    if isinstance(value, datetime.datetime):
        utc = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return utc.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    return value
