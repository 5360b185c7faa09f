"""State licence, providers, keywords, bands and outline in STAC documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import shapely

from ...region.grid import RegionGrid
from ..blocks import COUNT_KINDS, RegionBlocks
from ..geotiff.change import BAND
from ..geotiff.counts import MONTH_BANDS, counts_type
from ..geotiff.preview import png_shape
from ..provenance import ModelRecord, Provenance, SourceRecord, crs_code, product_crs

RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"

# As the items of Planetary Computer and Earth Search link it.
_SENTINEL_NOTICE = "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice"
_HOSTS = {
    "mpc": "Microsoft Planetary Computer",
    "earth-search": "Element 84 Earth Search",
    "opera": "Alaska Satellite Facility",
}
_GRID = ("proj:shape", "proj:transform")
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


def pixel_metres(grid: RegionGrid) -> float | None:
    """Return the width of a pixel of the products in metres; None if it is in degrees."""
    crs = product_crs(grid)
    if not crs.is_projected:
        return None
    return float(abs(grid.product_geobox.affine.a) * crs.axis_info[0].unit_conversion_factor)


def asset_fields(name: str, source: RegionBlocks, provenance: Provenance) -> dict[str, Any]:
    """Return the data type, no data, bands and resolution of an asset that is a raster or a store.

    An image without coordinates has no CRS and a shape of its own, so that it does not have those
    of the Item.
    """
    model = provenance.model
    dimensions = [{"name": f"dimension {k}"} for k in range(model.dim)]
    embeddings: dict[str, Any] = {"data_type": model.dtype, "bands": dimensions}
    if model.dtype == "float32":
        embeddings["nodata"] = "nan"
    floats = {"data_type": "float32", "nodata": "nan"}
    fields: dict[str, Any] = {
        "embeddings.zarr": embeddings,
        "stitched_representation.npy": embeddings,
        "stitched_representation_scales.npy": floats,
        "embeddings.tif": {**floats, "bands": dimensions},
        "embeddings.vrt": {**floats, "bands": dimensions},
        "embeddings_codes.tif": {"data_type": "int16", "nodata": -32768, "bands": dimensions},
        "embeddings_scales.tif": {**floats, "bands": [{"name": "scale"}]},
        "change.tif": {**floats, "bands": [{"name": BAND}]},
        "origin.tif": {"data_type": "uint8", "nodata": 0, "bands": [{"name": "origin"}]},
        "preview.tif": {
            "data_type": "uint8",
            "bands": [{"name": n} for n in ("red", "green", "blue", "alpha")],
        },
        "preview.png": {"proj:code": None, "proj:shape": list(png_shape(source.shape))},
    }.get(name, {})
    if name == "geotessera":
        fields = {**embeddings, **_zone_fields(source.grid)}
    if name == "counts.tif":
        dtype, nodata = counts_type(source)
        bands = [*COUNT_KINDS, *(MONTH_BANDS if source.months else ())]
        fields = {"data_type": dtype.name, "nodata": nodata, "bands": [{"name": n} for n in bands]}
    metres = pixel_metres(source.grid)
    if name.endswith((".tif", ".vrt")) and metres is not None:
        fields = fields | {"raster:spatial_resolution": metres}
    return dict(fields)


def _zone_fields(grid: RegionGrid) -> dict[str, Any]:
    """Return the CRS and grid of a store of the geotessera client, if they are not those of the
    region; without a grid if it has several, each with a CRS of its own."""
    from ..stores.geotessera import zone_grids

    zones, box, code = zone_grids(grid), grid.product_geobox, crs_code(product_crs(grid))
    stated: dict[str, Any] = {} if code else {"proj:wkt2": None}
    if len(zones) > 1:
        return {"proj:code": None, **stated}
    (zone,) = zones
    if (zone.crs, zone.affine, zone.shape) == (code, box.affine, tuple(box.shape)):
        return {}
    return {
        "proj:code": zone.crs,
        **stated,
        "proj:shape": list(zone.shape),
        "proj:transform": [float(v) for v in list(zone.affine)[:6]],
    }


def place_grid(properties: dict[str, Any], assets: Mapping[str, dict[str, Any]]) -> None:
    """Move the grid from an Item to its rasters and stores, if one of them has another CRS and no
    single grid, because an asset has the fields of the Item that it has not itself.

    Args:
        properties: of the Item; changed.
        assets: their fields, by key; changed.
    """
    grid = {key: properties[key] for key in _GRID}
    if all("proj:code" not in own or "proj:shape" in own for own in assets.values()):
        return
    for key in _GRID:
        del properties[key]
    for own in assets.values():
        if "data_type" in own and "proj:code" not in own:
            own.update(grid)


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
