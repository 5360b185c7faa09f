"""STAC Items and Collections, read by pystac and validated by their JSON schemas, offline."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pystac
import pytest
import rasterio
import shapely
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from tessera_flow.errors import ConfigError
from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.stac.documents import EXTENSION, write_collection, write_item
from tessera_flow.products.stac.metadata import RASTER
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.region.grid import RegionGrid
from tessera_flow.scenes.manifest import Manifest, SourceItem

from ..support.products_region import make_region, write_block
from ..support.stac_rules import check_extensions

PRODUCTS = {
    "zarr": ["embeddings.zarr"],
    "arrays": ["stitched_representation.npy", "stitched_representation_scales.npy"],
    "counts": ["counts.tif"],
    "preview": ["preview.tif", "preview.png"],
}

# Requirements of the schema of the embedding extension 0.0.1: the required fields and links, and no
# unknown field with its prefix. (The published schema itself refuses every document of STAC 1.1: it
# refers to the schemas of STAC 1.0.0.)
_KNOWN_ITEM = ["runtime_parameters", "preprocessing", "postprocessing", "fit_for_use",
               "spatial_coverage", "uncertainty", "quantization"]  # fmt: skip
_KNOWN_COLLECTION = ["type", "dimensions", "temporal_resolution", "fit_for_use", "uncertainty",
                     "chip_layout"]  # fmt: skip


def _only(names: list[str]) -> dict[str, Any]:
    return {"propertyNames": {"pattern": f"^(?!emb:)|^emb:({'|'.join(names)})$"}}


def _has_link(rel: str) -> dict[str, Any]:
    href = {"type": "string", "minLength": 1}
    link = {"required": ["rel", "href"], "properties": {"rel": {"const": rel}, "href": href}}
    return {"properties": {"links": {"contains": link}}}


_NUMBERS = {"type": ["number", "array"], "items": {"type": "number"}}
_QUANTIZATION = {
    "type": "object",
    "required": ["method", "original_dtype"],
    "properties": {
        "method": {"type": "string"},
        "original_dtype": {"type": "string"},
        "quantized_dtype": {"type": "string"},
        "scale": _NUMBERS,
        "offset": _NUMBERS,
        "link": {"type": "object", "required": ["rel", "href"]},
    },
    "additionalProperties": False,
}
_DECLARED = {"properties": {"stac_extensions": {"contains": {"const": EXTENSION}}}}
ITEM_RULES = {
    "allOf": [
        _DECLARED,
        {
            "required": ["assets", "properties"],
            "properties": {
                "assets": {"required": ["embeddings"], "additionalProperties": _only(["none"])},
                "properties": {
                    **_only(_KNOWN_ITEM),
                    "properties": {
                        "emb:quantization": _QUANTIZATION,
                        "emb:runtime_parameters": {"type": "object"},
                    },
                },
            },
        },
    ]
}
COLLECTION_RULES = {
    "required": ["emb:type", "emb:dimensions", "data_type", "links"],
    "properties": {
        "emb:type": {"enum": ["pixel", "chip"]},
        "emb:dimensions": {"type": "integer", "minimum": 1},
        "data_type": {"type": "string"},
        "gsd": {"type": "number"},
        "emb:temporal_resolution": {"type": "string"},
        "assets": {"additionalProperties": _only(["none"])},
        "item_assets": {"additionalProperties": _only(["none"])},
    },
    **_only(_KNOWN_COLLECTION),
    "allOf": [_DECLARED, _has_link("emb:model"), _has_link("emb:source-data")],
}


def scene(name: str) -> SourceItem:
    return SourceItem(name, datetime.date(2023, 8, 1), None, 0, None, {})


def manifests() -> list[Manifest]:
    return [
        Manifest("sentinel2", (scene("S2A_1"), scene("S2B 2")), (("S2A_9", "no data"),)),
        Manifest("sentinel1", (scene("S1A_1"),), ()),
    ]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[Path]]:
    """Write a Collection of the Items of two periods."""
    region = make_region(tmp_path / "blocks", 100)
    items = []
    for period, start, end in (
        ("y2023", "2023-07-01", "2024-06-30"),
        ("y2022", "2022-07-01", "2023-06-30"),
    ):
        record = replace(region.provenance, period=period, period_start=start, period_end=end)
        items.append(tmp_path / "field" / period / "item.json")
        write_item(items[-1], region.grid, region.blocks, record, PRODUCTS, manifests())
    collection = tmp_path / "field" / "collection.json"
    write_collection(collection, items)
    return collection, items


def validated(path: Path, rules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the document after validation by the STAC schemas (in pystac) and `rules`."""

    def no_network(*arguments: object, **options: object) -> None:
        raise AssertionError("a schema was fetched from the internet")

    monkeypatch.setattr("pystac.StacIO.read_text", no_network)
    document = json.loads(path.read_text())
    kind = pystac.STACObjectType.ITEM if document["type"] == "Feature" else (
        pystac.STACObjectType.COLLECTION
    )  # fmt: skip
    validator = JsonSchemaSTACValidator()
    assert validator.validate_core(document, kind, "1.1.0") is not None
    jsonschema.Draft7Validator(rules).validate(document)
    check_extensions(document)
    return document


def test_item_is_valid_and_complete(
    written: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = validated(written[1][0], ITEM_RULES, monkeypatch)
    assert item["id"] == "field-y2023"
    assert item["properties"]["start_datetime"] == "2023-07-01T00:00:00Z"
    assert item["properties"]["end_datetime"] == "2024-06-30T23:59:59Z"
    assert item["properties"]["proj:code"] == "EPSG:32631"
    assert item["properties"]["proj:transform"] == [10, 0, 600_000, 0, -10, 5_700_000]
    assert item["properties"]["gsd"] == 10
    assert item["properties"]["provenance"]["model"]["sha256"] == "ab" * 32
    assert item["assets"]["embeddings"]["href"] == "./embeddings.zarr"
    assert {a["href"] for a in item["assets"].values()} == {
        f"./{name}" for names in PRODUCTS.values() for name in names
    }
    west, south, east, north = item["bbox"]
    assert 4.4 < west < east < 4.5 and 51.4 < south < north < 51.5
    links = [link["href"] for link in item["links"] if link["rel"] == "emb:source-data"]
    base = "https://planetarycomputer.microsoft.com/api/stac/v1/collections"
    assert links == [
        f"{base}/sentinel-2-l2a/items/S2A_1",
        f"{base}/sentinel-2-l2a/items/S2B%202",
        f"{base}/sentinel-1-rtc/items/S1A_1",
    ]


def test_item_has_licence_providers_bands_and_outline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = make_region(tmp_path / "blocks", 100)
    folder = tmp_path / "field" / "y2023"
    outline = shapely.Point(4.45, 51.44).buffer(0.005, 2000)
    products = PRODUCTS | {"cog": ["embeddings.tif"], "vrt": ["embeddings.vrt"]}
    write_item(
        folder / "item.json", region.grid, region.blocks, region.provenance, products,
        manifests(), licence="CC-BY-4.0", outline=outline,
    )  # fmt: skip
    item = validated(folder / "item.json", ITEM_RULES, monkeypatch)
    properties, assets = item["properties"], item["assets"]
    assert properties["license"] == "CC-BY-4.0"
    assert [p["name"] for p in properties["providers"]] == [
        "ESA", "Microsoft Planetary Computer", "TESSERA (v2-nano)", "tessera-flow"
    ]  # fmt: skip
    assert "embeddings" in properties["keywords"]
    assert [link["rel"] for link in item["links"]].count("license") == 1
    assert assets["cog"]["bands"][15] == {"name": "dimension 15"}
    assert (assets["cog"]["data_type"], assets["cog"]["nodata"]) == ("float32", "nan")
    assert assets["embeddings"]["data_type"] == "int8" and len(assets["embeddings"]["bands"]) == 16
    assert [band["name"] for band in assets["counts"]["bands"]][2:4] == [
        "s1_descending", "s2_months"
    ]  # fmt: skip
    assert assets["counts"]["raster:spatial_resolution"] == 10
    assert (assets["counts"]["data_type"], assets["counts"]["nodata"]) == ("uint16", 65535)
    assert assets["embeddings"]["type"] == "application/vnd.zarr"
    # An image without coordinates must not inherit those of the Item.
    thumbnail = assets["thumbnail"]
    assert (thumbnail["proj:code"], thumbnail["proj:shape"]) == (None, [230, 170])
    shape = shapely.geometry.shape(item["geometry"])
    assert shapely.get_num_coordinates(shape) <= 2000 < shapely.get_num_coordinates(outline)
    assert shape.symmetric_difference(outline).area < 1e-3 * outline.area
    np.testing.assert_allclose(item["bbox"], outline.bounds, atol=1e-6)
    write_collection(tmp_path / "field" / "collection.json", [folder / "item.json"])
    collection = validated(tmp_path / "field" / "collection.json", COLLECTION_RULES, monkeypatch)
    assert collection["license"] == "CC-BY-4.0"
    assert collection["providers"] == properties["providers"]
    assert collection["keywords"] == properties["keywords"]


def test_item_without_rasters_has_no_fields_of_the_raster_extension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = make_region(tmp_path / "blocks", 100)
    path = tmp_path / "item.json"
    products = {"zarr": ["embeddings.zarr"]}
    write_item(path, region.grid, region.blocks, region.provenance, products, manifests())
    item = validated(path, ITEM_RULES, monkeypatch)
    assert RASTER not in item["stac_extensions"]


@pytest.mark.parametrize(
    ("crs", "pixel", "metres"), [("EPSG:2263", 30, 9.144018), ("EPSG:4326", 0.0001, None)]
)
def test_resolution_is_in_metres(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crs: str, pixel: float, metres: float | None
) -> None:
    """Of pixels in US survey feet; it is unknown of pixels in degrees."""
    region = make_region(tmp_path / "blocks", 100)
    origin = (981_000, 199_000) if metres else (4.5, 51.5)
    affine = Affine(pixel, 0, origin[0], 0, -pixel, origin[1])
    box = GeoBox(region.grid.geobox.shape, affine, crs)
    grid = RegionGrid.of("field", box, region.grid.block_size, 1, region.grid.blocks)
    record = replace(region.provenance, crs=crs, transform=tuple(affine)[:6])
    path = tmp_path / "item.json"
    write_item(path, grid, region.blocks, record, PRODUCTS, manifests())
    item = validated(path, ITEM_RULES, monkeypatch)
    expected = None if metres is None else pytest.approx(metres)
    assert item["properties"].get("gsd") == expected
    assert item["assets"]["counts"].get("raster:spatial_resolution") == expected


@pytest.mark.parametrize(
    ("crs", "corner", "zones"),
    [
        ("EPSG:32631", (600_000, 5_700_000), ["utm31"]),
        ("EPSG:32733", (600_000, 9_000_000), ["utm33"]),
        ("EPSG:32631", (707_500, 5_700_000), ["utm31", "utm32"]),
        ("EPSG:3035", (4_100_000, 3_000_000), ["utm32"]),
        ("+proj=laea +lat_0=52 +lon_0=9 +ellps=GRS80", (0, 0), ["utm32"]),
    ],
)
def test_store_of_the_client_has_its_own_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crs: str, corner: Any, zones: list[str]
) -> None:
    """A store has the grids of UTM zones, with northern CRS, whatever the grid of the region."""
    region = make_region(tmp_path / "blocks", 100, dim=128)
    affine = Affine(10, 0, corner[0], 0, -10, corner[1])
    box = GeoBox(region.grid.geobox.shape, affine, crs)
    grid = RegionGrid.of("field", box, region.grid.block_size, 1, region.grid.blocks)
    record = replace(region.provenance, crs=str(box.crs), transform=tuple(affine)[:6])
    write_geotessera(tmp_path / "geotessera", grid, region.blocks, record)
    path = tmp_path / "item.json"
    products = {"zarr": ["embeddings.zarr"], "preview": ["preview.tif", "preview.png"],
                "geotessera": ["geotessera"]}  # fmt: skip
    write_item(path, grid, region.blocks, record, products, manifests())
    item = validated(path, ITEM_RULES, monkeypatch)

    def place(key: str) -> tuple[Any, ...]:
        fields = item["properties"] | item["assets"][key]
        return tuple(fields.get(f"proj:{name}") for name in ("code", "wkt2", "shape", "transform"))

    groups = zarr.open_group(tmp_path / "geotessera", mode="r")
    assert sorted(groups.group_keys()) == zones
    stored = dict(groups[zones[0]].attrs)
    assert item["assets"]["geotessera"]["data_type"] == "int8"
    if len(zones) > 1:
        assert place("geotessera") == (None, None, None, None)
    else:
        names = ("proj:code", "none", "spatial:shape", "spatial:transform")
        assert place("geotessera") == tuple(stored.get(name) for name in names)
    code = crs if crs.startswith("EPSG") else None
    for key in ("embeddings", "visual"):
        found = place(key)
        assert found[0] == code and (found[1] is None) == (code is not None)
        assert found[2:] == ([230, 170], list(affine)[:6])


def test_thumbnail_of_a_large_region_states_its_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = make_region(tmp_path / "blocks", 100)
    monkeypatch.setattr("tessera_flow.products.geotiff.preview.PNG_EDGE", 100)
    names = tmp_path / "preview.tif", tmp_path / "preview.png"
    write_preview(*names, region.grid, region.blocks, region.provenance)
    path = tmp_path / "item.json"
    write_item(path, region.grid, region.blocks, region.provenance, PRODUCTS, manifests())
    stated = json.loads(path.read_text())["assets"]["thumbnail"]["proj:shape"]
    with rasterio.open(names[1]) as image:
        assert list(image.shape) == stated == [77, 57]


def test_item_has_the_warnings_about_the_scenes(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60)
    record = replace(region.provenance, warnings=("No Sentinel-1 scene exists.",))
    write_item(tmp_path / "item.json", region.grid, region.blocks, record, PRODUCTS, manifests())
    properties = json.loads((tmp_path / "item.json").read_text())["properties"]
    assert properties["warnings"] == ["No Sentinel-1 scene exists."]
    assert properties["provenance"]["warnings"] == ["No Sentinel-1 scene exists."]


def test_item_records_how_the_blocks_were_computed(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60)
    first, *others = sorted(region.blocks)
    reason = (
        "in bf16 it differs too much on 16 pixels of this block (cosine 0.99 instead of 0.9999)"
    )
    for block, precision in ((first, "float32"), *((name, "bf16") for name in others)):
        window = region.grid.product_window(region.grid.block(block)).slices
        assert region.scales is not None
        arrays = (region.embeddings[window], region.scales[window], region.counts[window])
        record = {
            "precision": precision,
            "device": "cuda (NVIDIA A100)",
            "fallback": reason if precision == "float32" else None,
            "compared": {"pixels": 16, "cosine": 0.99995},
        }
        write_block(region.blocks[block], *arrays, 25, record)
    output = tmp_path / "item.json"
    write_item(output, region.grid, region.blocks, region.provenance, PRODUCTS, manifests())
    properties = json.loads(output.read_text())["properties"]
    assert properties["inference"] == {
        "blocks": [
            {"precision": "bf16", "device": "cuda (NVIDIA A100)", "blocks": others},
            {"precision": "float32", "device": "cuda (NVIDIA A100)", "blocks": [first]},
        ],
        "fallbacks": {first: reason},
        "compared": {"pixels": 16 * len(region.blocks), "cosine": 0.99995},
    }
    mixed, replaced = properties["warnings"]
    assert "computed in different precisions" in mixed and "Set model.precision to" in mixed
    assert replaced.startswith(
        f"Float32 replaced a faster precision in 1 of {len(region.blocks)} blocks"
    )


def test_collection_is_valid_and_covers_its_periods(
    written: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = validated(written[0], COLLECTION_RULES, monkeypatch)
    assert (collection["emb:type"], collection["emb:dimensions"]) == ("pixel", 16)
    assert collection["data_type"] == "int8"
    (asset,) = collection["item_assets"].items()
    item = json.loads(written[1][0].read_text())["assets"]["embeddings"]
    assert asset == ("embeddings", {k: item[k] for k in ("title", "type", "roles", "data_type")})
    intervals = collection["extent"]["temporal"]["interval"]
    assert intervals[0] == ["2022-07-01T00:00:00Z", "2024-06-30T23:59:59Z"]
    assert len(intervals) == 3


def test_pystac_follows_links_from_the_collection_to_the_files(
    written: tuple[Path, list[Path]],
) -> None:
    collection = pystac.Collection.from_file(written[0])
    items = list(collection.get_items())
    assert [item.id for item in items] == ["field-y2023", "field-y2022"]
    href = items[1].assets["embeddings"].get_absolute_href()
    assert href == str(written[0].parent / "y2022" / "embeddings.zarr")
    assert items[0].get_collection() is collection or items[0].get_collection().id == "field"


def test_violated_rule_is_detected(
    written: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(written[1][0].read_text())
    document["assets"]["zarr"] = document["assets"].pop("embeddings")
    written[1][0].write_text(json.dumps(document))
    with pytest.raises(jsonschema.ValidationError, match="'embeddings' is a required property"):
        validated(written[1][0], ITEM_RULES, monkeypatch)


def test_item_requires_a_product_with_the_embeddings(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    with pytest.raises(ConfigError, match="stac but none of zarr, arrays, cog, vrt, geotessera"):
        write_item(
            tmp_path / "item.json",
            region.grid,
            region.blocks,
            region.provenance,
            {"preview": ["preview.tif"]},
            manifests(),
        )


def test_outline_of_a_grid_across_the_antimeridian_is_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grid of a region that ends at 180 degrees is snapped outwards, across it."""
    region = make_region(tmp_path / "blocks", 100)
    shape = region.grid.geobox.shape
    box = GeoBox(shape, Affine(10, 0, 818_500, 0, -10, 1_885_000), "EPSG:32660")
    grid = RegionGrid.of("field", box, region.grid.block_size, 1, region.grid.blocks)
    write_item(
        tmp_path / "item.json", grid, region.blocks, region.provenance, PRODUCTS, manifests()
    )
    item = validated(tmp_path / "item.json", ITEM_RULES, monkeypatch)
    parts = [shapely.box(*part.bounds) for part in shapely.geometry.shape(item["geometry"]).geoms]
    west, south, east, north = item["bbox"]
    assert 179.98 < west < 180 and -180 < east < -179.99 and 17.0 < south < north < 17.1
    assert len(parts) == 2 and sum(part.area for part in parts) < 0.001
