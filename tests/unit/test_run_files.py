"""Parameters, resources and priorities of jobs."""

import datetime
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from tessera_flow.config.configuration import Config, load_config
from tessera_flow.config.fingerprint import content_hash
from tessera_flow.config.run_sections import Jobs
from tessera_flow.config.sections import Products
from tessera_flow.errors import CheckpointError, ConfigError, OutputError
from tessera_flow.jobs.assumptions import PRODUCT_SECONDS, memory_bytes
from tessera_flow.jobs.cpu_gpu_split import gpu_blocks, pattern
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.in_flight import ALL_OF_IT
from tessera_flow.jobs.journal import record_job
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.plan.estimate import make_estimate
from tessera_flow.jobs.plan.product_jobs import RULES as RULES_OF
from tessera_flow.jobs.plan.simulate import Limits
from tessera_flow.jobs.plan.text import estimate_text
from tessera_flow.jobs.plan.work_left import WorkLeft
from tessera_flow.jobs.product_files import ProductFiles
from tessera_flow.jobs.resources import (
    NEEDS,
    SNAKEMAKE_MB,
    inference_minutes,
    memory_mb,
    rule_name,
    runtime_minutes,
)
from tessera_flow.jobs.scene_warnings import scene_warnings
from tessera_flow.jobs.schedule import Schedule
from tessera_flow.jobs.state.preflight import check_run
from tessera_flow.jobs.state.status import status
from tessera_flow.scenes.manifest import Manifest, SourceItem

from ..support.pipeline import CRS, MODEL, write_polygon
from .test_blocks import RING

RULES = Path(__file__).parents[2] / "workflow" / "rules"


YEAR = {"then": {"start": "2021-01-01", "end": "2021-12-31"}}


def layout(
    folder: Path,
    rate: int = 1,
    periods: dict[str, object] = YEAR,
    sections: dict[str, object] | None = None,
    **model: object,
) -> RunFiles:
    roi = write_polygon(folder / "r.geojson", RING)
    config: Config = load_config(
        {
            "regions": {"here": {"roi": str(roi), "crs": CRS}},
            "periods": periods,
            "model": MODEL | model,
            "grid": {"block_size": 20, "patch_size": 5, "downsample_rate": rate},
            "paths": {
                "work": str(folder / "work"),
                "results": str(folder / "results"),
                "logs": str(folder / "logs"),
            },
            **(sections or {}),
        }
    )
    return RunFiles(config)


@pytest.mark.parametrize("name", ["embeddings.zarr", "geotessera"])
def test_run_does_not_replace_folders_of_others(tmp_path: Path, name: str) -> None:
    files = layout(tmp_path, sections={"products": {"formats": ["zarr", "geotessera"]}})
    folder = tmp_path / "results" / "here" / "then" / name
    folder.mkdir(parents=True)
    check_run(files, tmp_path, replace=False)  # empty
    (folder / "zarr.json").write_text('{"attributes": {"provenance": null}}')
    for replace in (True, False):
        with pytest.raises(OutputError, match=rf"{name} is a folder that tessera-flow has not"):
            check_run(files, tmp_path, replace=replace)
    record = {"configuration_sha256": content_hash(files.config, "here", "then")}
    store = {"zarr_format": 3, "node_type": "group", "attributes": {"provenance": record}}
    (folder / ("zarr.json" if name.endswith("zarr") else "provenance.json")).write_text(
        json.dumps(store if name.endswith("zarr") else record)
    )
    check_run(files, tmp_path, replace=True)


@pytest.mark.parametrize("rate", [1, 2])
def test_inference_gets_the_origin_of_its_block(tmp_path: Path, rate: int) -> None:
    """v1.0 samples observations by the row and column of the pixel in the product grid."""
    run = layout(tmp_path, rate)
    origins = {block.id: JobParams(run).infer("here", "then", block.id)["origin"] for block in
               run.grids["here"].blocks}  # fmt: skip
    assert len(origins) > 4
    for name, origin in origins.items():
        row, column = (int(part) for part in name[1:].split("_"))
        assert origin == [row * 20 // rate, column * 20 // rate]


def test_keys_that_change_numbers_are_parameters_of_inference(tmp_path: Path) -> None:
    run = layout(
        tmp_path, statistics="mpc", heads=[4, 2], seed=5, repeat_times=3, dim=64, batch_size=7
    )
    settings = JobParams(run).infer("here", "then", run.grids["here"].blocks[0].id)
    del settings["origin"], settings["period"]
    assert settings == {
        "statistics": "mpc",
        "heads": [4, 2],
        "dim": 64,
        "dtype": "int8",
        "seed": 5,
        "repeat_times": 3,
        "min_observations": {"s2": 1, "s1": 0},
        "precision": "auto",
    }
    assert JobParams(run).weights()["heads"] == [4, 2]


def test_weights_count_by_content_not_by_time(tmp_path: Path) -> None:
    """Touched or copied weights must not cause a rerun."""
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"one")
    first = JobParams(layout(tmp_path, weights=str(weights))).weights()
    os.utime(weights, (1, 1))
    assert JobParams(layout(tmp_path, weights=str(weights))).weights() == first
    weights.write_bytes(b"two")
    assert JobParams(layout(tmp_path, weights=str(weights))).weights() != first


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("absent/w.pt", CheckpointError, "The checkpoint absent/w.pt does not exist: check the pa"),
        ("v2-nanno", ConfigError, "did you mean `v2-nano`"),
    ],
)
def test_missing_weights_are_reported_before_anything_runs(
    tmp_path: Path, weights: str, error: type[Exception], message: str
) -> None:
    run = layout(tmp_path, weights=weights)
    for reader in (JobParams, Schedule):
        with pytest.raises(error, match=message):
            reader(run)


def test_memory_of_inference_follows_the_weights(tmp_path: Path) -> None:
    small, teacher = (
        Schedule(layout(tmp_path, weights=name)) for name in ("v2-nano", "v2-teacher")
    )
    needed = small.memory_mb("infer_cpu", 1)
    assert small.memory_mb("infer_cpu", 3) == 3 * needed
    assert abs(teacher.memory_mb("infer_cpu", 1) - needed - 1.5 * 2 * 8257) <= 120
    file = tmp_path / "own.pt"
    file.write_bytes(bytes(30_000_000))
    own = Schedule(layout(tmp_path, weights=str(file)))
    assert own.memory_mb("infer_cpu", 1) - needed in (0, 100)


def test_memory_of_inference_follows_dates_and_patch_size() -> None:
    """A patch is in memory with all its dates: 20 bytes of bands and one of mask, 4 of radar."""

    def peak(rule: str, patch_size: int, years: float) -> float:
        series = memory_bytes({"sentinel2": 100 * years, "sentinel1": 90 * years})
        return (memory_mb(rule, 1, 2000, patch_size, 0, series) - SNAKEMAKE_MB) / 1.5

    year = 500**2 * (100 * 21 + 90 * 4) / 1e6
    assert peak("infer_cpu", 500, 1) == pytest.approx(1500 + year, abs=100)
    assert peak("infer_cpu", 500, 9) == pytest.approx(1500 + 9 * year, abs=100)
    assert peak("infer_gpu", 500, 9) == pytest.approx(4100 + 27 * year, abs=100)
    assert peak("infer_cpu", 1000, 1) == pytest.approx(1500 + 4 * year, abs=100)
    assert peak("infer_cpu", 50, 1) < 800
    # The measured peak of a nano with 140 + 120 dates: docs/performance.md.
    series = memory_bytes({"sentinel2": 140, "sentinel1": 120})
    assert memory_mb("infer_cpu", 1, 2000, 500, 0, series) > 2400 + SNAKEMAKE_MB


def test_memory_of_inference_is_that_of_the_longest_period(tmp_path: Path) -> None:
    def schedule(start: str, end: str) -> Schedule:
        default = {"grid": {"block_size": 2000, "patch_size": 500}}
        return Schedule(
            layout(tmp_path, periods={"p": {"start": start, "end": end}}, sections=default)
        )

    year = schedule("2023-01-01", "2023-12-31").memory_mb("infer_cpu", 1)
    assert schedule("2023-01-01", "2023-01-31").memory_mb("infer_cpu", 1) == year
    more = schedule("2017-01-01", "2025-12-31").memory_mb("infer_cpu", 1) - year
    assert more == pytest.approx(1.5 * 8 * 500**2 * (100 * 21 + 90 * 4) / 1e6, abs=110)


@pytest.mark.parametrize(
    ("weights", "minutes"),
    # 2000 x 2000 px, 190 dates: pixels * parameters * dates / 2 multiplications, 45e9 per second
    # and thread, and as much again.
    [("v2-nano", 151), ("v2-medium", 2961), ("v2-teacher", 290525)],
)
def test_time_of_inference_follows_the_work(tmp_path: Path, weights: str, minutes: int) -> None:
    default = {"grid": {"block_size": 2000, "patch_size": 500}}
    schedule = Schedule(layout(tmp_path, sections=default, weights=weights))
    assert schedule.runtime("infer_cpu", 1) == pytest.approx(minutes, rel=0.01)
    assert schedule.runtime("infer_cpu", 2) == 2 * schedule.runtime("infer_cpu", 1)
    assert schedule.runtime("infer_cpu", 1, 8) == pytest.approx(minutes / 4, rel=0.01)
    half = Schedule(layout(tmp_path, rate=2, weights=weights))
    assert half.longest_inference("infer_cpu") < 2 + schedule.longest_inference("infer_cpu") / 4
    assert not schedule.time_warnings()
    limited = layout(tmp_path, sections=default | {"jobs": {"max_job_hours": 24}}, weights=weights)
    schedule = Schedule(limited)
    assert schedule.runtime("infer_cpu", 1) == min(24 * 60, schedule.runtime("infer_cpu", 1))
    assert schedule.runtime("infer_cpu", 3) <= 24 * 60
    warnings = schedule.time_warnings()
    assert bool(warnings) == (minutes / 2 > 24 * 60)
    for text in warnings:
        assert re.search(r"about [\d,.]+ h in infer_cpu, more than jobs.max_job_hours \(24\)", text)
    assert make_estimate(limited, schedule, Limits(jobs=1)).warnings == warnings


def test_few_blocks_divide_the_cores(tmp_path: Path) -> None:
    files = layout(tmp_path)
    blocks = files.grids["here"].blocks
    assert len(blocks) == 64
    cases = {None: 2, 1: 2, 128: 2, 191: 2, 192: 3, 256: 4}
    assert {n: Schedule(files, cores=n).threads("infer_cpu") for n in cases} == cases
    assert Schedule(files, cores=256).threads("stitch_zarr") == 2
    for number, block in enumerate(blocks, start=1):
        path = files.embeddings_file("here", "then", block.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        left = {48: 16, 63: 1, 64: 64}.get(number)  # all again, if none is left
        if left is not None:
            assert Schedule(files, cores=256).threads("infer_cpu") == 256 // left


def test_time_of_inference_is_replaced_by_that_of_earlier_blocks(tmp_path: Path) -> None:
    files = layout(tmp_path)
    block = files.grids["here"].blocks[0]
    pixels = block.window.height * block.window.width
    log = files.job_log_file("here", "then", block.id)
    log.parent.mkdir(parents=True)
    lines = [
        {"job": job, "state": state, "time": "2026-01-01T00:00:00", "host": "h", "process": 1,
         "attempt": 1, "seconds": 10.0 * pixels, "peak_mb": 1.0, "reason": ""}
        for job in ("download", "stack", "retile", "infer_cpu") for state in ("started", "done")
    ]  # fmt: skip
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    size = files.config.grid.block_size**2
    assert Schedule(files).longest_inference("infer_cpu") == pytest.approx(10 * size)
    assert Schedule(files, one_job=True).longest_inference("infer_cpu") < 10 * size


def test_every_rule_has_its_needs(tmp_path: Path) -> None:
    """At default settings no job on a CPU requests more than 4 GiB, Snakemake included; a
    larger block and a second attempt request more memory and time."""
    rules = set(
        re.findall(
            r"^(?:use rule \w+ as|rule) (\w+)",
            "".join(p.read_text() for p in RULES.glob("*.smk")),
            re.M,
        )
    )
    assert rules - {"lists", "plan", "status"} == set(NEEDS)
    for rule in NEEDS:
        requested = memory_mb(rule, 1, 2000, 500)
        assert requested <= (9500 if rule == "infer_gpu" else 4096), rule
        assert requested > NEEDS[rule].fixed_mb + NEEDS[rule].sized_mb + SNAKEMAKE_MB
        assert memory_mb(rule, 2, 2000, 500) == 2 * requested
        assert runtime_minutes(rule, 2, 2000) == 2 * runtime_minutes(rule, 1, 2000)
        assert inference_minutes("infer_cpu", 2, 3600) == 2 * 120
    assert memory_mb("download", 1, 4000, 500) > memory_mb("download", 1, 2000, 1000)
    assert memory_mb("retile", 1, 2000, 1000) > memory_mb("retile", 1, 4000, 500)
    assert runtime_minutes("stack", 1, 4000) == 4 * runtime_minutes("stack", 1, 2000)
    assert runtime_minutes("stack", 1, 100) == runtime_minutes("stack", 1, 2000)


def test_every_name_of_local_rules_is_honoured() -> None:
    """An accepted name without effect would leave its jobs on a node without internet."""
    (names,) = get_args(Jobs.model_fields["local_rules"].annotation)
    text = "".join(path.read_text() for path in RULES.glob("*.smk"))
    rules = dict(re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", text, re.MULTILINE))
    configurable = {name for name in rules if "CONFIG.jobs.local_rules" in rules[name]}
    assert configurable == set(get_args(names))
    for name in configurable:
        assert f'\n    localrule: "{name}" in CONFIG.jobs.local_rules\n' in rules[name]


def test_rules_are_recognised_under_the_names_of_another_workflow() -> None:
    for rule in [*NEEDS, "status"]:
        assert rule_name(rule) == rule
    for rule in NEEDS:
        for changed in ("maps_{}", "{}_maps", "geotessera_{}", "my_items_{}"):
            assert rule_name(changed.format(rule)) == rule


@pytest.mark.parametrize("shares", [(1, 1), (1, 4), (3, 1), (0, 1), (1, 0), (2, 3)])
def test_blocks_take_turns_between_cpus_and_gpus(shares: tuple[int, int]) -> None:
    cpu, gpu = shares
    names = [f"b{number:03d}_000" for number in range(60)]
    on_gpu = gpu_blocks(names, cpu, gpu)
    assert len(on_gpu) == 60 * gpu // (cpu + gpu)
    for start in range(0, 60, cpu + gpu):
        assert len(set(names[start : start + cpu + gpu]) & set(on_gpu)) == gpu
    assert [n for n in names if re.fullmatch(pattern(on_gpu), n)] == on_gpu


def test_admission_ignores_jobs_of_another_workflow(tmp_path: Path) -> None:
    """As a module, the workflow shares its run with rules of another one."""
    run = layout(tmp_path, sections={"jobs": {"max_disk_gb": 1e-9}})
    schedule = Schedule(run)
    first, second, *_ = (block.id for block in run.grids["here"].blocks)
    ours = {"region": "here", "period": "then", "block": second}
    outputs = [[], ["maps/7.tif"], [str(run.embeddings_file("here", "then", second))]]
    schedule.expect(SimpleNamespace(output=paths) for paths in outputs)
    claims = [schedule.claim(SimpleNamespace(**ours | {"block": name})) for name in (first, second)]
    assert claims == [ALL_OF_IT, 1]


def test_earlier_blocks_and_later_steps_have_priority(tmp_path: Path) -> None:
    """Priorities of a step differ between all blocks and periods: only the first is admitted."""
    periods = {
        "early": {"start": "2021-01-01", "end": "2021-12-31"},
        "late": {"start": "2022-01-01", "end": "2022-12-31"},
    }
    run = layout(tmp_path, periods=periods)
    schedule = Schedule(run)
    first, *_, last = (block.id for block in run.grids["here"].blocks)
    targets = [("late", last), ("late", first), ("early", last), ("early", first)]
    order = [
        schedule.priority(step, SimpleNamespace(region="here", period=period, block=block))
        for step in ["download", "stack", "retile", "infer"]
        for period, block in targets
    ]
    assert order == sorted(order) and len(set(order)) == 16 and order[0] > 0


def test_admission_ignores_skipped_blocks_and_those_of_others(
    tmp_path: Path,
) -> None:
    """No job of this run makes their embeddings: they would block admission permanently."""
    run = layout(tmp_path, sections={"jobs": {"max_disk_gb": 1e-6}})
    schedule = Schedule(run)
    names = [block.id for block in run.grids["here"].blocks]
    wildcards = {"region": "here", "period": "then"}

    def job(block: str, output: str, **others: str) -> SimpleNamespace:
        return SimpleNamespace(
            wildcards_dict=wildcards | {"block": block} | others, output=[output]
        )

    skipped, first, later = names[:3]
    schedule.expect(
        [
            job(skipped, run.paths.skipped.format(**wildcards, block=skipped)),
            job(later, str(run.embeddings_file("here", "then", later))),
            job(first, str(run.embeddings_file("here", "then", first))),
            job("b1", "elsewhere/b1.txt", region="another", period="time"),
            SimpleNamespace(wildcards_dict={"block": "b2"}, output=["b2.txt"]),
            SimpleNamespace(wildcards_dict={}, output=[]),
        ]
    )
    assert callable(schedule.claim)
    claims = [schedule.claim(SimpleNamespace(**wildcards, block=name)) for name in (later, first)]
    assert claims == [ALL_OF_IT, 1]


def test_size_of_products_follows_the_dimensions_of_the_model(tmp_path: Path) -> None:
    """Products are int8: a code per dimension, and 10 bytes of scale and counts per pixel; the
    preview of the store has 3, and a third more in its levels."""
    sizes = []
    for weights in ("v2-nano", "v2-teacher"):
        run = layout(tmp_path, weights=weights)
        sizes.append(make_estimate(run, Schedule(run), Limits(jobs=10)).final_disk_gb)
    height, width = run.grids["here"].product_geobox.shape
    preview = 4 * float(height) * float(width) / 1e9
    assert (sizes[1] - preview) / (sizes[0] - preview) == pytest.approx((1024 + 10) / (128 + 10))


def test_plan_and_status_show_the_warnings_of_the_lists(tmp_path: Path) -> None:
    run = layout(tmp_path)
    assert make_estimate(run, Schedule(run), Limits(jobs=10)).warnings == []
    for sensor, warnings in (("sentinel2", ()), ("sentinel1", ("No radar.", "Not over."))):
        path = Path(run.paths.items.format(region="here", period="then", sensor=sensor))
        Manifest(sensor, (), (), warnings=warnings).write(path)
    planned = make_estimate(run, Schedule(run), Limits(jobs=10))
    assert planned.warnings == ["here, then: No radar.", "here, then: Not over."]
    assert "- Warning: here, then: No radar.\n" in estimate_text(planned)
    assert "Warning: here, then: Not over.\n" in status(run)


def test_a_plan_before_the_lists_exist_warns_of_periods_that_are_not_over(tmp_path: Path) -> None:
    periods = YEAR | {"now": {"start": "2022-01-01", "end": "2022-12-31"}}
    run = layout(tmp_path, periods=periods)
    texts = scene_warnings(run, datetime.date(2022, 6, 15))
    assert [text[:40] for text in texts] == ["here, now: The period is not over: it en"] * 2
    assert ["Sentinel-2" in texts[0], "Sentinel-1" in texts[1]] == [True, True]
    assert [text[:34] for text in scene_warnings(run, datetime.date(2022, 1, 15))[:1]] == [
        "here, then: The period ended on 20"
    ]
    assert scene_warnings(run, datetime.date(2023, 1, 30)) == []
    for sensor, warnings in (("sentinel2", ()), ("sentinel1", ("No radar.",))):
        path = Path(run.paths.items.format(region="here", period="now", sensor=sensor))
        Manifest(sensor, (), (), warnings=warnings).write(path)
    assert scene_warnings(run, datetime.date(2022, 6, 15)) == ["here, now: No radar."]


def test_warnings_are_read_from_the_beginning_of_a_long_list(tmp_path: Path) -> None:
    """A large region has lists of many megabytes, and every start of a run reads the warnings."""
    run = layout(tmp_path)
    path = Path(run.paths.items.format(region="here", period="then", sensor="sentinel1"))
    left_out = tuple((f"scene {number}", '"warnings": ["wrong"]') for number in range(10_000))
    Manifest("sentinel1", (), left_out, warnings=('A "quoted" one.', "Ünïcode.")).write(path)
    assert path.stat().st_size > 500_000
    expected = ['here, then: A "quoted" one.', "here, then: Ünïcode."]
    assert scene_warnings(run, datetime.date(2025, 1, 1)) == expected
    path.write_bytes(path.read_bytes()[: 2**18] + b"\xff not read")
    assert scene_warnings(run, datetime.date(2025, 1, 1)) == expected


def test_a_list_that_cannot_be_read_has_no_warnings(tmp_path: Path) -> None:
    run = layout(tmp_path)
    path = Path(run.paths.items.format(region="here", period="then", sensor="sentinel2"))
    path.parent.mkdir(parents=True)
    for text in ('{"items": [], "left_out": []}', "{", "[]"):
        path.write_text(text)
        assert scene_warnings(run) == []


def test_a_plan_of_tile_folders_has_no_scenes_and_no_downloads(tmp_path: Path) -> None:
    run = layout(tmp_path, sections={"source": "tiles", "tiles": {"location": "tiles"}})
    planned = make_estimate(run, Schedule(run), Limits(jobs=10))
    blocks = len(run.grids["here"].blocks)
    assert planned.jobs["import_tiles"] == blocks
    assert not planned.jobs.keys() & {"download", "stack", "retile", "items"}
    assert (planned.items, planned.download_gb) == ({}, 0.0)
    assert planned.peak_disk_gb > 0
    text = estimate_text(planned)
    assert "The tile folders are not read" in text
    assert "scenes of" not in text and "MB/s" not in text


def test_a_plan_knows_the_rules_of_all_products(tmp_path: Path) -> None:
    """A rule that a plan does not know would be missing in its jobs and its wall time."""
    known = {rule for rules in RULES_OF.values() for rule in rules} | {"stac_collection"}
    of_blocks = {"download", "stack", "retile", "infer_cpu", "infer_gpu", "import_tiles"}
    others = {"weights", "items", "store_tiles", "import_embeddings", "fill", "skip_block"}
    later = {"export_tiles", "list_tiles", "label_map", "label_map_page", "index"}
    heads = {"roi", "list_skipped_blocks"}
    sites = {"site_items", "site_series", "site_infer", "site_table", "site_stac"}
    assert known | of_blocks | others | later | heads | sites == set(NEEDS)
    assert (known | later | heads) - {"export_tiles"} == set(PRODUCT_SECONDS)
    (formats,) = get_args(Products.model_fields["formats"].annotation)
    # Made with `geotessera.fill: compute` and `products.cube`, without a format of their own.
    assert set(RULES_OF) - {"origin", "cube"} | {"tiles"} == set(get_args(formats))


def test_the_dates_of_a_plan_by_month(tmp_path: Path) -> None:
    """From the lists, before anything is downloaded; a month without a scene has a 0."""
    run = layout(tmp_path, periods={"p": {"start": "2021-11-15", "end": "2022-02-03"}})
    assert "Dates with a scene" not in estimate_text(make_estimate(run, Schedule(run), Limits(1)))
    days = ("2021-11-20", "2021-11-20", "2021-11-25", "2022-01-02")
    items = tuple(
        SourceItem(f"s{n}", datetime.date.fromisoformat(day), None, 0, None, {"assets": {}})
        for n, day in enumerate(days)
    )
    path = Path(run.paths.items.format(region="here", period="p", sensor="sentinel2"))
    Manifest("sentinel2", items, ()).write(path)
    text = estimate_text(make_estimate(run, Schedule(run), Limits(1)))
    months = text.split("Dates with a scene of the region, by month:")[1].splitlines()
    assert months[4] == f"| here | sentinel2 | 2021 |{'  |' * 10} 2 | 0 | 2 |"
    assert months[5] == f"| here | sentinel2 | 2022 | 1 | 0 |{'  |' * 10} 1 |"
    assert "sentinel1" not in "".join(months[2:6])


def test_no_tile_folders_of_a_skipped_block_are_requested(tmp_path: Path) -> None:
    """Its time series cannot be made, and would fail the run that skips it."""
    sections = {"jobs": {"on_failed_block": "skip"}, "products": {"formats": ["zarr", "tiles"]}}
    run = layout(tmp_path, sections=sections)
    first, *others = (block.id for block in run.grids["here"].blocks)
    with pytest.raises(ConfigError), record_job(run.job_log_file("here", "then", first), "retile"):
        raise ConfigError("no scene there")
    assert list(run.skipped_blocks("here", "then")) == [first]
    products = ProductFiles(run)
    names = [Path(path).stem for path in products.by_format("here", "then")["tiles"]]
    assert names == [*others, "tiles", "tiles"]
    records = products.records("here", "then")
    assert list(records) == ["zarr", "tiles", *(f"tiles/{b}" for b in others), "skipped_blocks"]
    expected = JobParams(run).product("tiles")("here", "then")
    assert JobParams(run).of_record(f"tiles/{others[0]}", "here", "then") == expected
    assert {records["tiles"], records["skipped_blocks"]} <= set(products.of_run("here", "then"))


def test_the_plan_counts_maps_and_the_store_that_they_need(tmp_path: Path) -> None:
    """A forest takes five times as long as a logistic regression."""
    labels = tmp_path / "labels.csv"
    labels.touch()
    map_ = {"labels": str(labels), "column": "a"}
    maps = {"one": map_, "two": {**map_, "method": "random_forest"}}
    run = layout(tmp_path, sections={"maps": maps, "products": {"formats": ["preview"]}})
    planned = make_estimate(run, Schedule(run), Limits(jobs=10))
    runs_ = planned.jobs["preview"]
    assert planned.jobs["stitch_zarr"] == runs_
    assert planned.jobs["label_map"] == planned.jobs["label_map_page"] == 2 * runs_
    work = WorkLeft(run, Schedule(run), Limits(jobs=10), None)
    first, second = [job.seconds for job in work.jobs if job.rule == "label_map"][:2]
    assert second == pytest.approx(5 * first)
