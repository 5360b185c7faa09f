"""Peak memory and time of every rule on one block of the default size.

    python -m benchmarks.memory FOLDER [--dates 18]

Makes synthetic scenes (noise, the worst case of compression) that cover a block of 2000 px, runs
the workflow on them with one core and prints its benchmark files. Memory does not depend on the
number of dates, except in inference, whose patch holds all dates. The steps up to the patches are
measured on a region that fills the block; inference, which has its own benchmark, and products on
a region of a few pixels in opposite corners of the block.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import shapely
import yaml
from tests.support.pipeline import ORIGIN, write_box, write_polygon
from tests.support.scenes import optical, radar
from tests.support.workflow import REPOSITORY, archive, document, environment

from .tiles import write_checkpoint

EDGE = 2000


def make(folder: Path, dates: int) -> None:
    """Write scenes, regions, weights of the size of v2-nano and a configuration."""
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
    settings["download"] = {"attempts": 1}
    del settings["grid"]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def peaks(logs: Path) -> dict[str, tuple[float, float]]:
    """Return the largest resident set (MB) and time (s) of the jobs of each rule."""
    result: dict[str, tuple[float, float]] = {}
    for path in sorted(logs.rglob("*.bench.tsv")):
        parts = [p for p in path.relative_to(logs).parts if p not in ("full", "corners", "then")]
        rule = parts[0].removesuffix(".bench.tsv")
        with path.open() as handle:
            for row in csv.DictReader(handle, delimiter="\t"):
                memory, seconds = result.get(rule, (0.0, 0.0))
                result[rule] = (max(memory, float(row["max_rss"])), max(seconds, float(row["s"])))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dates", type=int, default=18)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    if not (folder / "config.yaml").exists():
        make(folder, arguments.dates)
    targets = [
        "work/full/then/patches/b000_000.zip",
        *(f"results/corners/then/{name}" for name in ("embeddings.zarr", "preview.png")),
        "results/corners/then/stitched_representation.npy",
    ]
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), *targets]
    where = ["--directory", str(folder), "--configfile", str(folder / "config.yaml")]
    subprocess.run([*command, "--cores", "1", *where], env=environment(folder), check=True)
    print(f"{'rule':15} {'MB':>7} {'s':>7}")
    for rule, (memory, seconds) in peaks(folder / "logs").items():
        print(f"{rule:15} {memory:7.0f} {seconds:7.1f}")


if __name__ == "__main__":
    main()
