"""State licence, providers, keywords, bands and outline in STAC documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import shapely

from .provenance import ModelRecord, Provenance, SourceRecord

RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"

# As the items of Planetary Computer and Earth Search link it.
_SENTINEL_NOTICE = "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice"
_HOSTS = {
    "mpc": "Microsoft Planetary Computer",
    "earth-search": "Element 84 Earth Search",
    "opera": "Alaska Satellite Facility",
}
_MOST_POINTS = 2000
_FINEST = 1e-6


def common_metadata(
    model: ModelRecord, sources: Iterable[SourceRecord], version: str, licence: str
) -> dict[str, Any]:
    """Return `license`, `providers` and `keywords` of an Item, common metadata of STAC; `version`
    is that of tessera-flow."""
    providers: list[dict[str, Any]] = [
        {"name": "ESA", "roles": ["producer", "licensor"], "url": "https://www.esa.int"},
    ]
    for source in sources:
        if source.provider in _HOSTS:
            host = {"name": _HOSTS[source.provider], "roles": ["host"], "url": source.uri}
            if host["name"] not in [provider["name"] for provider in providers]:
                providers.append(host)
    tessera: dict[str, Any] = {"name": f"TESSERA ({model.name})", "roles": ["processor"]}
    if model.url.startswith("https:"):
        tessera["url"] = model.url
    flow = {"name": "tessera-flow", "roles": ["processor"], "description": f"version {version}"}
    return {
        "license": licence,
        "providers": [*providers, tessera, flow],
        "keywords": ["embeddings", "TESSERA", model.name, "Sentinel-1", "Sentinel-2"],
    }


def licence_link() -> dict[str, str]:
    """Return the terms of the scenes, which hold for what is made from them."""
    return {
        "rel": "license",
        "href": _SENTINEL_NOTICE,
        "title": "Terms of the Copernicus Sentinel data",
    }


def asset_fields(name: str, provenance: Provenance) -> dict[str, Any]:
    """Return the data type, no data and bands of an asset that is a raster or a store."""
    model = provenance.model
    dimensions = [{"name": f"dimension {k}"} for k in range(model.dim)]
    embeddings: dict[str, Any] = {"data_type": model.dtype, "bands": dimensions}
    if model.dtype == "float32":
        embeddings["nodata"] = "nan"
    floats = {"data_type": "float32", "nodata": "nan"}
    kinds = ("s2_valid", "s1_ascending", "s1_descending")
    fields: dict[str, Any] = {
        "embeddings.zarr": embeddings,
        "stitched_representation.npy": embeddings,
        "stitched_representation_scales.npy": floats,
        "embeddings.tif": {**floats, "bands": dimensions},
        "embeddings.vrt": {**floats, "bands": dimensions},
        "embeddings_codes.tif": {"data_type": "int16", "nodata": -32768, "bands": dimensions},
        "embeddings_scales.tif": {**floats, "bands": [{"name": "scale"}]},
        "counts.tif": {
            "bands": [{"name": n} for n in kinds]
            + [{"name": f"{n.removesuffix('_valid')}_months"} for n in kinds if provenance.months]
        },
        "origin.tif": {"data_type": "uint8", "nodata": 0, "bands": [{"name": "origin"}]},
        "preview.tif": {
            "data_type": "uint8",
            "bands": [{"name": n} for n in ("red", "green", "blue", "alpha")],
        },
    }.get(name, {})
    if name.endswith((".tif", ".vrt")):
        fields = fields | {"raster:spatial_resolution": abs(provenance.transform[0])}
    return dict(fields)


def simplified(outline: shapely.Geometry) -> shapely.Geometry:
    """Return the outline of a region, in degrees, with at most about 2000 points.

    It is simplified with a growing tolerance, from 0.1 m on.
    """
    tolerance = _FINEST
    result = outline
    while shapely.get_num_coordinates(result) > _MOST_POINTS:
        result = shapely.simplify(outline, tolerance)
        tolerance *= 2
    return result
