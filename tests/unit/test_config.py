"""Configuration: accepted documents, and the message for each kind of error."""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tessera_flow.config.configuration import Config, load_config, runs
from tessera_flow.config.messages import key_paths
from tessera_flow.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text(encoding="utf-8"))
MINIMAL = """
regions:
  fens: {roi: fens.geojson}
periods:
  y2023: {start: 2023-01-01, end: 2023-12-31}
model: {weights: student.pt}
"""


def changed(**sections: Any) -> dict[str, Any]:
    """Return the minimal document with sections replaced or added."""
    return {**yaml.safe_load(MINIMAL), **sections}


def problems(**sections: Any) -> list[str]:
    """Return the lines of the error for a changed document."""
    with pytest.raises(ConfigError) as caught:
        load_config(changed(**sections))
    return str(caught.value).splitlines()


def follows_schema(document: Any) -> bool:
    """Return whether the JSON schema accepts a document (dates as text, as in YAML editors)."""
    plain = json.loads(json.dumps(document, default=str))
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(plain)


def test_minimal_document_gives_the_defaults() -> None:
    config = load_config(yaml.safe_load(MINIMAL))
    assert config.regions["fens"].roi == "fens.geojson"
    assert config.periods["y2023"].end == datetime.date(2023, 12, 31)
    assert (config.grid.resolution, config.grid.block_size, config.grid.patch_size) == (
        10.0,
        2000,
        500,
    )
    assert (config.model.dim, config.model.dtype, config.preprocessing) == (
        None,
        "int8",
        "corrected",
    )
    assert (config.model.min_observations.s2, config.model.min_observations.s1) == (1, 0)
    assert config.sentinel2.max_cloud == 100.0
    assert config.products.formats == [
        *("zarr", "arrays", "vrt", "preview", "counts", "change", "stac", "report"),
    ]


def test_document_is_not_modified() -> None:
    document = changed(periods={2023: {"start": "2023-01-01", "end": "2023-12-31"}}, grid=None)
    before = copy.deepcopy(document)
    load_config(document)
    assert document == before


def test_period_may_cross_the_end_of_a_year() -> None:
    config = load_config(
        changed(periods={"season": {"start": "2023-07-01", "end": datetime.date(2024, 6, 30)}})
    )
    assert config.periods["season"].start == datetime.date(2023, 7, 1)
    assert config.periods["season"].end == datetime.date(2024, 6, 30)


def test_one_day_is_a_period() -> None:
    day = {"start": "2023-07-01", "end": "2023-07-01"}
    assert runs(load_config(changed(periods={"day": day}))) == [("fens", "day")]


def test_runs_of_several_regions_and_periods() -> None:
    year = {"start": "2023-01-01", "end": "2023-12-31"}
    config = load_config(
        changed(
            regions={"a": {"roi": "a"}, "b": {"roi": "b", "periods": [2024, "2024"]}},
            periods={2023: year, "2024": year},
        )
    )
    assert runs(config) == [("a", "2023"), ("a", "2024"), ("b", "2024")]


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2023, 1, 31),
        "2023-01-31",
        datetime.datetime(2023, 1, 31),
        "2023-01-31T00:00:00",
        datetime.datetime(2023, 1, 31, tzinfo=datetime.UTC),
    ],
)
def test_day_in_every_form(value: Any) -> None:
    config = load_config(changed(periods={"p": {"start": value, "end": "2023-12-31"}}))
    assert type(config.periods["p"].start) is datetime.date
    assert config.periods["p"].start == datetime.date(2023, 1, 31)


def test_names_that_yaml_reads_as_numbers_or_dates() -> None:
    text = """
    regions: {1: {roi: a, periods: [2023, 2023-07-01]}}
    periods:
      2023: {start: 2023-01-01, end: 2023-12-31}
      2023-07-01: {start: 2023-07-01, end: 2024-06-30}
    model: {weights: x.pt}
    """
    assert runs(load_config(yaml.safe_load(text))) == [("1", "2023"), ("1", "2023-07-01")]


def test_text_values_from_the_snakemake_command_line() -> None:
    """`--config 'grid={block_size: 50}'` arrives as text below the top level."""
    config = load_config(
        changed(
            grid={"block_size": "50", "resolution": "20.5"},
            model={"weights": "x.pt", "dim": "64"},
            sentinel1={"enabled": "false"},
        )
    )
    assert (config.grid.block_size, config.grid.resolution) == (50, 20.5)
    assert config.model.dim == 64
    assert config.sentinel1.enabled is False


def test_empty_section_has_default_values() -> None:
    assert load_config(changed(grid=None)) == load_config(changed())


def test_integer_for_a_float_key() -> None:
    assert load_config(changed(grid={"resolution": 20})).grid.resolution == 20.0


def test_one_sensor_is_enough() -> None:
    config = load_config(
        changed(
            sentinel2={"enabled": False},
            model={"weights": "x.pt", "min_observations": {"s2": 0, "s1": 1}},
        )
    )
    assert not config.sentinel2.enabled
    assert config.sentinel1.enabled
    assert load_config(changed(sentinel1={"enabled": False})).sentinel2.enabled


PERIOD = {"start": "2023-01-01", "end": "2023-12-31"}
NAME = (
    "give it a name of letters, digits, _ and - that begins with a letter or digit (it is used "
    "as the name of a folder)."
)
# Changed sections; the message; whether the JSON schema also rejects the document.
REJECTED: dict[str, tuple[dict[str, Any], str, bool]] = {
    "missing key": (
        {"regions": {"fens": {}}},
        "regions.fens.roi is missing and has no default: set it (path of the region: a vector "
        "file or a raster mask; or a box).",
        True,
    ),
    "missing weights": (
        {"model": {}},
        "model.weights is missing and has no default: set it (path of a checkpoint file, or a "
        "published name).",
        False,  # published embeddings need none
    ),
    "misspelt key": (
        {"grid": {"blocksize": 50}},
        "Unknown key grid.blocksize: did you mean grid.block_size?",
        True,
    ),
    "misspelt section": (
        {"sentinel_2": {}},
        "Unknown key sentinel_2: did you mean sentinel2?",
        True,
    ),
    "misspelt key of a region": (
        {"regions": {"fens": {"roi": "x", "CRS": "EPSG:32631"}}},
        "Unknown key regions.fens.CRS: did you mean regions.fens.crs?",
        True,
    ),
    "key in another section": (
        {"block_size": 50},
        "Unknown key block_size: did you mean grid.block_size?",
        True,
    ),
    "unknown key": (
        {"model": {"weights": "x", "min_observations": {"optical": 1}}},
        "Unknown key model.min_observations.optical: the keys in model.min_observations are s2, "
        "s1.",
        True,
    ),
    "text for a whole number": (
        {"grid": {"block_size": "big"}},
        "grid.block_size is 'big' (text), but must be a whole number. The default is 2000.",
        True,
    ),
    "true for a whole number": (
        {"grid": {"block_size": True}},
        "grid.block_size is true (true/false), but must be a whole number. The default is 2000.",
        True,
    ),
    "fraction for a whole number": (
        {"download": {"threads": 1.5}},
        "download.threads is 1.5 (number), but must be a whole number. The default is 16.",
        True,
    ),
    "list for a number": (
        {"grid": {"resolution": [10]}},
        "grid.resolution is [10] (list), but must be a number. The default is 10.0.",
        True,
    ),
    "infinity": (
        {"grid": {"resolution": float("inf")}},
        "grid.resolution is inf (number), but must be a finite number. The default is 10.0.",
        False,
    ),
    "number for text": (
        {"regions": {"fens": {"roi": "x", "layer": 3}}},
        "regions.fens.layer is 3 (whole number), but must be text. Put quotes around it: '3'.",
        True,
    ),
    "wildcard in a path": (
        {"paths": {"results": "out/{region}"}},
        "paths.results is 'out/{region}' (text), but must be a path without braces, because "
        "Snakemake reads braces as wildcards (a folder for each region and period is created in "
        "it). The default is results.",
        False,
    ),
    "empty text": (
        {"paths": {"work": ""}},
        "paths.work is '' (text), but must be filled. The default is work.",
        True,
    ),
    "number for true": (
        {"sentinel1": {"enabled": 1}},
        "sentinel1.enabled is 1 (whole number), but must be true or false. The default is true.",
        True,
    ),
    "empty value": (
        {"download": {"timeout": None}},
        "download.timeout is empty, but must be a number. The default is 60.0.",
        True,
    ),
    "too small": (
        {"grid": {"patch_size": 0}},
        "grid.patch_size is 0 (whole number), but must be at least 1. The default is 500.",
        True,
    ),
    "too large": (
        {"sentinel2": {"max_cloud": 101}},
        "sentinel2.max_cloud is 101 (whole number), but must be at most 100. The default is 100.0.",
        True,
    ),
    "not a choice": (
        {"model": {"weights": "x", "dim": 100}},
        "model.dim is 100 (whole number), but must be one of 16, 32, 64, 128.",
        True,
    ),
    "misspelt choice": (
        {"preprocessing": "correctd"},
        "preprocessing is 'correctd' (text), but must be one of corrected, as_published (did you "
        "mean corrected?).",
        True,
    ),
    "misspelt product": (
        {"products": {"formats": ["zarr", "preveiw"]}},
        "products.formats[1] is 'preveiw' (text), but must be one of zarr, arrays, vrt, cog, "
        "preview, counts, change, stac, geotessera, tiles, report (did you mean preview?).",
        True,
    ),
    "no product": (
        {"products": {"formats": []}},
        "products.formats is [] (list), but must be filled: at least one entry is required. The "
        "default is [zarr, arrays, vrt, preview, counts, change, stac, report].",
        True,
    ),
    "text for a list": (
        {"products": {"formats": "zarr"}},
        "products.formats is 'zarr' (text), but must be a list. Put brackets around it: [zarr].",
        True,
    ),
    "text for a section": (
        {"model": "v2-small"},
        "model is 'v2-small' (text), but must be a section (keys with values under it).",
        True,
    ),
    "no regions": (
        {"regions": None},
        "regions is empty, but must be a section with at least one entry.",
        True,
    ),
    "no periods": (
        {"periods": {}},
        "periods is an empty section, but must be filled: at least one entry is required.",
        True,
    ),
    "name with a slash": (
        {"regions": {"a/b": {"roi": "x"}}},
        f"regions has the name 'a/b' (text): {NAME}",
        True,
    ),
    "name that leads out of the folder": (
        {"periods": {"..": PERIOD}},
        f"periods has the name '..' (text): {NAME}",
        True,
    ),
    "empty name": (
        {"regions": {"": {"roi": "x"}}},
        f"regions has the name '' (text): {NAME}",
        True,
    ),
    "name with a line break": (
        {"periods": {"a\n": PERIOD}},
        f"periods has the name 'a\\n' (text): {NAME}",
        False,
    ),
    "name that YAML reads as false": (
        {"regions": {False: {"roi": "norway.gpkg"}}},
        "regions has the name false (true/false): put quotes around it, so that YAML reads it as "
        "text.",
        False,
    ),
    "name twice": (
        {"periods": {2023: PERIOD, "2023": PERIOD}},
        "periods.2023 is defined twice: rename one of them.",
        False,
    ),
    "unknown period": (
        {"regions": {"fens": {"roi": "x", "periods": ["y2023", "y2024"]}}},
        "regions.fens.periods has 'y2024' (text), which is not defined under periods: use y2023, "
        "or add it to periods.",
        False,
    ),
    "no period": (
        {"regions": {"fens": {"roi": "x", "periods": []}}},
        "regions.fens.periods is [] (list), but must be filled: at least one entry is required.",
        True,
    ),
    "end before start": (
        {"periods": {"p": {"start": "2023-12-31", "end": "2023-01-01"}}},
        "periods.p: end 2023-01-01 is before start 2023-12-31; set end to the start or to a "
        "later day.",
        False,
    ),
    "year for a day": (
        {"periods": {"p": {"start": 2023, "end": "2023-12-31"}}},
        "periods.p.start is 2023 (whole number), but must be a date such as 2023-01-31.",
        True,
    ),
    "day without zeros": (
        {"periods": {"p": {"start": "2023-1-1", "end": "2023-12-31"}}},
        "periods.p.start is '2023-1-1' (text), but must be a date such as 2023-01-31.",
        False,
    ),
    "day that does not exist": (
        {"periods": {"p": {"start": "2023-02-30", "end": "2023-12-31"}}},
        "periods.p.start is '2023-02-30' (text), but must be a date such as 2023-01-31 that "
        "exists in the calendar.",
        False,
    ),
    "time of day": (
        {"periods": {"p": {"start": datetime.datetime(2023, 1, 1, 12), "end": "2023-12-31"}}},
        "periods.p.start is 2023-01-01 12:00:00 (date with a time), but must be a date "
        "without a time of day.",
        False,
    ),
    "both sensors off": (
        {"sentinel1": {"enabled": False}, "sentinel2": {"enabled": False}},
        "sentinel2.enabled and sentinel1.enabled are both false: enable at least one sensor.",
        False,
    ),
    "observations of a sensor that is off": (
        {"sentinel2": {"enabled": False}},
        "model.min_observations.s2 is 1, but sentinel2.enabled is false, so no pixel would get an "
        "embedding: set it to 0, or enable the sensor.",
        False,
    ),
    "block and downsampling": (
        {"grid": {"block_size": 50, "downsample_rate": 3}},
        "grid: block_size 50 is not a multiple of downsample_rate 3; change one of them.",
        False,
    ),
    "local archive without its location": (
        {"sentinel1": {"provider": "local"}},
        "sentinel1: provider is local, but location is missing: set it to the URL of a STAC API, "
        "or to the path of a catalog, item-collection or stac-geoparquet file.",
        False,
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_invalid_document_has_one_clear_message(case: str) -> None:
    sections, message, by_schema = REJECTED[case]
    assert problems(**sections) == [message]
    assert follows_schema(changed(**sections)) is not by_schema


@pytest.mark.parametrize(
    ("section", "key", "suggestion"),
    [
        ("download", "empty_block", "did you mean download.on_empty_block?"),
        ("jobs", "failed_blocks", "did you mean jobs.on_failed_block?"),
        ("download", "max_lost", "the keys in download are slice_months, threads, "),
        ("jobs", "at_home", "the keys in jobs are cpu_gpu, on_missing_gpu, "),
    ],
)
def test_key_of_an_earlier_version_is_an_unknown_key(
    section: str, key: str, suggestion: str
) -> None:
    (line,) = problems(**{section: {key: 1}})
    assert line.startswith(f"Unknown key {section}.{key}: {suggestion}")


def test_missing_sections() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"preprocessing": "corrected"})
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        "regions",
        "periods",
        "model.weights",
    ]


@pytest.mark.parametrize(
    ("document", "value"),
    [(None, "empty"), ([], "[] (list)"), ({}, "an empty section"), ("x", "'x' (text)")],
)
def test_document_that_is_not_a_configuration(document: Any, value: str) -> None:
    with pytest.raises(ConfigError, match=r"^The configuration is ") as caught:
        load_config(document)
    assert f"is {value}, but must be a mapping" in str(caught.value)


def test_all_problems_at_once() -> None:
    """Including constraints between sections, together with misspelt keys."""
    assert problems(
        regions={"fens": {"roi": "x", "periods": ["y2024"]}},
        grid={"blok_size": 50, "patch_size": "x"},
        sentinel1={"enabled": False},
        sentinel2={"enabled": False},
        preprocesing="corrected",
    ) == [
        "regions.fens.periods has 'y2024' (text), which is not defined under periods: use y2023, "
        "or add it to periods.",
        "grid.patch_size is 'x' (text), but must be a whole number. The default is 500.",
        "Unknown key grid.blok_size: did you mean grid.block_size?",
        "sentinel2.enabled and sentinel1.enabled are both false: enable at least one sensor.",
        "Unknown key preprocesing: did you mean preprocessing?",
    ]


def test_value_of_an_unknown_key_is_not_shown() -> None:
    """It may be a password under the wrong key."""
    assert "hunter2" not in "\n".join(problems(token="hunter2"))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"grid": {"resolution": 20, "block_size": 64}},
        {"periods": {"a": PERIOD, "b-1": PERIOD}, "preprocessing": "as_published"},
        {"sentinel2": {"provider": "local", "location": "items.json"}},
        {"products": {"formats": ["arrays"]}},
        {"model": {"weights": "x", "cache": None, "min_observations": {"s1": 3}}},
    ],
)
def test_accepted_by_load_config_and_schema(sections: dict[str, Any]) -> None:
    assert load_config(changed(**sections))
    assert follows_schema(changed(**sections))


def test_every_key_is_described() -> None:
    paths = list(key_paths(Config))
    assert "grid.block_size" in paths
    assert "regions.<name>.roi" in paths
    assert "model.min_observations.s2" in paths
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), (8, [8, 8]), ([4, 2], [4, 2]), ([4], [4, 4]), ("4,2", [4, 2]), ("8", [8, 8])],
)
def test_heads_in_every_form(value: Any, expected: Any) -> None:
    document = changed(model={"weights": "x.pt", "heads": value})
    assert load_config(document).model.heads == expected
    assert follows_schema(document)


@pytest.mark.parametrize("value", [0, [4, 2, 1], [], "4,2,1", "four", 2.5, True, [4, "2"], [-4]])
def test_invalid_heads(value: Any) -> None:
    model = {"weights": "x.pt", "heads": value}
    (line,) = problems(model=model)
    assert line.startswith("model.heads is ") and "must be one whole number of at least 1" in line
    assert not follows_schema(changed(model=model))


@pytest.mark.parametrize("provider", ["mpc", "local"])
def test_statistics_of_another_source_are_an_error(provider: str) -> None:
    """Both providers serve data from Planetary Computer, or data in its format."""
    scenes = {"provider": provider, "location": "archive.json"}
    sections = {"sentinel2": scenes, "sentinel1": scenes}
    model = {"weights": "x.pt", "statistics": "aws"}
    (line,) = problems(model=model, **sections)
    assert line == (
        "model.statistics is aws, but the sentinel2 scenes need mpc; with other statistics the "
        "embeddings are invalid: use the mpc checkpoint and its statistics, or set "
        "model.allow_statistics_mismatch to true to run anyway."
    )
    only_s1 = {"sentinel2": {"enabled": False}, "sentinel1": scenes}
    minimum = {"min_observations": {"s2": 0, "s1": 1}}
    (line,) = problems(model=model | minimum, **only_s1)
    assert "but the sentinel1 scenes need mpc" in line
    allowed = load_config(changed(model=model | {"allow_statistics_mismatch": True}, **sections))
    assert allowed.model.statistics == "aws"
    matching = load_config(changed(model=model | {"statistics": "mpc"}, **sections))
    assert matching.model.statistics == "mpc"


def test_statistics_are_not_checked_for_tile_folders() -> None:
    """No scenes are read, so the provider does not apply to the folders."""
    model = {"weights": "x.pt", "statistics": "aws"}
    tiles = {"source": "tiles", "tiles": {"location": "tiles"}}
    assert load_config(changed(model=model, **tiles)).model.statistics == "aws"


def test_end_after_the_year_2200_is_an_error() -> None:
    (line,) = problems(periods={"y2023": {"start": "2023-01-01", "end": "9999-12-31"}})
    assert "periods.y2023" in line
    assert "end 9999-12-31 is after the year 2200" in line
