"""Hash of the settings that determine the numbers of a product."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tessera_flow.config.configuration import load_config
from tessera_flow.config.fingerprint import content_hash

from .test_config import MINIMAL, PERIOD, changed
from .test_config_geotessera import PUBLISHED

BASE = load_config(yaml.safe_load(MINIMAL))


def hash_of(**sections: Any) -> str:
    return content_hash(load_config(changed(**sections)), "fens", "y2023")


def test_content_hash_is_stable() -> None:
    """A changed hash would mark all existing products as different."""
    assert content_hash(BASE, "fens", "y2023") == (
        "f348b5bffb20a5f6c57017d4a9a25fb5570dbb5e09e62977d9a993c35ed7a86b"
    )
    assert hash_of(grid={"resolution": 10}) == content_hash(BASE, "fens", "y2023")


@pytest.mark.parametrize(
    "sections",
    [
        {"paths": {"results": "elsewhere"}},
        {"products": {"formats": ["arrays"], "zarr_chunk": 50}},
        {"download": {"threads": 1, "attempts": 9, "timeout": 5, "slice_months": 1}},
        {
            "model": {
                "weights": "student.pt",
                "device": "cpu",
                "batch_size": 7,
                "cache": "c",
                "sha256": "0" * 64,
            }
        },
        {"regions": {"fens": {"roi": "fens.geojson", "periods": ["y2023"]}, "b": {"roi": "b"}}},
        {"regions": {"fens": {"roi": "moved/fens.gpkg", "layer": "area"}}},
        {"periods": {"y2023": PERIOD, "y2022": {"start": "2022-01-01", "end": "2022-12-31"}}},
    ],
)
def test_content_hash_ignores_settings_without_effect_on_numbers(sections: dict[str, Any]) -> None:
    assert hash_of(**sections) == content_hash(BASE, "fens", "y2023")


@pytest.mark.parametrize(
    "sections",
    [
        {"preprocessing": "as_published"},
        {"grid": {"resolution": 20}},
        {"grid": {"downsample_rate": 2}},
        {"model": {"weights": "other.pt"}},
        {"model": {"weights": "student.pt", "dim": 64}},
        {"model": {"weights": "student.pt", "min_observations": {"s2": 2}}},
        {"sentinel2": {"max_cloud": 80}},
        {"sentinel1": {"orbits": "ascending"}},
        {"download": {"on_empty_block": "nodata"}},
        {"regions": {"fens": {"roi": "fens.geojson", "crs": "EPSG:32631"}}},
        {"periods": {"y2023": {"start": "2023-01-02", "end": "2023-12-31"}}},
    ],
)
def test_content_hash_changes_with_settings_that_change_numbers(sections: dict[str, Any]) -> None:
    assert hash_of(**sections) != content_hash(BASE, "fens", "y2023")


@pytest.mark.parametrize(
    "model", [{"statistics": "mpc"}, {"heads": 8}, {"seed": 1}, {"repeat_times": 3}]
)
def test_content_hash_changes_with_settings_of_v1(model: dict[str, Any]) -> None:
    assert hash_of(model={"weights": "student.pt", **model}) != content_hash(BASE, "fens", "y2023")


def test_content_hash_of_published_embeddings() -> None:
    """It covers the data set and its format, but not the settings of a model that is not run."""

    def hashed(**sections: Any) -> str:
        return content_hash(load_config(PUBLISHED | sections), "fens", "y2023")

    same = hashed()
    assert hashed(model={"weights": "x.pt", "seed": 3}, preprocessing="as_published") == same
    assert hashed(sentinel2={"max_cloud": 5}) == same
    assert hashed(model={"dtype": "float32"}) != same
    assert hashed(geotessera={"version": "v1.1"}) != same
    assert hashed(geotessera={"location": "store"}) != same
