"""Write STAC Items as a table: STAC GeoParquet 1.1
(https://github.com/radiantearth/stac-geoparquet-spec), GeoParquet 1.1.

Each Item is a row; its properties are columns of their own, the geometry is WKB in degrees, the
bounding box a struct, the assets a struct with a field for each key. An empty object is a null, and
what has another type in another Item is JSON text. A property whose name is that of another part of
an Item, such as `links`, is left out, because the format has no place for it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely

from ...atomic import atomic_output
from ...scenes.manifest import Manifest, SourceItem
from ..provenance import SourceRecord

VERSION = "1.1.0"
MEDIA_TYPE = "application/vnd.apache.parquet"

_TIMES = ("datetime", "start_datetime", "end_datetime", "created", "updated", "published")
_TIMESTAMP = pa.timestamp("us", tz="UTC")
_BOX = ("xmin", "ymin", "xmax", "ymax")
_DENSIFY = 5
_ROWS = 1000
_TOP = {"type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets",
        "collection", "properties"}  # fmt: skip


def write_items(
    output: Path,
    items: Sequence[Mapping[str, Any]],
    collections: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write STAC Items as a table.

    Args:
        output: Parquet file.
        items: STAC documents.
        collections: STAC Collections by id, for the metadata of the file.

    Raises:
        OutputError: the file cannot be written.
    """
    geometries = [
        None if item.get("geometry") is None else shapely.geometry.shape(item["geometry"])
        for item in items
    ]
    links: list[list[dict[str, Any]]] = [list(item.get("links", ())) for item in items]
    columns: dict[str, pa.Array] = {
        # Optional, but the reader of the package stac-geoparquet (0.8) does not add it.
        "type": pa.array(["Feature"] * len(items), pa.string()),
        "stac_version": pa.array([item.get("stac_version") for item in items], pa.string()),
        "stac_extensions": pa.array(
            [list(item.get("stac_extensions", ())) for item in items], pa.list_(pa.string())
        ),
        "id": pa.array([item["id"] for item in items], pa.string()),
        "geometry": pa.array(
            [None if shape is None else shapely.to_wkb(shape) for shape in geometries], pa.binary()
        ),
        "bbox": _boxes(items),
        "links": pa.array(links, _LINKS) if not any(links) else _column(links),
        "assets": _column([item.get("assets") or {} for item in items]),
        "collection": pa.array([item.get("collection") for item in items], pa.string()),
    }
    names = dict.fromkeys(name for item in items for name in item["properties"])
    for name in names:
        if name in _TOP:  # a property of this name cannot be a column
            continue
        values = [item["properties"].get(name) for item in items]
        columns[name] = _times(values) if name in _TIMES else _column(values)
    kinds = sorted({shape.geom_type for shape in geometries if shape is not None})
    metadata = {"geo": _geo(kinds), "stac-geoparquet": {"version": VERSION}}
    if collections:
        metadata["stac-geoparquet"]["collections"] = collections
    table = pa.table(columns).replace_schema_metadata(
        {name: json.dumps(value) for name, value in metadata.items()}
    )
    with atomic_output(output) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_ROWS)


_EXTENSIONS = {
    "eo": "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "grid": "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
    "mgrs": "https://stac-extensions.github.io/mgrs/v1.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "s2": "https://stac-extensions.github.io/sentinel-2/v1.0.0/schema.json",
    "sat": "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
}
"""Extensions of the fields that lists of scenes keep, by prefix. Not `sar`: it requires fields that
the lists do not keep."""
_REQUIRED = {"mgrs": ("mgrs:latitude_band", "mgrs:grid_square")}

_LINKS = pa.list_(pa.struct([("rel", pa.string()), ("href", pa.string())]))


def _geo(kinds: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of GeoParquet."""
    covering = {"bbox": {name: ["bbox", name] for name in _BOX}}
    return {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": list(kinds),
                "crs": pyproj.CRS.from_user_input("OGC:CRS84").to_json_dict(),
                "covering": covering,
            }
        },
    }


def _boxes(items: Sequence[Mapping[str, Any]]) -> pa.Array:
    boxes = [
        dict(zip(_BOX, item["bbox"], strict=True)) if item.get("bbox") else None for item in items
    ]
    return pa.array(boxes, pa.struct([(name, pa.float64()) for name in _BOX]))


def _times(values: Sequence[str | None]) -> pa.Array:
    """Return times as timestamps; as text if one is not in the form of RFC 3339."""
    try:
        moments = [None if v is None else datetime.datetime.fromisoformat(v) for v in values]
        if any(moment is not None and moment.tzinfo is None for moment in moments):
            raise ValueError("a time without a zone")
        return pa.array(moments, _TIMESTAMP)
    except (TypeError, ValueError):
        return _column(values)


def _column(values: Sequence[Any]) -> pa.Array:
    """Return values as a column, as JSON text if they have no common type."""
    try:
        return pa.array([_without_empty(value) for value in values])
    except pa.ArrowException:
        return pa.array([None if v is None else json.dumps(v) for v in values], pa.string())


def _without_empty(value: Any) -> Any:
    """Return a value in which empty objects, which Parquet cannot have, are null."""
    if isinstance(value, Mapping):
        return {key: _without_empty(entry) for key, entry in value.items()} or None
    if isinstance(value, list | tuple):
        return [_without_empty(entry) for entry in value]
    return value


def scene_items(
    manifests: Iterable[Manifest], sources: Mapping[str, SourceRecord], crs: str
) -> Iterator[dict[str, Any]]:
    """Yield the scenes of lists as STAC Items, as far as the lists have them: properties and
    assets in use, and the outline of the raster.

    `tessera:sensor`, `tessera:day` (of the time step) and `tessera:boa_offset` are added.

    Args:
        manifests: the lists.
        sources: by sensor.
        crs: of the region, in which the lists state extents.
    """
    move = pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(crs), "EPSG:4326", always_xy=True)
    for manifest in manifests:
        for scene in manifest.items:
            yield _scene_item(scene, manifest.sensor, sources[manifest.sensor], move)


def _scene_item(
    scene: SourceItem, sensor: str, source: SourceRecord, move: pyproj.Transformer
) -> dict[str, Any]:
    outline = _outline(scene, move)
    own: dict[str, Any] = {"tessera:sensor": sensor, "tessera:day": scene.date.isoformat()}
    if sensor == "sentinel2":
        own["tessera:boa_offset"] = scene.boa_offset
    stated, assets = scene.stac.get("properties", {}), dict(scene.stac.get("assets", {}))
    document: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": _extensions([stated, *assets.values()]),
        "id": scene.id,
        "geometry": None if outline is None else outline.__geo_interface__,
        "properties": {**stated, **own},
        "links": [{"rel": "via", "href": source.item_uri(scene.id)}],
        "assets": assets,
        "collection": scene.stac.get("collection"),
    }
    if outline is not None:
        document["bbox"] = list(outline.bounds)
    return document


def _extensions(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the extensions of the fields of an Item, of which all required fields exist."""
    fields = {name for part in parts for name in part}
    used = {name.partition(":")[0] for name in fields if ":" in name}
    return [
        url
        for prefix, url in _EXTENSIONS.items()
        if prefix in used and fields.issuperset(_REQUIRED.get(prefix, ()))
    ]


def _outline(scene: SourceItem, move: pyproj.Transformer) -> shapely.Geometry | None:
    """Return the outline of a raster in degrees; None if it is unknown or crosses 180 degrees."""
    if scene.extent is None:
        return None
    left, bottom, right, top = scene.extent
    box = shapely.segmentize(
        shapely.box(left, bottom, right, top), max(right - left, top - bottom) / _DENSIFY
    )
    outline = shapely.transform(box, move.transform, interleaved=False)
    west, south, east, north = outline.bounds
    valid = east - west < 180 and west >= -180 and east <= 180 and south >= -90 and north <= 90
    return outline if valid and shapely.is_valid(outline) else None
