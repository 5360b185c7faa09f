"""Read items from a stac-geoparquet file in batches; unused columns are not read."""

from __future__ import annotations

import datetime
import json
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
        columns = [name for name in names if name not in _UNREAD]
        for batch in file.iter_batches(BATCH, columns=columns):
            for row in _rows(batch):
                yield _item(row)


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    # to_pylist converts all rows to Python objects: some tens of kB per item.
    for start in range(0, batch.num_rows, 100):
        yield from batch.slice(start, 100).to_pylist()


def _item(row: dict[str, Any]) -> dict[str, Any]:
    assets = row.pop("assets") or {}
    if isinstance(assets, str):
        assets = json.loads(assets)
    if not isinstance(assets, dict):  # a map column is read as pairs
        assets = dict(assets)
    item = {name: row.pop(name, None) for name in _TOP}
    box = item["bbox"]
    if isinstance(box, dict):
        item["bbox"] = [box["xmin"], box["ymin"], box["xmax"], box["ymax"]]
    geometry = _geometry(row.pop("geometry", None))
    if geometry is not None:
        item["geometry"] = geometry
    nested = row.pop("properties", None)
    if isinstance(nested, str):
        nested = json.loads(nested)
    row |= nested or {}
    item["properties"] = {name: _plain(value) for name, value in row.items() if value is not None}
    item["assets"] = {
        key: {name: value for name, value in asset.items() if value is not None}
        for key, asset in assets.items()
        if asset
    }
    return item


def _geometry(value: Any) -> dict[str, Any] | None:
    """Return a geometry in WKB as GeoJSON; None if it is missing or invalid."""
    if not isinstance(value, bytes):
        return None
    try:
        document: dict[str, Any] = json.loads(shapely.to_geojson(shapely.from_wkb(value)))
    except shapely.errors.GEOSException:
        return None
    return document


def _plain(value: Any) -> Any:
    """Return a time as an RFC 3339 string, any other value unchanged."""
    if isinstance(value, datetime.datetime):
        utc = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return utc.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    return value
