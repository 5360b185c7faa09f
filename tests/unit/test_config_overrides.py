"""Keys of sensors that a region or a period sets for itself: precedence, messages, effects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tessera_flow.config.configuration import Config, load_config
from tessera_flow.config.fingerprint import content_hash
from tessera_flow.config.unused import unused_settings
from tessera_flow.errors import ConfigError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.plan.estimate import make_estimate
from tessera_flow.jobs.plan.simulate import Limits
from tessera_flow.jobs.schedule import Schedule
from tessera_flow.products.provenance import build_provenance

from ..support.pipeline import CRS, MODEL, write_polygon
from .test_blocks import RING

WEIGHTS = {"path": "x.pt", "sha256": "ab" * 32, "family": "v2-student", "dims": [128]}
LOCAL = {"provider": "local", "location": "items.json"}
BASE: dict[str, Any] = {
    "regions": {"a": {"roi": "a.geojson"}, "b": {"roi": "a.geojson"}},
    "periods": {
        "y2021": {"start": "2021-01-01", "end": "2021-12-31"},
        "y2022": {"start": "2022-01-01", "end": "2022-12-31"},
    },
    "model": MODEL,
}


def config(
    regions: dict[str, Any] | None = None, periods: dict[str, Any] | None = None, **sections: Any
) -> Config:
    """Return a configuration of two regions and two periods, some with keys of their own."""
    document = BASE | sections
    for kind, own in (("regions", regions or {}), ("periods", periods or {})):
        document[kind] = {name: keys | own.get(name, {}) for name, keys in BASE[kind].items()}
    return load_config(document)


def each(settings: Config, *key: str) -> list[Any]:
    """Return the value of a key for a and b in y2021, then for a and b in y2022."""
    values = []
    for period in BASE["periods"]:
        for region in BASE["regions"]:
            value: Any = settings.for_run(region, period)
            for part in key:
                value = getattr(value, part)
            values.append(value)
    return values


def test_period_takes_precedence_over_region_and_region_over_general() -> None:
    settings = config(
        regions={"b": {"sentinel2": {"max_cloud": 50}, "sentinel1": {"orbits": "ascending"}}},
        periods={"y2022": {"sentinel2": {"max_cloud": 20}}},
        sentinel2={"max_cloud": 90},
    )
    assert each(settings, "sentinel2", "max_cloud") == [90, 50, 20, 20]
    assert each(settings, "sentinel1", "orbits") == ["both", "ascending"] * 2
    assert settings.sentinel2.max_cloud == 90
    assert config().for_run("a", "y2021").sentinel1.orbits == "both"


def test_a_value_that_equals_the_default_is_an_override() -> None:
    settings = config(regions={"b": {"sentinel1": {"enabled": True}}}, sentinel1={"enabled": False})
    assert each(settings, "sentinel1", "enabled") == [False, True] * 2
    settings = config(
        periods={"y2022": {"sentinel2": {"provider": "mpc", "location": None}}}, sentinel2=LOCAL
    )
    assert each(settings, "sentinel2", "location") == ["items.json"] * 2 + [None] * 2


def test_each_region_can_have_its_own_archive() -> None:
    """The general section need not be complete."""
    own = {name: {"sentinel2": {"location": f"{name}.json"}} for name in ("a", "b")}
    settings = config(regions=own, sentinel2={"provider": "local"})
    assert each(settings, "sentinel2", "location") == ["a.json", "b.json"] * 2
    with pytest.raises(ConfigError, match="sentinel2: provider is local, but location is missing"):
        config(regions={"a": own["a"]}, sentinel2={"provider": "local"})


def test_location_and_collection_of_another_provider_are_not_inherited() -> None:
    """They would be searched with the rules of a provider that they do not belong to."""
    elsewhere = {"provider": "earth-search"}
    for general in ({"collection": "mine"}, LOCAL):
        with pytest.raises(ConfigError, match=r"of provider (mpc|local): set") as raised:
            config(regions={"b": {"sentinel2": elsewhere}}, sentinel2=general)
        assert "Region b, period y2021: sentinel2.provider is earth-search" in str(raised.value)
        assert "Region a" not in str(raised.value)
    own = {"b": {"sentinel2": elsewhere | {"location": None}}}
    assert each(config(regions=own, sentinel2=LOCAL), "sentinel2", "location") == [
        "items.json", None
    ] * 2  # fmt: skip
    radar = {"b": {"sentinel1": {"provider": "opera", "enabled": False}}}
    assert config(regions=radar, sentinel1={"collection": "mine"})
    later = {"b": {"sentinel2": LOCAL}}
    with pytest.raises(ConfigError, match=r"Region b, period y2022: sentinel2\.provider is mpc"):
        config(regions=later, periods={"y2022": {"sentinel2": {"provider": "mpc"}}})


def test_settings_of_a_disabled_sensor_are_not_in_the_hash() -> None:
    off = {"enabled": False}
    hashes = {
        content_hash(config(sentinel1=section), "a", "y2021")
        for section in (off, off | {"orbits": "ascending"}, off | {"exclude": ["S1"]})
    }
    assert len(hashes) == 1
    one_period = config(periods={"y2021": {"sentinel1": off}})
    assert hashes == {content_hash(one_period, "a", "y2021")}
    assert content_hash(one_period, "a", "y2022") == content_hash(config(), "a", "y2022")


def test_format_of_items_is_used_by_a_region_with_a_local_archive() -> None:
    general = {"item_format": "earth-search"}
    own = {"a": {"sentinel2": LOCAL}}
    assert unused_settings(config(regions=own, sentinel2=general)) == []
    (message,) = unused_settings(config(sentinel2=general))
    assert message.startswith("sentinel2.item_format has no effect")


def test_minimum_of_observations() -> None:
    model = MODEL | {"min_observations": {"s2": 3, "s1": 1}}
    settings = config(periods={"y2022": {"min_observations": {"s1": 0}}}, model=model)
    assert each(settings, "model", "min_observations", "s1") == [1, 1, 0, 0]
    assert each(settings, "model", "min_observations", "s2") == [3] * 4
    assert (
        settings.for_run("a", "y2021")
        .required("sentinel1")
        .startswith("model.min_observations.s1 is 1")
    )
    assert settings.for_run("a", "y2022").required("sentinel1") == ""


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"periods": {"y2022": {"sentinel1": {"orbit": "ascending"}}}},
            r"Unknown key periods\.y2022\.sentinel1\.orbit: did you mean "
            r"periods\.y2022\.sentinel1\.orbits\?",
        ),
        (
            {"regions": {"a": {"sentinel2": {"max_cloud": 120}}}},
            r"regions\.a\.sentinel2\.max_cloud is 120 \(whole number\), but must be at most 100\.$",
        ),
        (
            {"regions": {"a": {"sentinel1": {"provider": "earth-search"}}}},
            r"regions\.a\.sentinel1\.provider is 'earth-search' \(text\), but must be one of mpc",
        ),
        (
            {"regions": {"a": {"sentinel1": {"enabled": None}}}},
            r"regions\.a\.sentinel1\.enabled is empty, but must be true or false\.$",
        ),
        (
            {"regions": {"a": {"sentinel1": "off"}}},
            r"regions\.a\.sentinel1 is 'off' \(text\), but must be a section",
        ),
        (
            {"periods": {"y2022": {"sentinel1": {"enabled": False}}},
             "model": MODEL | {"min_observations": {"s1": 1}}},
            r"Region b, period y2022: model\.min_observations\.s1 is 1, but sentinel1\.enabled is "
            "false",
        ),
        (
            {"regions": {"a": {"sentinel2": {"enabled": False}, "min_observations": {"s2": 0}}},
             "periods": {"y2022": {"sentinel1": {"enabled": False}}}},
            r"^Region a, period y2022: sentinel2\.enabled and sentinel1\.enabled are both false",
        ),
        (
            {"regions": {"a": {"sentinel1": {"provider": "opera"}}},
             "model": MODEL | {"statistics": "mpc"}},
            r"Region a, period y2021: model\.statistics is mpc, but the sentinel1 scenes need aws",
        ),
        (
            {"periods": {"y2022": {"sentinel1": {"location": "https://cmr/granules.json"}}},
             "sentinel1": {"provider": "opera"}},
            r"Region a, period y2022: sentinel1: location ends in granules\.json",
        ),
        (
            {"regions": {"a": {"sentinel2": {"max_cloud": 5}}}, "source": "tiles",
             "tiles": {"location": "tiles"}},
            r"regions\.a\.sentinel2\.max_cloud is set, but source is tiles, which does not use it",
        ),
    ],
)  # fmt: skip
def test_messages(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**document)


def files(folder: Path, settings: Config) -> RunFiles:
    roi = write_polygon(folder / "a.geojson", RING)
    document = settings.model_dump(mode="json", exclude_unset=True)
    for region in document["regions"].values():
        region |= {"roi": str(roi), "crs": CRS}
    document["grid"] = {"block_size": 20, "patch_size": 5}
    document["paths"] = {name: str(folder / name) for name in ("work", "results", "logs")}
    return RunFiles(load_config(document))


def test_only_the_runs_of_an_override_change(tmp_path: Path) -> None:
    """Hashes of settings and parameters of jobs decide what is made again."""
    plain = files(tmp_path, config())
    own = {"sentinel1": {"enabled": False}, "sentinel2": {"max_cloud": 20}}
    other = files(tmp_path, config(periods={"y2022": own}))
    block = plain.grids["a"].blocks[0].id
    for region in ("a", "b"):
        for period, same in (("y2021", True), ("y2022", False)):
            run = (region, period)
            hashes = {content_hash(layout.config, *run) for layout in (plain, other)}
            assert (len(hashes) == 1) == same
            params = [JobParams(layout) for layout in (plain, other)]
            optical = [p.items(*run, "sentinel2") for p in params]
            assert (optical[0] == optical[1]) == same
            assert params[0].items(*run, "sentinel1") == params[1].items(*run, "sentinel1") or (
                not same
            )
            assert params[0].download(*run, "sentinel2", block) == params[1].download(
                *run, "sentinel2", block
            )
            assert params[0].infer(*run, block) == params[1].infer(*run, block)
            assert (plain.stack_files(*run, block) == other.stack_files(*run, block)) == same
            assert other.sensors(*run) == ["sentinel2", *(["sentinel1"] if same else [])]
            assert len(other.manifests(*run)) == (2 if same else 1)
    assert other.all_sensors == ["sentinel2", "sentinel1"]


def test_dates_of_a_period_are_its_only_parameter_of_a_list(tmp_path: Path) -> None:
    own = {"sentinel1": {"orbits": "ascending"}, "min_observations": {"s2": 2}}
    params = JobParams(files(tmp_path, config(periods={"y2022": own})))
    listed = params.items("a", "y2022", "sentinel1")
    assert listed["period"] == {"start": "2022-01-01", "end": "2022-12-31"}
    assert listed["source"]["orbits"] == "ascending"
    block = params._files.grids["a"].blocks[0].id
    assert params.infer("a", "y2022", block)["min_observations"] == {"s2": 2, "s1": 0}
    assert params.infer("a", "y2021", block)["min_observations"] == {"s2": 1, "s1": 0}


def test_plan_counts_the_jobs_of_the_sensors_in_use(tmp_path: Path) -> None:
    run = files(tmp_path, config(periods={"y2022": {"sentinel1": {"enabled": False}}}))
    blocks = len(run.grids["a"].blocks)
    planned = make_estimate(run, Schedule(run), Limits(jobs=10))
    assert planned.jobs["stack"] == 2 * blocks * (2 + 1)
    assert planned.items == {"sentinel2": None, "sentinel1": None}


def test_provenance_has_the_sources_of_the_run(tmp_path: Path) -> None:
    own = {"sentinel2": {"provider": "earth-search"}, "sentinel1": {"enabled": False},
           "min_observations": {"s2": 4}}  # fmt: skip
    run = files(tmp_path, config(regions={"b": own}))
    records = {
        region: build_provenance(run.grids[region], run.config, region, "y2021", WEIGHTS)
        for region in ("a", "b")
    }
    assert [(s.sensor, s.provider) for s in records["a"].sources] == [
        ("sentinel2", "mpc"), ("sentinel1", "mpc"),
    ]  # fmt: skip
    assert [(s.sensor, s.provider) for s in records["b"].sources] == [("sentinel2", "earth-search")]
    assert records["b"].min_observations == {"s2": 4, "s1": 0}
    assert records["b"].configuration_sha256 != records["a"].configuration_sha256
