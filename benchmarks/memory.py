"""Measure the peak memory and the time of every rule's jobs on one block of the default size.

    python -m benchmarks.memory FOLDER [--dates 18] [--sites 1000]

Makes synthetic scenes (noise, the worst case for compression) that cover a block of 2000 px and
runs the workflow on them with one core. Ten times a second it reads the memory of every process of
the run. For each rule it prints the largest resident set of a job's own process, and of the whole
job as a cluster counts it: this process, and two of Snakemake (the one that reads the workflow
again in the job, and the one that starts it).

Memory does not depend on the number of dates, except for inference, whose patch holds all of them.
The steps up to the patches are measured on a region that fills the block; inference, which has a
benchmark of its own, and products on a region of a few pixels in opposite corners of the block.

`--sites EDGE`: instead, the jobs of sites: the time series of squares that cover EDGE x EDGE pixels
of the block (2000: as many as a cell may have); then all jobs of 40,000 points.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
import shapely
import yaml
from tests.support.pipeline import ORIGIN, write_box, write_polygon
from tests.support.scenes import optical, radar
from tests.support.workflow import REPOSITORY, archive, document, environment

from tessera_flow.jobs.resources import NEEDS, memory_mb

from .tiles import write_checkpoint

EDGE = 2000
RULES_OF_SCRIPTS = {
    "infer": "infer_cpu",
    "gdal_vrt": "vrt",
    "geotessera_store": "geotessera",
    "html_report": "report",
    "observation_counts": "counts",
    "quality": "checks",
}
"""Rules whose script has another name."""


def make(folder: Path, dates: int) -> None:
    """Write scenes, regions, weights of the size of v2-nano and the configuration."""
    random = np.random.default_rng(0)
    shape = (EDGE, EDGE)
    scenes = []
    for number in range(dates):
        day = f"2023-{1 + number % 12:02d}-{1 + number // 12:02d}"
        bands = random.integers(1, 9000, (*shape, 10), np.uint16)
        scl = random.choice(np.array([4, 4, 5, 9], np.uint8), shape)
        scenes.append(optical(folder / "scenes", f"{day}T10:00:00", bands, scl))
        power = random.uniform(0.01, 0.5, shape).astype(np.float32)
        orbit = "descending" if number % 2 else "ascending"
        scenes.append(
            radar(folder / "scenes", f"{day}T06:00:00", power, power / 4, orbit, shape=shape)
        )
    archive(folder, scenes)
    left, top = ORIGIN
    write_box(folder / "full.geojson", left, top - 20_000, left + 20_000, top)
    corners = [
        shapely.box(left, top - 200, left + 200, top),
        shapely.box(left + 19_800, top - 20_000, left + 20_000, top - 19_800),
    ]
    write_polygon(folder / "corners.geojson", shapely.MultiPolygon(corners))
    settings = document(folder, "2023-01-01", "2023-12-31")
    settings["model"]["weights"] = str(write_checkpoint("v2-nano", folder))
    settings["regions"] = {name: {"roi": f"{name}.geojson"} for name in ("full", "corners")}
    settings["products"] = {
        "formats": ["zarr", "arrays", "preview", "counts", "vrt", "cog", "geotessera", "stac",
                    "report", "tiles"],
    }  # fmt: skip
    settings["download"] = {"attempts": 1}
    del settings["grid"]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


class Sampler(threading.Thread):
    """Read the resident memory of a process and all its descendants until they end.

    Attributes:
        jobs: largest resident set (MB) of a job's process tree, by script.
        seconds: longest time of a job, by script.
        snakemake: largest resident set (MB) of Snakemake itself.
    """

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(process)
        self._start_times: dict[int, float] = {}
        self.jobs: dict[str, float] = defaultdict(float)
        self.seconds: dict[str, float] = defaultdict(float)
        self.snakemake = 0.0

    def run(self) -> None:
        while self._root.is_running() and self._root.status() != psutil.STATUS_ZOMBIE:
            try:
                self._sample()
            except psutil.Error:
                pass  # a process that ended meanwhile
            time.sleep(0.1)

    def _sample(self) -> None:
        self.snakemake = max(self.snakemake, self._root.memory_info().rss / 1e6)
        for process in self._root.children(recursive=True):
            script = re.search(r"scripts/tmp\w+\.(\w+)\.py", " ".join(process.cmdline()))
            if script:
                tree = [process, *process.children(recursive=True)]
                memory = sum(p.memory_info().rss for p in tree) / 1e6
                rule = RULES_OF_SCRIPTS.get(script[1], script[1])
                start = self._start_times.setdefault(process.pid, time.monotonic())
                self.jobs[rule] = max(self.jobs[rule], memory)
                self.seconds[rule] = max(self.seconds[rule], time.monotonic() - start)


def of_sites(folder: Path, edge: int) -> list[tuple[Path, str]]:
    """Write the configurations of two tables of sites; return each with its target."""
    left, top = ORIGIN
    middles = np.arange(125, edge, 250) * 10.0
    squares = [(left + x + 5, top - y - 5) for x in middles for y in middles]
    random = np.random.default_rng(0)
    points = left + random.uniform(0, 20_000, 40_000), top - random.uniform(0, 20_000, 40_000)
    runs = []
    for name, places, size, target in (
        ("squares", squares, 250, "work/sites/2023-01-01_2023-12-31/patches/n31_06_56.zip"),
        ("points", list(zip(*points, strict=True)), 1, "results/sites/item.json"),
    ):
        here = folder / name
        here.mkdir(exist_ok=True)
        rows = [f"{n},{x},{y}" for n, (x, y) in enumerate(places)]
        (here / "sites.csv").write_text("\n".join(["id,x,y", *rows, ""]))
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        settings["regions"] = {}
        for sensor in ("sentinel2", "sentinel1"):
            settings[sensor]["location"] = str(folder / "items.json")
        del settings["products"]
        settings["sites"] = {"table": str(here / "sites.csv"), "crs": "EPSG:32631", "size": size}
        (here / "config.yaml").write_text(yaml.safe_dump(settings))
        runs.append((here, target))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dates", type=int, default=18)
    parser.add_argument("--sites", type=int, metavar="EDGE")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    if not (folder / "config.yaml").exists():
        make(folder, arguments.dates)
    if arguments.sites:
        for here, target in of_sites(folder, arguments.sites):
            measure(here, [target])
        return
    products = "results/corners/then"
    targets = [
        "work/full/then/patches/b000_000.zip",
        *(f"{products}/{name}" for name in ("embeddings.zarr", "preview.png", "embeddings.vrt")),
        f"{products}/embeddings.tif",
        *(f"{products}/{name}" for name in ("counts.tif", "geotessera", "report.html")),
        f"{products}/tiles/b000_000.json",
        "results/corners/collection.json",
        "work/corners/then/skipped/b000_000.zip",
    ]
    measure(folder, targets)


def measure(folder: Path, targets: list[str]) -> None:
    """Run the workflow in a folder, and print memory and time of the jobs of each rule."""
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), *targets]
    where = ["--directory", str(folder), "--configfile", str(folder / "config.yaml")]
    run = subprocess.Popen([*command, "--cores", "1", *where], env=environment(folder))
    sampler = Sampler(run.pid)
    sampler.start()
    if run.wait():
        sys.exit(run.returncode)
    sampler.join()
    print(f"Snakemake itself: {sampler.snakemake:.0f} MB")
    print(f"{'rule':15} {'process MB':>11} {'job MB':>8} {'requested':>10} {'s':>7}")
    for rule in (rule for rule in NEEDS if rule in sampler.jobs):
        memory = sampler.jobs[rule]
        whole, requested = memory + 2 * sampler.snakemake, memory_mb(rule, 1, EDGE, 500)
        seconds = sampler.seconds[rule]
        print(f"{rule:15} {memory:11.0f} {whole:8.0f} {requested:10} {seconds:7.1f}", flush=True)


if __name__ == "__main__":
    main()
