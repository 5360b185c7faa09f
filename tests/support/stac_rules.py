"""What STAC extensions require, as JSON schemas.

The schemas of the extensions themselves are in no package. These rules were written from memory of
the published specifications, and not compared with their text: required fields, types, and no
unknown field with the prefix of an extension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from tessera_flow.analysis.stac import CLASSIFICATION
from tessera_flow.products.stac import FILE, PROJECTION
from tessera_flow.products.stac_metadata import RASTER

TABLE = "https://stac-extensions.github.io/table/v1.2.0/schema.json"

_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_SCALAR = {"type": "number"}

FIELDS: dict[str, dict[str, Any]] = {
    FILE: {
        "file:byte_order": {"enum": ["big-endian", "little-endian"]},
        # A multihash; 12 20 is SHA-256 of 32 bytes.
        "file:checksum": {"type": "string", "pattern": "^1220[0-9a-f]{64}$"},
        "file:header_size": _COUNT,
        "file:size": _COUNT,
        "file:local_path": _TEXT,
        "file:values": {"type": "array"},
    },
    PROJECTION: {
        "proj:code": {"type": ["string", "null"], "pattern": "^[A-Z]+:[0-9A-Za-z]+$"},
        "proj:wkt2": {"type": ["string", "null"]},
        "proj:projjson": {"type": ["object", "null"]},
        "proj:geometry": {"type": "object"},
        "proj:bbox": {**_NUMBERS, "minItems": 4, "maxItems": 6},
        "proj:centroid": {"type": "object"},
        "proj:shape": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
        "proj:transform": {**_NUMBERS, "minItems": 6, "maxItems": 9},
    },
    RASTER: {
        "raster:sampling": {"enum": ["area", "point"]},
        "raster:bits_per_sample": _SCALAR,
        "raster:spatial_resolution": {"type": "number", "exclusiveMinimum": 0},
        "raster:scale": _SCALAR,
        "raster:offset": _SCALAR,
        "raster:histogram": {"type": "object"},
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
                    "color_hint": {"type": "string", "pattern": "^([0-9A-F]{6})$"},
                    "nodata": {"type": "boolean"},
                    "percentage": _SCALAR,
                    "count": _COUNT,
                },
                "additionalProperties": False,
            },
        },
        "classification:bitfields": {"type": "array"},
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
        "table:tables": {"type": "array"},
    },
}


def check_extensions(document: Mapping[str, Any]) -> None:
    """Check the fields of extensions, and that an extension is declared if a field of it is used,
    and only then."""
    declared = set(document["stac_extensions"])
    assert len(declared) == len(document["stac_extensions"])
    used = set()
    for fields in _parts(document):
        for url, rules in FIELDS.items():
            prefix = next(iter(rules)).partition(":")[0] + ":"
            own = {name: value for name, value in fields.items() if name.startswith(prefix)}
            if own:
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


def _parts(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what can have fields of extensions."""
    yield document.get("properties", document)
    for asset in document.get("assets", {}).values():
        yield asset
        yield from asset.get("bands", ())
    yield from document.get("links", ())
