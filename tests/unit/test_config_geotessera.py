"""Configuration with published embeddings (`source: geotessera`)."""

from __future__ import annotations

from typing import Any

import pytest

from tessera_flow.config.configuration import load_config
from tessera_flow.config.unused import unused_settings
from tessera_flow.errors import ConfigError

from .test_config import PERIOD, follows_schema

PUBLISHED: dict[str, Any] = {
    "regions": {"fens": {"roi": "fens.geojson"}},
    "periods": {"y2023": PERIOD},
    "source": "geotessera",
}


def test_published_embeddings_need_no_weights_and_have_no_counts() -> None:
    config = load_config(PUBLISHED)
    assert config.weights is None
    formats = ["zarr", "arrays", "vrt", "preview", "change", "stac", "report"]
    assert config.products.formats == formats
    config = load_config(PUBLISHED | {"products": {"zarr_chunk": 50}, "model": {"weights": "x"}})
    assert config.weights is None
    assert "counts" not in config.products.formats
    assert follows_schema(PUBLISHED)


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"statistics": "aws", "min_observations": {"s1": 3}}},
        {"sentinel2": {"enabled": False}, "sentinel1": {"enabled": False}},
        {"model": {"device": "cpu"}, "jobs": {"cpu_gpu": [0, 1]}},
    ],
)
def test_keys_not_used_with_published_embeddings_are_ignored(sections: dict[str, Any]) -> None:
    """A configuration for scenes becomes one for published embeddings by its source alone."""
    assert load_config(PUBLISHED | sections)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"periods": {"a": {"start": "2023-01-01", "end": "2023-12-30"}}},
            "source is geotessera, which has embeddings of calendar years only, but periods.a is "
            "2023-01-01 to 2023-12-30: set it to 2023-01-01 to 2023-12-31, or to another calendar "
            "year.",
        ),
        (
            {"model": {"dim": 64}},
            "source is geotessera, which has embeddings of 128 dimensions, but model.dim is 64: "
            "remove model.dim.",
        ),
        (
            {"products": {"formats": ["zarr", "counts"]}},
            "products.formats has counts, but source is geotessera, and published embeddings have "
            "no observation counts: remove it.",
        ),
        (
            {"products": {"formats": ["zarr", "tiles"]}},
            "products.formats has tiles, but source is geotessera, and published embeddings have "
            "no time series: remove it.",
        ),
        (
            {"geotessera": {"location": "s3://bucket/store"}},
            "geotessera: location begins with s3://, but stores are read from http(s) URLs and "
            "folders only: use the https URL of the same store (of a public bucket, "
            "https://s3.REGION.amazonaws.com/BUCKET/PATH), or a copy on disk.",
        ),
        (
            {"geotessera": {"location": "copies/dclimate.icechunk/"}},
            "geotessera: location is an Icechunk repository, which is not read: use a Zarr store.",
        ),
    ],
)
def test_settings_that_published_embeddings_do_not_allow(
    sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(PUBLISHED | sections)
    assert str(caught.value) == message


def test_requests_to_a_store_use_the_limits_of_downloads() -> None:
    """They are retried as requests for scenes are; slices and scenes do not exist."""
    limits = {"attempts": 2, "timeout": 9, "deadline": 90}
    assert unused_settings(load_config(PUBLISHED | {"download": limits})) == []
    (message,) = unused_settings(load_config(PUBLISHED | {"download": {"slice_months": 2}}))
    assert message.endswith("does not use these settings: download.slice_months.")
