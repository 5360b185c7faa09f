"""Every key that the configuration accepts is used, or the user gets a message that it is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tessera_flow.config.configuration import Config, load_config
from tessera_flow.config.messages import literals, section_of
from tessera_flow.config.unused import UNUSED_SECTIONS, changed_keys, unused_settings
from tessera_flow.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def leaves(model: Any, prefix: tuple[str, ...] = ()) -> Any:
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            yield (*prefix, name), field
        elif not section[1]:
            yield from leaves(section[0], (*prefix, name))


LEAVES = {".".join(key): field for key, field in leaves(Config)}
SPECIAL: dict[str, Any] = {
    "source": None,
    "model.heads": [4, 2],
    "jobs.cpu_gpu": [1, 1],
    "products.formats": ["arrays"],
    "jobs.local_rules": ["weights"],
    "paths.keep": ["patches"],
    "grid.downsample_rate": 2,
    "model.dim": 128,
    "products.preview_stretch": 3.0,
}
"""Values of keys for which the rule of `other_value` does not hold."""


def other_value(key: str, field: Any) -> Any:
    """Return a valid value that is not the default."""
    if key in SPECIAL:
        return SPECIAL[key]
    choices = literals(field.annotation)
    if choices:
        return next(choice for choice in choices if choice != field.default)
    if field.annotation is bool:
        return not field.default
    if field.annotation is int:
        return field.default + 1
    if field.annotation is float:
        return field.default / 2
    if field.annotation == float | None:
        return 7.0
    return "elsewhere"


def document(source: str, **sections: Any) -> dict[str, Any]:
    result: dict[str, Any] = {
        "regions": {"here": {"roi": "a.geojson"}},
        "periods": {"then": {"start": "2021-01-01", "end": "2021-12-31"}},
        "source": source,
    }
    if source != "geotessera":
        result["model"] = {"weights": "x.pt"}
    if source == "tiles":
        result["tiles"] = {"location": "tiles"}
    for name, value in sections.items():
        general = result.get(name, {})
        result[name] = {**general, **value} if isinstance(value, dict) else value
    return result


def nested(key: str, value: Any) -> dict[str, Any]:
    first, *rest = key.split(".")
    for part in reversed(rest):
        value = {part: value}
    return {first: value}


@pytest.mark.parametrize("source", UNUSED_SECTIONS)
@pytest.mark.parametrize("key", [key for key in LEAVES if key != "source"])
def test_every_key_is_used_refused_or_named(source: str, key: str) -> None:
    """Exactly the keys that the source does not use are named, when set to another value."""
    value = other_value(key, LEAVES[key])
    try:
        config = load_config(document(source, **nested(key, value)))
    except ConfigError as error:
        assert key in str(error) or key.split(".")[0] in str(error)
        return
    text = "\n".join(unused_settings(config))
    expected = any(key == k or key.startswith(f"{k}.") for k in UNUSED_SECTIONS[source])
    if expected:
        assert key in changed_keys(config)
        assert f"source is {source}, which does not use these settings: {key}." in text
    else:
        assert f"settings: {key}" not in text


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_is_read_somewhere(key: str) -> None:
    """The name of the key occurs in the package or the workflow, outside the definitions."""
    name = key.rpartition(".")[2]
    definitions = ("sections.py", "model.py", "unused.py")
    pattern = re.compile(rf"\b{name}\b")
    assert any(
        pattern.search(path.read_text(encoding="utf-8"))
        for folder in ("src/tessera_flow", "workflow")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".smk") and path.name not in definitions
    )


def test_default_configuration_has_no_unused_setting() -> None:
    for source in UNUSED_SECTIONS:
        assert unused_settings(load_config(document(source))) == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"source": "tiles", "sentinel2": {"max_cloud": 50.0}, "download": {"timeout": 9}},
            "source is tiles, which does not use these settings: sentinel2.max_cloud, "
            "download.timeout.",
        ),
        ({"jobs": {"local_rules": ["items", "store_tiles"]}}, "jobs.local_rules has store_tiles,"),
        ({"source": "tiles", "paths": {"keep": ["stack", "patches"]}}, "paths.keep has stack,"),
        (
            {"products": {"formats": ["arrays"], "zarr_chunk": 50}},
            "products.zarr_chunk has no effect, because products.formats has no zarr.",
        ),
        ({"products": {"formats": ["zarr"], "max_seam": 3}}, "has no report."),
        (
            {"products": {"formats": ["arrays"], "preview_stretch": 3}},
            "has no preview or report or zarr.",
        ),
        (
            {"sentinel2": {"provider": "mpc", "item_format": "earth-search"}},
            "sentinel2.item_format has no effect, because sentinel2.provider is mpc",
        ),
        ({"model": {"device": "cpu", "batch_size": 7}}, "model.batch_size has no effect"),
        (
            {"sentinel1": {"enabled": False, "orbits": "ascending", "location": "a"}},
            "sentinel1.location, sentinel1.orbits: no effect, because sentinel1.enabled is false",
        ),
        (
            {
                "sentinel2": {"enabled": False, "provider": "mpc", "max_cloud": 5.0},
                "model": {"weights": "x.pt", "min_observations": {"s2": 0}},
            },
            "sentinel2.max_cloud: no effect, because sentinel2.enabled is false",
        ),
        (
            {
                "sentinel1": {"orbits": "ascending"},
                "regions": {
                    "here": {"roi": "a", "sentinel1": {"enabled": False, "orbits": "descending"}},
                    "there": {"roi": "a"},
                },
            },
            "regions.here.sentinel1.orbits: no effect",
        ),
        (
            {
                "sentinel1": {"enabled": False},
                "periods": {
                    "then": {
                        "start": "2022-01-01",
                        "end": "2022-12-31",
                        "sentinel1": {"orbits": "ascending"},
                    }
                },
            },
            "periods.then.sentinel1.orbits: no effect",
        ),
        (
            {"sentinel1": {"enabled": False, "item_format": "opera"}},
            "sentinel1.item_format: no effect, because sentinel1.enabled is false",
        ),
        ({"model": {"cache": "there"}}, "model.cache has no effect, because model.weights is"),
        ({"model": {"allow_statistics_mismatch": True}}, "without model.statistics"),
        (
            {
                "regions": {"here": {"roi": "a", "periods": ["then"]}},
                "periods": {"other": {"start": "2022-01-01", "end": "2022-12-31"}},
            },
            "periods.other is not computed: no region has it",
        ),
    ],
)
def test_settings_without_effect_are_named(sections: dict[str, Any], message: str) -> None:
    source = sections.get("source", "scenes")
    messages = unused_settings(load_config(document(**{"source": source} | sections)))
    assert len(messages) == 1
    assert message in messages[0]


def test_settings_with_effect_are_not_named() -> None:
    settings = {
        "sentinel2": {"provider": "local", "location": "a", "item_format": "earth-search"},
        "model": {"weights": "v2-nano", "cache": "there"},
        "products": {"formats": ["preview"], "preview_stretch": 3},
        "jobs": {"local_rules": ["items", "download", "weights"]},
        "paths": {"keep": ["slices", "stack", "patches"]},
    }
    assert unused_settings(load_config(document("scenes", **settings))) == []


def test_one_folder_of_tiles_for_several_periods_is_refused() -> None:
    later = {"later": {"start": "2022-01-01", "end": "2022-12-31"}}
    with pytest.raises(ConfigError, match=r"region here has 2 periods \(then, later\).*\{period\}"):
        load_config(document("tiles", periods=later))
    load_config(document("tiles", periods=later, tiles={"location": "tiles/{period}"}))
    one = {"here": {"roi": "a", "periods": ["then"]}}
    load_config(document("tiles", periods=later, regions=one))
