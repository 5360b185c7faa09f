"""Scaling of the job graph, and overhead of a job.

    python -m benchmarks.scale FOLDER [--blocks 25,250,2500] [--slurm]
    python -m benchmarks.scale FOLDER --sites 500000

For regions of N blocks of the default size (one year, both sensors): the time to parse the
workflow, the time of a dry run (`snakemake -n`, with and without `--quiet`), its memory, and its
jobs. Then the overhead of a job on one machine: a run of small blocks on one core, minus the time
of its scripts in the job log. `--slurm`: the same on the running test cluster (tools/slurm.sh), in
jobs a minute.

`--sites`: instead, a dry run and a plan for a table of so many points in about 3,000 cells, first
with the table to be read, then with the kept plan.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from tests.support.pipeline import write_box
from tests.support.workflow import (
    REPOSITORY,
    change,
    command,
    environment,
    four_blocks,
    job_counts,
)

from tessera_flow.jobs.journal import read_job_log

BLOCK = 20_000


def region(folder: Path, blocks: int) -> Path:
    """Write a configuration for a nearly square region of N blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = next(n for n in range(math.isqrt(blocks), 0, -1) if blocks % n == 0)
    columns = blocks // rows
    left, top = 200_000, 6_000_000
    write_box(folder / "roi.geojson", left, top - rows * BLOCK, left + columns * BLOCK, top)
    (folder / "weights.pt").touch()
    source = {"provider": "local", "location": "items.json"}
    settings = {
        "regions": {"here": {"roi": "roi.geojson", "crs": "EPSG:32631"}},
        "periods": {"year": {"start": "2023-01-01", "end": "2023-12-31"}},
        "model": {"weights": "weights.pt"},
        "sentinel2": source,
        "sentinel1": source,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


LAUNCHER = """
import json, resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024], file)
sys.exit(status)
"""
"""Starts Snakemake from a small process: a new process counts the memory of the one that starts it
as its own peak."""


def measured(folder: Path, *arguments: str) -> tuple[float, float, float, str]:
    """Return wall seconds, processor seconds, peak MiB and output of a call of Snakemake."""
    usage = folder / "usage.json"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, str(usage), *command(folder, *arguments)],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stdout[-3000:]
    cpu, memory = json.loads(usage.read_text())
    return seconds, cpu, memory, done.stdout


WITHOUT_SLURM = """
import pkgutil, resource, sys, time
found = pkgutil.iter_modules
pkgutil.iter_modules = lambda *a, **k: (m for m in found(*a, **k) if "plugin_slurm" not in m.name)
import snakemake.cli
snakemake.cli.get_argument_parser()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"... without its plugin for Slurm: {time.process_time():.2f} s, {memory:.0f} MiB")
"""
"""Starts Snakemake where the executor plugin for Slurm, which imports pandas, is not installed."""


def dry_runs(folder: Path, sizes: list[int]) -> None:
    wall, _, memory, _ = measured(folder, "--version")
    print(f"Snakemake alone (--version): {wall:.2f} s, {memory:.0f} MiB")
    subprocess.run([sys.executable, "-S", "-c", LAUNCHER, str(folder / "usage.json"),
                    sys.executable, "-c", WITHOUT_SLURM], check=True)  # fmt: skip
    heads = ("blocks", "jobs", "read s", "read MiB", "-n s", "cpu s", "MiB", "quiet s")
    print("".join(f"{head:>9}" for head in heads))
    for blocks in sizes:
        here = region(folder / f"blocks{blocks}", blocks)
        measured(here, "--list-rules")  # writes the cached region
        read_seconds, _, read_memory, _ = measured(here, "--list-rules")
        wall, cpu, memory, output = measured(here, "--dry-run")
        jobs = sum(job_counts(output).values())
        quiet = measured(here, "--dry-run", "--quiet")[0]
        row = (blocks, jobs, read_seconds, read_memory, wall, cpu, memory, quiet)
        print("".join(f"{value:9.2f}" for value in row), flush=True)


def overhead(folder: Path, slurm: bool) -> None:
    """Run 39 small jobs and print their overhead."""
    if not folder.exists():
        four_blocks(folder)
    change(folder, {"paths.keep": []})
    how = ["--profile", str(REPOSITORY / "profiles" / "test")] if slurm else ["--cores", "1"]
    wall, _, _, output = measured(folder, *how, "--forceall")
    jobs = sum(job_counts(output).values())
    files = [p for top in ("work",) for p in (folder / top).rglob("job_log/*.jsonl")]
    work = sum(v.seconds for path in files for v in read_job_log(path))
    where = "on Slurm" if slurm else "on one core"
    print(
        f"{jobs} jobs {where}: {wall:.0f} s, of which {work:.1f} s are work; "
        f"{(wall - work) / jobs:.2f} s a job beyond it; {60 * jobs / wall:.1f} jobs a minute"
    )


def table_of_sites(folder: Path, points: int) -> Path:
    """Write a configuration for points at random in 60 degrees of longitude and latitude."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    places = zip(random.uniform(-10, 48, points), random.uniform(5, 60, points), strict=True)
    with (folder / "sites.csv").open("w", encoding="utf-8") as file:
        file.write("id,lon,lat,year\n")
        file.writelines(f"{n},{x:.6f},{y:.6f},2023\n" for n, (x, y) in enumerate(places))
    (folder / "weights.pt").touch()
    source = {"provider": "local", "location": "items.json"}
    settings = {
        "sites": {"table": "sites.csv"},
        "model": {"weights": "weights.pt"},
        "sentinel2": source,
        "sentinel1": source,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def of_sites(folder: Path, points: int) -> None:
    """Print processor time and memory of dry runs and plans of a table of sites."""
    here = table_of_sites(folder, points)
    for name, arguments in (
        ("dry run", ("--dry-run", "--quiet")),
        ("dry run, kept plan", ("--dry-run", "--quiet")),
        ("plan, kept plan", ("--cores", "2", "--", "plan")),
        ("reading the workflow", ("--list-rules",)),
    ):
        wall, cpu, memory, output = measured(here, *arguments)
        counted = re.search(r"^total +([0-9]+)", output, re.M)
        jobs = f"{counted[1]} jobs, " if counted else ""
        print(f"{name}: {jobs}{cpu:.1f} s of processor time ({wall:.0f} s), {memory:.0f} MiB",
              flush=True)  # fmt: skip
    units = json.loads((here / "work/plan/sites.json").read_text())["units"]
    print(f"{points} points, {len({unit[1] for unit in units})} cells")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", default="25,250,2500")
    parser.add_argument("--slurm", action="store_true")
    parser.add_argument("--sites", type=int)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    if arguments.sites:
        of_sites(folder / "sites", arguments.sites)
        return
    dry_runs(folder, [int(n) for n in arguments.blocks.split(",") if n])
    overhead(folder / "jobs", slurm=False)
    if arguments.slurm:
        overhead(folder / "jobs_slurm", slurm=True)


if __name__ == "__main__":
    main()
