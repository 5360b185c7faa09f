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
import pyarrow.parquet as pq
import shapely

BATCH = 1000
MAGIC = b"PAR1"

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
    Only one batch is in memory, independent of the size of the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a stac-geoparquet file.
    """
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        missing = [name for name in ("id", "assets") if name not in names]
        if missing:
            raise ValueError(f"it has no column {' and no column '.join(missing)}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"it has several columns named {', '.join(twice)}")
        columns = [name for name in names if name not in _UNREAD]
        for batch in file.iter_batches(BATCH, columns=columns):
            for row in _rows(batch):
                yield _item(row)


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    # to_pylist converts all rows to Python objects: some tens of kB per item.
    for start in range(0, batch.num_rows, 100):
        yield from batch.slice(start, 100).to_pylist()


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
