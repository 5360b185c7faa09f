"""Write the STAC documents of the products: an Item per period, a Collection per region.

They follow the embedding extension (https://github.com/geo-embeddings/
embeddings-stac-specification): type, dimensions, data type and model are in the Collection,
quantisation in the Item, whose asset `embeddings` is the main product, and links
`emb:source-data` name the scenes.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pystac
import shapely
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry

from ...atomic import write_text
from ...errors import ConfigError
from ...geotessera.manifest import StoreManifest
from ...region.grid import RegionGrid
from ...scenes.manifest import Manifest
from ..blocks import RegionBlocks
from ..checksums import REWRITTEN, STORE_RECORD, Checksums, multihash, records_in
from ..inference_record import InferenceRecord
from ..provenance import ModelRecord, Provenance, SourceRecord, crs_code, product_crs
from .geoparquet import MEDIA_TYPE, scene_items, write_items
from .metadata import (
    RASTER,
    asset_fields,
    common_metadata,
    licence_link,
    pixel_metres,
    place_grid,
    simplified,
)

EXTENSION = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"

QUANTISATION = {
    "method": "per_pixel_scale",
    "original_dtype": "float32",
    "quantized_dtype": "int8",
}
"""Of int8 embeddings, in the terms of the embedding extension."""

_COG = pystac.MediaType.COG
_NPY = "application/x-npy"
_ZARR = pystac.MediaType.VND_ZARR
# Key of the asset, title, media type and roles, by product and name of its file. The first
# product in the order of _MAIN that exists is the asset `embeddings`.
_MAIN = ("zarr", "arrays", "cog", "vrt", "geotessera")
_ASSETS: dict[str, dict[str, tuple[str, str, str, list[str]]]] = {
    "zarr": {"embeddings.zarr": ("zarr", "Zarr v3 store", _ZARR, ["data"])},
    "arrays": {
        "stitched_representation.npy": ("arrays", "Reference array", _NPY, ["data"]),
        "stitched_representation_scales.npy": ("scales", "Scales", _NPY, ["data"]),
        "stitched_representation_counts.npy": (
            "counts_array",
            "Observation counts as an array",
            _NPY,
            ["metadata"],
        ),
        "stitched_representation.json": (
            "arrays_record",
            "Record of the arrays",
            pystac.MediaType.JSON,
            ["metadata"],
        ),
    },
    "cog": {
        "embeddings.tif": ("cog", "All dimensions as a GeoTIFF", _COG, ["data"]),
        "embeddings_codes.tif": ("cog", "Codes of all dimensions as a GeoTIFF", _COG, ["data"]),
        "embeddings_scales.tif": ("cog_scales", "Scales of the codes", _COG, ["data"]),
    },
    "vrt": {"embeddings.vrt": ("vrt", "All dimensions, for GDAL", "application/xml", ["data"])},
    "geotessera": {"geotessera": ("geotessera", "Store of the geotessera client", _ZARR, ["data"])},
    "counts": {
        "counts.tif": ("counts", "Observation counts", _COG, ["metadata"]),
        "counts.qml": ("counts_style", "Style of the counts", "application/xml", ["metadata"]),
    },
    "change": {
        "change.tif": ("change", "Cosine distance to the previous period", _COG, ["metadata"])
    },
    "origin": {"origin.tif": ("origin", "Published or computed", _COG, ["metadata"])},
    "preview": {
        "preview.tif": ("visual", "First three principal components", _COG, ["visual"]),
        "preview.png": ("thumbnail", "Preview", pystac.MediaType.PNG, ["thumbnail"]),
    },
}


def write_item(
    output: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    products: Mapping[str, Sequence[str]],
    manifests: Iterable[Manifest],
    store: StoreManifest | None = None,
    licence: str = "other",
    outline: shapely.Geometry | None = None,
    scenes: Path | None = None,
) -> None:
    """Write the Item of one region and period, beside its products.

    Args:
        output: the JSON file.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id, for how they were computed.
        provenance: written to the Item.
        products: names of the files of each product that was written.
        manifests: the lists of scenes that were used.
        store: the tiles of published embeddings that were used.
        licence: of the products, an SPDX identifier or `other`.
        outline: of the region in degrees; None: that of its grid.
        scenes: Parquet file to write beside it, with the scenes as a table; None: none.

    Raises:
        ConfigError: none of the products contains the embeddings.
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the file cannot be written.
    """
    main = next((name for name in _MAIN if name in products), None)
    if main is None:
        raise ConfigError(
            f"products.formats has stac but none of {', '.join(_MAIN)}: add one of them, because "
            "the Item must have an asset with the embeddings."
        )
    with RegionBlocks(grid, blocks, provenance) as embeddings:
        inference = embeddings.inference()
        assets = _assets(products, embeddings, provenance)
    geometry, bbox = footprint(grid.product_geobox)
    if outline is not None and geometry.geom.geom_type == "Polygon":  # not across 180 degrees
        geometry, bbox = Geometry(simplified(outline), "EPSG:4326"), outline.bounds
    item = pystac.Item(
        id=f"{provenance.region}-{provenance.period}",
        geometry=json.loads(json.dumps(geometry.geom.__geo_interface__)),
        bbox=[round(float(v), 7) for v in bbox],
        datetime=None,
        start_datetime=midnight(provenance.period_start),
        end_datetime=last_second(provenance.period_end),
        properties=_properties(grid, provenance, inference)
        | common_metadata(
            provenance.model, provenance.sources, provenance.software["tessera-flow"], licence
        ),
        stac_extensions=[EXTENSION, PROJECTION],
        collection=provenance.region,
    )
    place_grid(item.properties, {key: asset.extra_fields for key, asset in assets.items()})
    for key, asset in assets.items():
        # The extension requires an asset of this name.
        item.add_asset("embeddings" if key == main else key, asset)
        name = asset.href.removeprefix("./")
        if (output.parent / name / STORE_RECORD).exists():
            item.add_asset(f"{key}_checksums", _store_record(name, str(asset.title)))
        if any(field.startswith("raster:") for field in asset.extra_fields):
            _declare(item, RASTER)
    _add_checksums(item, output.parent, products)
    sources = {source.sensor: source for source in provenance.sources}
    _add_scenes(item, list(manifests), sources, scenes, product_crs(grid).to_wkt())
    if store is not None:
        source = provenance.sources[0]
        item.add_links([_source_link(source, tile.name) for tile in store.parts])
    item.add_link(licence_of_scenes())
    for rel in ("collection", "parent", "root"):
        item.add_link(pystac.Link(rel, "../collection.json", pystac.MediaType.JSON))
    write_document(output, item.to_dict(include_self_link=False, transform_hrefs=False))


def _assets(
    products: Mapping[str, Sequence[str]], source: RegionBlocks, provenance: Provenance
) -> dict[str, pystac.Asset]:
    """Return the assets of the files of products, by key."""
    return {
        key: pystac.Asset(
            f"./{name}", title, None, media_type, roles, asset_fields(name, source, provenance)
        )
        for product, files in products.items()
        for name, (key, title, media_type, roles) in _ASSETS.get(product, {}).items()
        if name in files
    }


def _declare(document: pystac.Item | pystac.Collection, extension: str) -> None:
    if extension not in document.stac_extensions:
        document.stac_extensions.append(extension)


def _add_scenes(
    item: pystac.Item,
    manifests: Sequence[Manifest],
    sources: Mapping[str, SourceRecord],
    table: Path | None,
    crs: str,
) -> None:
    """Add links to the scenes of lists and, if it has a path, write the table of them."""
    for manifest in manifests:
        source = sources[manifest.sensor]
        item.add_links([_source_link(source, scene.id) for scene in manifest.items])
    if table is not None:
        write_items(table, list(scene_items(manifests, sources, crs)))
        asset = file_asset(table, "Scenes, as STAC GeoParquet", MEDIA_TYPE, "metadata")
        item.add_asset("scenes", asset)
        _declare(item, FILE)


def file_asset(path: Path, title: str, media_type: str, role: str) -> pystac.Asset:
    """Return the asset of a file beside the document, with its size and SHA-256."""
    record = Checksums.of_files([path], path.parent)
    fields = {
        "file:size": record.sizes[path.name],
        "file:checksum": multihash(record.sha256[path.name]),
    }
    return pystac.Asset(f"./{path.name}", title, None, media_type, [role], fields)


def licence_of_scenes() -> pystac.Link:
    """Return the link to the terms of the scenes."""
    link = licence_link()
    return pystac.Link(link["rel"], link["href"], title=link["title"])


def _store_record(name: str, title: str) -> pystac.Asset:
    """Return the asset with the SHA-256 of each file of a store."""
    return pystac.Asset(
        f"./{name}/{STORE_RECORD}",
        f"Checksums of the {title}",
        media_type=pystac.MediaType.JSON,
        roles=["metadata"],
    )


def _add_checksums(item: pystac.Item, folder: Path, products: Iterable[str]) -> None:
    """Add size and SHA-256 to the assets that are files, from the records of their writers.

    A VRT has none, because GDAL writes statistics into it; nor has an .aux.xml.
    """
    known: dict[str, tuple[int, str]] = {}
    for record in records_in(folder, products):
        names = [name for name in record.sizes if not name.endswith(REWRITTEN)]
        known |= {name: (record.sizes[name], record.sha256[name]) for name in names}
    for asset in item.assets.values():
        name = asset.href.removeprefix("./")
        if name.endswith(f"/{STORE_RECORD}"):
            record = Checksums.of_files([folder / name], folder)
            known[name] = record.sizes[name], record.sha256[name]
        if name in known:
            size, sha256 = known[name]
            asset.extra_fields |= {"file:size": size, "file:checksum": multihash(sha256)}
            _declare(item, FILE)


def write_collection(
    output: Path, items: Sequence[Path], table: Path | None = None, cube: Path | None = None
) -> None:
    """Write the Collection of one region from the Items of its periods.

    Args:
        output: the JSON file, in the parent of the folders of the Items.
        items: files of `write_item`; at least one.
        table: Parquet file to write beside it, with the Items as a table; None: none.
        cube: the store of all periods, if there is one, beside the Collection.

    Raises:
        OutputError: the file cannot be written.
    """
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in items]
    records = [document["properties"]["provenance"] for document in documents]
    model = ModelRecord(**records[0]["model"])
    region = records[0]["region"]
    spans = [[midnight(r["period_start"]), last_second(r["period_end"])] for r in records]
    extent = [min(start for start, _ in spans), max(end for _, end in spans)]
    collection = pystac.Collection(
        id=region,
        title=f"TESSERA embeddings of {region}",
        description=(
            f"Pixel embeddings of Sentinel-1 and Sentinel-2 time series, {model.dim} dimensions, "
            f"by {model.name} ({model.family})."
        ),
        extent=pystac.Extent(
            pystac.SpatialExtent([documents[0]["bbox"]]),
            # STAC: the first interval covers all the others.
            pystac.TemporalExtent([extent, *spans] if len(spans) > 1 else [extent]),
        ),
        license=documents[0]["properties"]["license"],
        keywords=documents[0]["properties"]["keywords"],
        providers=_all_providers(documents),
        stac_extensions=[EXTENSION],
        extra_fields={
            **collection_fields(model),
            **item_assets(documents[0]["assets"]["embeddings"]),
            **{k: v for k, v in documents[0]["properties"].items() if k == "gsd"},
        },
    )
    if cube is not None:
        _add_cube(collection, cube)
    collection.add_link(licence_of_scenes())
    collection.add_link(pystac.Link("emb:model", model.url, title=model.name))
    sources = [SourceRecord(**source) for record in records for source in record["sources"]]
    for uri, sensor in {source.uri: source.sensor for source in sources}.items():
        collection.add_link(pystac.Link("emb:source-data", uri, title=sensor))
    for path in items:
        href = f"./{path.relative_to(output.parent).as_posix()}"
        collection.add_link(pystac.Link("item", href, "application/geo+json"))
    collection.add_link(pystac.Link("root", "./collection.json", pystac.MediaType.JSON))
    if table is not None:
        folders = [path.parent.relative_to(output.parent).as_posix() for path in items]
        moved = [_moved(item, folder) for item, folder in zip(documents, folders, strict=True)]
        # Without this asset, whose SHA-256 is that of the table.
        own = collection.to_dict(include_self_link=False, transform_hrefs=False)
        write_items(table, moved, {region: own})
        # The role of the specification of STAC GeoParquet.
        asset = file_asset(table, "Items, as STAC GeoParquet", MEDIA_TYPE, "collection-mirror")
        collection.add_asset("items", asset)
        _declare(collection, FILE)
    write_document(output, collection.to_dict(include_self_link=False, transform_hrefs=False))


def _moved(item: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return an Item whose relative URLs are those of the folder above its own, `folder`."""

    def moved(entry: Mapping[str, Any]) -> dict[str, Any]:
        href = str(entry["href"])
        if href.startswith("../"):
            href = f"./{href.removeprefix('../')}"
        elif href.startswith("./"):
            href = f"./{folder}/{href.removeprefix('./')}"
        return {**entry, "href": href}

    return {
        **item,
        "links": [moved(link) for link in item["links"]],
        "assets": {key: moved(asset) for key, asset in item["assets"].items()},
    }


def _add_cube(collection: pystac.Collection, cube: Path) -> None:
    """Add the store of all periods, and its record with size and SHA-256."""
    title = "Zarr v3 store of all periods"
    name = cube.name
    collection.add_asset("cube", pystac.Asset(f"./{name}", title, None, _ZARR, ["data"]))
    record = _store_record(name, title)
    sums = Checksums.of_files([cube / STORE_RECORD], cube)
    size, sha256 = sums.sizes[STORE_RECORD], sums.sha256[STORE_RECORD]
    record.extra_fields |= {"file:size": size, "file:checksum": multihash(sha256)}
    collection.add_asset("cube_checksums", record)
    _declare(collection, FILE)


def _all_providers(documents: Sequence[Mapping[str, Any]]) -> list[pystac.Provider]:
    """Return the providers of all Items, each once."""
    by_name = {p["name"]: p for d in documents for p in d["properties"]["providers"]}
    return [pystac.Provider.from_dict(provider) for provider in by_name.values()]


def footprint(geobox: GeoBox) -> tuple[Geometry, Sequence[float]]:
    """Return the outline of a grid in degrees, and (west, south, east, north).

    Across the antimeridian, according to RFC 7946: two polygons, and west greater than east.
    """
    outline = geobox.geographic_extent
    split = geobox.extent.to_crs("EPSG:4326", wrapdateline=True)
    if split.geom.geom_type != "MultiPolygon":
        return outline, outline.boundingbox.bbox
    _, south, _, north = split.boundingbox.bbox
    bounds = [polygon.bounds for polygon in split.geom.geoms]
    west = min(west for west, *_ in bounds if west > 0)
    east = max(east for _, _, east, _ in bounds if east < 0)
    return split, (west, south, east, north)


def _properties(
    grid: RegionGrid, provenance: Provenance, inference: InferenceRecord
) -> dict[str, Any]:
    geobox, crs, model = grid.product_geobox, product_crs(grid), provenance.model
    code = crs_code(crs)
    properties: dict[str, Any] = {
        "title": f"TESSERA embeddings of {provenance.region}, {provenance.period}",
        "proj:code": code,
        **({} if code else {"proj:wkt2": crs.to_wkt()}),
        "proj:shape": [int(n) for n in geobox.shape],
        "proj:transform": [float(v) for v in list(geobox.affine)[:6]],
        "emb:runtime_parameters": {
            "preprocessing": provenance.preprocessing,
            "min_observations": provenance.min_observations,
            "precision": model.precision,
        },
        "provenance": provenance.to_json(),
        "inference": inference.to_json(),
        "warnings": [*provenance.warnings, *inference.warnings],
    }
    if (gsd := pixel_metres(grid)) is not None:
        properties["gsd"] = gsd
    if model.dtype == "int8":
        properties["emb:quantization"] = dict(QUANTISATION)
    return properties


def _source_link(source: SourceRecord, scene: str) -> pystac.Link:
    href = source.item_uri(scene)
    return pystac.Link("emb:source-data", href, title=f"{source.sensor}: {scene}")


def midnight(day: str) -> datetime.datetime:
    """Return the first moment of a day (UTC)."""
    return datetime.datetime.combine(
        datetime.date.fromisoformat(day), datetime.time(), datetime.UTC
    )


def last_second(day: str) -> datetime.datetime:
    """Return the last second of a day (UTC)."""
    return midnight(day) + datetime.timedelta(days=1, seconds=-1)


def collection_fields(model: ModelRecord) -> dict[str, Any]:
    """Return what the embedding extension requires of a Collection."""
    return {
        "emb:type": "pixel",
        "emb:dimensions": model.dim,
        "data_type": model.dtype,
        "emb:temporal_resolution": "multi_temporal",
    }


def item_assets(embeddings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field of a Collection that describes the main asset of its Items, which the
    embedding extension recommends."""
    fields = ("title", "type", "roles", "data_type")
    return {"item_assets": {"embeddings": {k: embeddings[k] for k in fields if k in embeddings}}}


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a STAC document.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, json.dumps(document, indent=1) + "\n")
