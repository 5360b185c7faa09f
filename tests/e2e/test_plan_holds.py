"""Plans, compared with what Snakemake then takes for the same jobs.

The workflow is the real one, with its rules, resources and priorities; only what a job does is
replaced by a wait of a given time. The plan knows these times from job logs of earlier jobs.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tessera_flow.config.configuration import load_config
from tessera_flow.jobs.assumptions import block_disk_gb, dates_in
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.journal import job_log_path
from tessera_flow.jobs.plan.estimate import make_estimate
from tessera_flow.jobs.plan.simulate import Limits
from tessera_flow.jobs.schedule import Schedule
from tests.support import workflow

pytestmark = pytest.mark.e2e

WITHIN = 1.5
SECONDS = {
    "roi": 0.5, "items": 1.0, "weights": 0.5, "download": 3.0, "stack": 1.0, "retile": 1.5,
    "infer_cpu": 6.0, "infer_gpu": 4.0, "stitch_zarr": 3.0, "preview": 4.0, "counts": 2.0,
}  # fmt: skip
SCRIPT = re.compile(r'script:\n\s+"\.\./scripts/\w+\.py"')
JOB = """#!/bin/bash
# Wait for the seconds of a rule, and write its outputs.
start=$(date +%s.%N)
sleep "$(grep "^$1 " "$(dirname "$0")/seconds" | cut -d' ' -f2)"
rule=$1
shift
for path in "$@"; do
  case $path in *.zarr) mkdir -p "$path" ;; *) echo x > "$path" ;; esac
done
echo "$rule $start $(date +%s.%N)" >> "$(dirname "$0")/times"
"""


HOLD = """
echo "$1" >> "$(dirname "$0")/started"
if [ "$1" = infer_cpu ] && ! mkdir "$(dirname "$0")/first" 2> /dev/null; then
  for _ in $(seq 600); do
    [ "$(grep -c download "$(dirname "$0")/started")" -ge 3 ] && break
    sleep 0.1
  done
fi
"""
"""Let all blocks but the first wait for the third download, a minute at most."""


def waiting_workflow(folder: Path, factor: float, hold: str = "") -> Path:
    """Copy the workflow with jobs that wait; return its Snakefile.

    Args:
        folder: where it is written.
        factor: of the seconds of each job.
        hold: commands after the wait of a job.
    """
    copy = folder / "waiting" / "workflow"
    shutil.copytree(workflow.REPOSITORY / "workflow", copy)
    (folder / "job.sh").write_text(JOB.replace("rule=$1\n", f"{hold}rule=$1\n"))
    lines = (f"{rule} {factor * seconds}\n" for rule, seconds in SECONDS.items())
    (folder / "seconds").write_text("".join(lines))
    shell = f'shell:\n        "bash {folder}/job.sh {{rule}} {{output}}"'
    replaced = 0
    for rules in (copy / "rules").glob("*.smk"):
        text, number = SCRIPT.subn(shell, rules.read_text())
        # A shell command has its inputs as files only.
        rules.write_text(text)
        replaced += number
    assert replaced > 15
    return copy / "Snakefile"


def configured(folder: Path, blocks: tuple[int, int], **changes: Any) -> dict[str, Any]:
    """Write a configuration of (rows, columns) of blocks of 10 pixels, four months."""
    rows, columns = blocks
    workflow.box(folder / "roi.geojson", (0, 10 * columns), (0, 10 * rows))
    shutil.copy(workflow.CHECKPOINT, folder / "weights.pt")
    (folder / "items.json").write_text('{"type": "FeatureCollection", "features": []}')
    document = workflow.document(folder, "2021-06-01", "2021-09-30")
    document["grid"] = {"block_size": 10, "patch_size": 10}
    document["products"] = {"formats": ["zarr", "preview", "counts"]}
    for key, value in changes.items():
        document.setdefault(key, {}).update(value)
    workflow.write_config(folder, document)
    return document


def write_job_logs(files: RunFiles) -> None:
    """Write job logs of all jobs of the run, as if its files had been removed after it."""
    line = {"time": "2026-01-01T00:00:00+00:00", "host": "h", "process": 1, "attempt": 1}

    def write(names: tuple[str, ...], jobs: Mapping[str, str]) -> None:
        path = job_log_path(files.config.paths.work, *names)
        path.parent.mkdir(parents=True, exist_ok=True)
        records = [
            line | {"job": job, "state": state, "seconds": SECONDS[rule]}
            for job, rule in jobs.items()
            for state in ("started", "done")
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    device = "gpu" if files.config.jobs.cpu_gpu == [0, 1] else "cpu"
    sensors = ("sentinel2", "sentinel1")
    for block in files.grids["here"].blocks:
        jobs = {f"{rule} {sensor}": rule for rule in ("download", "stack") for sensor in sensors}
        infer = f"infer_{device}"
        write(("here", "then", block.id), jobs | {"retile": "retile", infer: infer})
    write(("here",), {"roi": "roi"})
    products = {rule: rule for rule in ("stitch_zarr", "preview", "counts")}
    write(("here", "then"), {f"items {s}": "items" for s in sensors} | products)


def span(folder: Path) -> tuple[float, int]:
    """Return the seconds from the start of the first job to the end of the last, and the jobs."""
    lines = [line.split() for line in (folder / "times").read_text().splitlines()]
    starts, ends = ([float(line[n]) for line in lines] for n in (1, 2))
    return max(ends) - min(starts), len(lines)


def planned(folder: Path, limits: Limits) -> Any:
    document = yaml.safe_load((folder / "config.yaml").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        files = RunFiles(load_config(document))
        write_job_logs(files)
        return make_estimate(files, Schedule(files, cores=limits.cores), limits)


@pytest.fixture(scope="module")
def overhead(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds of each job beyond its wait on this machine, as it is now."""
    folder = tmp_path_factory.mktemp("overhead") / "run"
    folder.mkdir()
    configured(folder, (2, 2))
    snakefile = waiting_workflow(folder, 0.0)
    done = workflow.snakemake(folder, "--cores", "1", snakefile=snakefile)
    assert done.returncode == 0, done.stdout
    seconds, jobs = span(folder)
    return seconds / jobs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "arguments", "limits", "changes"),
    [
        ((1, 1), "--cores 2", Limits(cores=2), {}),
        ((2, 2), "--cores 4 --resources downloads=1",
         Limits(cores=4, resources={"downloads": 1}), {}),
        ((3, 3), "--cores 8", Limits(cores=8), {"jobs": {"max_disk_gb": 1.5e-5}}),
        ((4, 5), "--cores 16 --resources gpu=1",
         Limits(cores=16, resources={"gpu": 1}), {"jobs": {"cpu_gpu": [0, 1]}}),
        ((5, 10), "--cores 12 --max-jobs-per-timespan 20/10s",
         Limits(cores=12, starts=(20, 10.0)), {}),
    ],
)  # fmt: skip
def test_wall_time_of_a_plan_is_that_of_the_run(
    tmp_path: Path,
    overhead: float,
    blocks: tuple[int, int],
    arguments: str,
    limits: Limits,
    changes: dict[str, Any],
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    configured(folder, blocks, **changes)
    snakefile = waiting_workflow(folder, 1.0)
    plan = planned(folder, Limits(**{**limits.__dict__, "overhead": overhead}))
    expected = 3600 * plan.wall_hours
    done = workflow.snakemake(folder, *arguments.split(), snakefile=snakefile)
    assert done.returncode == 0, done.stdout
    seconds, jobs = span(folder)
    assert jobs == sum(plan.jobs.values()) == 6 * blocks[0] * blocks[1] + 4 + 3
    print(f"{blocks}: planned {expected:.1f} s, took {seconds:.1f} s; overhead {overhead:.2f} s")
    assert 1 / WITHIN < seconds / expected < WITHIN


def test_blocks_that_wait_for_disk_are_admitted_when_another_ends(tmp_path: Path) -> None:
    """Snakemake keeps the first answer of a job to what it claims, so a download that once had to
    wait would start only when nothing else runs."""
    folder = tmp_path / "run"
    folder.mkdir()
    changes = {"sentinel1": {"enabled": False}, "products": {"formats": ["zarr"]}}
    room = 2.5 * block_disk_gb(100, {"sentinel2": dates_in("sentinel2", 122)})
    configured(folder, (1, 4), jobs={"max_disk_gb": room}, **changes)
    snakefile = waiting_workflow(folder, 0.1, HOLD)
    done = workflow.snakemake(folder, "--cores", "8", snakefile=snakefile)
    assert done.returncode == 0, done.stdout
    lines = [line.split() for line in (folder / "times").read_text().splitlines()]
    jobs = [(rule, float(start), float(end)) for rule, start, end in lines]
    downloads = sorted(job for job in jobs if job[0] == "download")
    assert len(downloads) == 4
    # Room for two blocks: the third starts when the first is finished and the second is not.
    _, third, _ = downloads[2]
    assert sum(start < third < end for _, start, end in jobs) == 1
    ends = sorted(end for rule, _, end in jobs if rule == "infer_cpu")
    assert ends[0] < third < ends[1]
