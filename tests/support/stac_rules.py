"""What STAC extensions require, as JSON schemas.

No package contains the schemas of the extensions. These rules were written from their published
texts: file 2.1.0, projection 2.0.0, raster 2.0.0, classification 2.0.0 and table 1.2.0. They state
the same of every field, and where an extension has fields at all. They are stricter where the
schemas accept what we never write: unknown fields of a class, checksums other than SHA-256, fields
of an extension that is not declared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from tessera_flow.analysis.stac import CLASSIFICATION
from tessera_flow.products.stac.documents import FILE, PROJECTION
from tessera_flow.products.stac.metadata import RASTER

TABLE = "https://stac-extensions.github.io/table/v1.2.0/schema.json"

_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_SCALAR = {"type": "number"}


def _of_length(*lengths: int) -> dict[str, Any]:
    return {"oneOf": [{"minItems": n, "maxItems": n} for n in lengths]}


def _between(least: float, most: float) -> dict[str, Any]:
    return {"type": "number", "minimum": least, "maximum": most}


FIELDS: dict[str, dict[str, Any]] = {
    FILE: {
        "file:byte_order": {"enum": ["big-endian", "little-endian"]},
        # A multihash; 12 20 is SHA-256 of 32 bytes.
        "file:checksum": {"type": "string", "pattern": "^1220[0-9a-f]{64}$"},
        "file:header_size": _COUNT,
        "file:size": _COUNT,
        "file:local_path": {
            "type": "string",
            "pattern": "^[^\r\n\t\\\\:'\"/]+(/[^\r\n\t\\\\:'\"/]+)*/?$",
        },
    },
    PROJECTION: {
        # The schema accepts any text; its README has `AUTHORITY:code`, such as `IAU_2015:30100`.
        "proj:code": {"type": ["string", "null"], "pattern": "^[A-Z0-9_]+:[0-9A-Za-z]+$"},
        "proj:wkt2": {"type": ["string", "null"]},
        "proj:projjson": {"type": ["object", "null"]},
        "proj:geometry": {"type": "object", "required": ["type", "coordinates"]},
        "proj:bbox": _NUMBERS | _of_length(4, 6),
        "proj:centroid": {
            "type": "object",
            "required": ["lat", "lon"],
            "properties": {"lat": _between(-90, 90), "lon": _between(-180, 180)},
        },
        "proj:shape": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
        "proj:transform": _NUMBERS | _of_length(6, 9),
    },
    RASTER: {
        "raster:sampling": {"enum": ["area", "point"]},
        "raster:bits_per_sample": {"type": "integer"},
        "raster:spatial_resolution": {"type": "number", "exclusiveMinimum": 0},
        "raster:scale": _SCALAR,
        "raster:offset": _SCALAR,
        "raster:histogram": {
            "type": "object",
            "required": ["count", "min", "max", "buckets"],
            "properties": {
                "count": _SCALAR,
                "min": _SCALAR,
                "max": _SCALAR,
                "buckets": {"type": "array", "minItems": 3, "items": {"type": "integer"}},
            },
            "additionalProperties": False,
        },
    },
    CLASSIFICATION: {
        "classification:classes": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {
                "type": "object",
                "required": ["value", "name"],
                "properties": {
                    "value": {"type": "integer"},
                    "name": {"type": "string", "pattern": "^[0-9A-Za-z-_]+$"},
                    "title": _TEXT,
                    "description": _TEXT,
                    "color_hint": {"type": "string", "pattern": "^([0-9A-Fa-f]{6})$"},
                    "nodata": {"type": "boolean"},
                    "percentage": _between(0, 100),
                    "count": _COUNT,
                },
                "additionalProperties": False,
            },
        },
        "classification:bitfields": {"type": "array", "minItems": 1, "uniqueItems": True},
    },
    TABLE: {
        "table:columns": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": _TEXT, "description": _TEXT, "type": _TEXT},
            },
        },
        "table:primary_geometry": _TEXT,
        "table:row_count": _COUNT,
        "table:storage_options": {"type": "object"},
        "table:tables": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": _TEXT, "description": _TEXT},
            },
        },
    },
}

PLACES: dict[str, set[str]] = {
    FILE: {"asset", "link"},
    PROJECTION: {"item", "asset", "item_assets"},
    RASTER: {"item", "asset", "item_assets", "band"},
    CLASSIFICATION: {"item", "asset", "item_assets"},
    TABLE: {"item", "collection", "asset"},
}
"""Where an extension has fields."""


def check_extensions(document: Mapping[str, Any]) -> None:
    """Check the fields of extensions, and that an extension is declared if a field of it is used,
    and only then. The schema of the raster extension itself requires a field of it."""
    declared = set(document["stac_extensions"])
    assert len(declared) == len(document["stac_extensions"])
    used = set()
    for place, fields in _parts(document):
        for url, rules in FIELDS.items():
            prefix = next(iter(rules)).partition(":")[0] + ":"
            own = {name: value for name, value in fields.items() if name.startswith(prefix)}
            if own:
                assert place in PLACES[url], f"{', '.join(own)} in {place}"
                used.add(url)
                schema = {"properties": rules, "additionalProperties": False}
                jsonschema.Draft7Validator(schema).validate(own)
        names = [entry["name"] for entry in fields.get("classification:classes", ())]
        assert len(set(names)) == len(names)
        for band in fields.get("bands", ()):
            assert band["name"]
    if document["type"] == "Feature" and PROJECTION in used:
        code, wkt = (document["properties"].get(f"proj:{key}") for key in ("code", "wkt2"))
        assert code or wkt
    assert used == declared & FIELDS.keys()


def _parts(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what can have fields of extensions, and its name in `PLACES`."""
    if document["type"] == "Feature":
        yield "item", document["properties"]
    else:
        yield "collection", document
    for name, key in (("asset", "assets"), ("item_assets", "item_assets")):
        for asset in document.get(key, {}).values():
            yield name, asset
            for band in asset.get("bands", ()):
                yield "band", band
    for link in document.get("links", ()):
        yield "link", link
