"""Write the STAC Item and Collection of the table of embeddings of sites."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pystac
import shapely

from ...errors import TileError
from ..provenance import ModelRecord, SourceRecord
from .documents import (
    EXTENSION,
    FILE,
    QUANTISATION,
    collection_fields,
    file_asset,
    item_assets,
    last_second,
    licence_of_scenes,
    midnight,
    write_document,
)
from .geoparquet import MEDIA_TYPE
from .metadata import common_metadata, simplified

TABLE = "https://stac-extensions.github.io/table/v1.2.0/schema.json"

_METADATA = b"tessera_flow"
_DEGREE = 111_320.0
"""Metres of a degree of latitude."""
_EDGE_METRES = 10.0
_DESCRIPTIONS = {
    "id": "id of the site in its table",
    "geometry": "point or polygon, WKB in WGS 84, longitude first",
    "period_start": "first day",
    "period_end": "last day",
    "state": "ok, or why there is no embedding",
    "reason": "explanation of the state",
    "crs": "UTM zone of the pixel",
    "x": "centre of the pixel in its zone, or a point of the polygon",
    "y": "centre of the pixel in its zone, or a point of the polygon",
    "cell": "square of the zone that was computed together",
    "pixel_row": "rows below the pixel of the site",
    "pixel_column": "columns to the right of the pixel of the site",
    "pixels": "pixels of the mean",
    "pixels_inside": "pixels inside the polygon",
    "s2_valid": "valid Sentinel-2 observations",
    "s1_ascending": "ascending Sentinel-1 observations",
    "s1_descending": "descending Sentinel-1 observations",
    "s2_months": "months with a valid Sentinel-2 observation",
    "embedding": "the embedding",
    "codes": "int8 codes: embedding = codes * scale",
    "scale": "of the codes",
}


def write_site_stac(item: Path, collection: Path, table: Path, summary: Path, licence: str) -> None:
    """Write both documents, in the folder of the table.

    The geometry of the Item is the convex hull of the sites with a place, 10 m wider; on both sides
    of 180 degrees it is one of each side.

    Args:
        item, collection: the JSON files.
        table: GeoParquet file of `sites.write_sites`.
        summary: JSON file beside it.
        licence: of the product, an SPDX identifier or `other`.

    Raises:
        TileError: the table or the summary is damaged.
        OutputError: a file cannot be written.
    """
    try:
        document = json.loads(summary.read_text(encoding="utf-8"))
        with pq.ParquetFile(table) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            record = json.loads((schema.metadata or {})[_METADATA])
            outline, span = _extent(file)
    except (OSError, ValueError, KeyError) as error:
        raise TileError(
            f"{table} is no table of embeddings ({error}): delete it and run again."
        ) from error
    model = ModelRecord(**record["model"])
    sources = [SourceRecord(**source) for source in record["sources"]]
    common = common_metadata(model, sources, record["software"]["tessera-flow"], licence)
    columns = [
        {"name": field.name, "type": str(field.type), "description": _DESCRIPTIONS[field.name]}
        for field in schema
    ]
    bbox = None if outline is None else _bbox(outline)
    own = pystac.Item(
        id="sites",
        geometry=None if outline is None else json.loads(shapely.to_geojson(outline)),
        bbox=bbox,
        datetime=None,
        start_datetime=midnight(span[0]),
        end_datetime=last_second(span[1]),
        properties={
            "title": f"TESSERA embeddings of the sites in {document['table']}",
            "table:columns": columns,
            "table:primary_geometry": "geometry",
            "table:row_count": rows,
            "emb:runtime_parameters": {
                "preprocessing": record["preprocessing"],
                "min_observations": record["min_observations"],
                "precision": model.precision,
            },
            **({"emb:quantization": dict(QUANTISATION)} if "codes" in schema.names else {}),
            "states": document["states"],
            "provenance": record,
            "warnings": document["warnings"],
            **common,
        },
        stac_extensions=[EXTENSION, FILE, TABLE],
        collection="sites",
    )
    own.add_asset("embeddings", file_asset(table, "Embeddings of all sites", MEDIA_TYPE, "data"))
    own.add_asset("summary", file_asset(summary, "Summary", pystac.MediaType.JSON, "metadata"))
    for source in sources:
        own.add_link(pystac.Link("emb:source-data", source.uri, title=source.sensor))
    own.add_link(licence_of_scenes())
    for rel in ("collection", "parent", "root"):
        own.add_link(pystac.Link(rel, f"./{collection.name}", pystac.MediaType.JSON))
    write_document(item, own.to_dict(include_self_link=False, transform_hrefs=False))
    text = _collection(model, sources, common, bbox, span, item.name)
    text.extra_fields |= item_assets(own.assets["embeddings"].to_dict())
    write_document(collection, text.to_dict(include_self_link=False, transform_hrefs=False))


def _collection(
    model: ModelRecord,
    sources: Sequence[SourceRecord],
    common: Mapping[str, Any],
    bbox: list[float] | None,
    span: tuple[str, str],
    item: str,
) -> pystac.Collection:
    result = pystac.Collection(
        id="sites",
        title="TESSERA embeddings of sites",
        description=(
            f"Embeddings of points and small sites, {model.dim} dimensions, by {model.name} "
            f"({model.family})."
        ),
        extent=pystac.Extent(
            pystac.SpatialExtent([bbox or [-180.0, -90.0, 180.0, 90.0]]),
            pystac.TemporalExtent([[midnight(span[0]), last_second(span[1])]]),
        ),
        license=common["license"],
        keywords=common["keywords"],
        providers=[pystac.Provider.from_dict(provider) for provider in common["providers"]],
        stac_extensions=[EXTENSION],
        extra_fields=collection_fields(model),
    )
    result.add_link(licence_of_scenes())
    result.add_link(pystac.Link("emb:model", model.url, title=model.name))
    for source in sources:
        result.add_link(pystac.Link("emb:source-data", source.uri, title=source.sensor))
    result.add_link(pystac.Link("item", f"./{item}", "application/geo+json"))
    result.add_link(pystac.Link("root", "./collection.json", pystac.MediaType.JSON))
    return result


def _extent(file: pq.ParquetFile) -> tuple[shapely.Geometry | None, tuple[str, str]]:
    """Return the outline of the sites with a place, and the first and last day of all."""
    hulls: dict[bool, shapely.Geometry] = {}
    first, last = datetime.date.max, datetime.date.min
    columns = ["geometry", "crs", "period_start", "period_end"]
    for batch in file.iter_batches(columns=columns):
        first = min([first, *filter(None, batch["period_start"].to_pylist())])
        last = max([last, *filter(None, batch["period_end"].to_pylist())])
        placed = batch.filter(batch["crs"].is_valid())
        shapes = shapely.from_wkb(placed["geometry"].to_numpy(zero_copy_only=False))
        west = shapely.get_x(shapely.centroid(shapes)) < 0
        for side in np.unique(west):
            parts = shapely.convex_hull(shapely.geometrycollections(shapes[west == side]))
            known = hulls.get(bool(side))
            hulls[bool(side)] = (
                parts if known is None else shapely.convex_hull(shapely.union(known, parts))
            )
    if not hulls:
        return None, _days(first, last)
    outlines = [simplified(_wider(hull)) for hull in hulls.values()]
    west, _, east, _ = shapely.total_bounds(outlines)
    if east - west > 180 and len(outlines) == 2:  # on both sides of 180 degrees
        return shapely.multipolygons(outlines), _days(first, last)
    return shapely.convex_hull(shapely.union_all(outlines)), _days(first, last)


def _days(first: datetime.date, last: datetime.date) -> tuple[str, str]:
    if first > last:
        raise ValueError("it has no rows")
    return first.isoformat(), last.isoformat()


def _wider(hull: shapely.Geometry) -> shapely.Geometry:
    """Return a polygon around a hull, which may be a point or a line."""
    latitude = min(89.0, float(np.abs(hull.bounds[1::2]).max()))
    step = _EDGE_METRES / _DEGREE / np.cos(np.radians(latitude))
    wide = shapely.buffer(hull, step, quad_segs=2)
    return shapely.clip_by_rect(wide, -180, -90, 180, 90)


def _bbox(outline: shapely.Geometry) -> list[float]:
    """Return (west, south, east, north); west is greater than east across 180 degrees."""
    west, south, east, north = outline.bounds
    if outline.geom_type == "MultiPolygon":
        bounds = [part.bounds for part in outline.geoms]
        west = min(part[0] for part in bounds if part[0] >= 0)
        east = max(part[2] for part in bounds if part[2] <= 0)
    return [round(float(value), 7) for value in (west, south, east, north)]
