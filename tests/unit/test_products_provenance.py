"""The provenance record: complete, and without private data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from odc.geo.geobox import GeoBox

from tessera_flow.config.configuration import load_config
from tessera_flow.config.fingerprint import content_hash
from tessera_flow.errors import RegionError
from tessera_flow.models.weights_record import WeightsRecord, write_weights_record
from tessera_flow.products.inputs import product_inputs
from tessera_flow.products.provenance import Provenance, SourceRecord, build_provenance
from tessera_flow.scenes.manifest import Manifest

from ..support.pipeline import MODEL, write_box
from ..support.products_region import WEIGHTS, make_config, make_region


@pytest.fixture
def record(tmp_path: Path) -> Provenance:
    return make_region(tmp_path, 100).provenance


def test_record_is_complete(record: Provenance) -> None:
    document = record.to_json()
    assert document["crs"] == "EPSG:32631"
    assert document["transform"] == [10.0, 0.0, 600_000.0, 0.0, -10.0, 5_700_000.0]
    assert document["shape"] == [230, 170]
    assert document["nodata"] == {"embeddings": "0", "scales": "NaN"}
    assert document["model"] == {
        "family": "v2-student",
        "name": "v2-nano",
        "sha256": "ab" * 32,
        "dim": 16,
        "dtype": "int8",
        "url": "urn:sha256:" + "ab" * 32,
        "statistics": None,
        "heads": None,
        "precision": "auto",
        "seed": 0,
        "repeat_times": 1,
    }
    assert [s["sensor"] for s in document["sources"]] == ["sentinel2", "sentinel1"]
    assert (document["period_start"], document["period_end"]) == ("2023-07-01", "2024-06-30")
    assert document["preprocessing"] == "corrected"
    assert document["software"]["tessera-flow"]
    assert document["software"]["numpy"]
    assert document["configuration_sha256"] == content_hash(make_config(), "field", "y2023")


def test_warnings_of_the_region_and_of_the_scenes_are_in_the_record(tmp_path: Path) -> None:
    """Pixels of web Mercator have another size on the ground, whatever shows it: log or product."""
    roi = write_box(tmp_path / "roi.geojson", 600_000, 5_699_600, 600_400, 5_700_000)
    config = load_config(
        {
            "regions": {"field": {"roi": str(roi), "crs": "EPSG:3857"}},
            "periods": {"y2023": {"start": "2023-01-01", "end": "2023-12-31"}},
            "model": MODEL,
            "paths": {"work": str(tmp_path / "work")},
        }
    )
    weights = tmp_path / "weights.json"
    write_weights_record(
        WeightsRecord("x.pt", "ab" * 32, None, None, "v2-student", {}, [128], "int8"), weights
    )
    Manifest("sentinel2", (), (), ("No Sentinel-2 scene exists.",)).write(tmp_path / "s2.json")
    inputs = product_inputs(config, "field", "y2023", [], weights, [tmp_path / "s2.json"])
    record = inputs["provenance"]
    scale, scenes = record.warnings
    assert scale.startswith("The file of region field: pixels of 10 m in EPSG:3857")
    assert "6.25 x 6.23 m on the ground" in scale
    assert scenes == "No Sentinel-2 scene exists."
    assert str(tmp_path) not in json.dumps(record.to_json())


def test_record_has_no_secrets_and_no_paths_of_this_machine(tmp_path: Path) -> None:
    config = make_config(
        sentinel2={
            "provider": "local",
            "location": "https://${USER}:${PASSWORD}@stac.example.org/v1?sig=${SIG}#frag",
        },
        sentinel1={"provider": "local", "location": "archive/my items.json"},
    )
    region = make_region(tmp_path, 100)
    record = build_provenance(
        region.grid, config, "field", "y2023", WEIGHTS, item_counts={"sentinel2": 31}
    )
    text = json.dumps(record.to_json())
    for private in ("USER", "PASSWORD", "SIG", "someone"):
        assert private not in text
    s2, s1 = record.sources
    assert (s2.location, s2.items) == ("https://stac.example.org/v1", 31)
    assert s2.uri == "https://stac.example.org/v1"
    assert (s1.uri, s1.items) == ("file:archive/my%20items.json", None)


def test_mpc_is_named_by_its_collection() -> None:
    source = SourceRecord("sentinel2", "mpc", "https://example.org/stac/", "sentinel-2-l2a")
    assert source.uri == "https://example.org/stac/collections/sentinel-2-l2a"


def test_disabled_sensor_is_not_a_source(tmp_path: Path) -> None:
    config = make_config(sentinel1={"enabled": False})
    grid = make_region(tmp_path, 100).grid
    record = build_provenance(grid, config, "field", "y2023", WEIGHTS)
    assert [s.sensor for s in record.sources] == ["sentinel2"]


def test_unpublished_weights_are_named_by_their_file(tmp_path: Path) -> None:
    grid = make_region(tmp_path, 100).grid
    weights = WEIGHTS | {"name": None, "url": None}
    model = build_provenance(grid, make_config(), "field", "y2023", weights).model
    assert (model.name, model.url) == ("nano.pt", "urn:sha256:" + "ab" * 32)
    weights = WEIGHTS | {"url": "https://huggingface.co/geotessera/TESSERA-V-2.0-2B-N"}
    model = build_provenance(grid, make_config(), "field", "y2023", weights).model
    assert model.url.startswith("https://huggingface.co/")


def test_float_products_state_nan(tmp_path: Path) -> None:
    grid = make_region(tmp_path, 100).grid
    record = build_provenance(grid, make_config(dtype="float32"), "field", "y2023", WEIGHTS)
    assert record.nodata == {"embeddings": "NaN"}


def test_grid_without_crs_is_refused(tmp_path: Path) -> None:
    grid = make_region(tmp_path, 100).grid
    object.__setattr__(grid, "geobox", GeoBox(grid.geobox.shape, grid.geobox.affine, None))
    with pytest.raises(RegionError, match="Region field: its grid has no CRS"):
        build_provenance(grid, make_config(), "field", "y2023", WEIGHTS)
