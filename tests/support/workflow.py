"""Run the whole workflow as a user does: Snakemake, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from .pipeline import ORIGIN, write_box
from .scenes import optical, radar
from .snakemake_server import Run, run_snakemake

REPOSITORY = Path(__file__).resolve().parents[2]
CHECKPOINT = REPOSITORY / "tests" / "golden" / "checkpoints" / "v2_student_noqk.pt"
LEFT, TOP = ORIGIN
PIXEL = 10

Changes = Mapping[str, Any]
"""Dotted keys of the configuration and their new values; None removes the key."""


def command(folder: Path, *arguments: str, snakefile: Path = REPOSITORY / "Snakefile") -> list[str]:
    """Return the command that runs Snakemake on the configuration in `folder`."""
    config = [] if "--configfile" in arguments else ["--configfile", str(folder / "config.yaml")]
    return [
        *(sys.executable, "-m", "snakemake", "-s", str(snakefile), "--directory", str(folder)),
        *config,
        *arguments,
    ]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment without the caller's Snakemake settings, this interpreter first."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**variables, "PATH": path, "XDG_CACHE_HOME": str(folder / ".cache")}


def snakemake(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run to the end. `stdout` is everything that a user sees on the terminal, in its order."""
    line = command(folder, *arguments, **options)
    with tempfile.NamedTemporaryFile("r") as output:
        status = run_snakemake(
            line[3:],  # without `python -m snakemake`
            cwd=folder.parent,  # not the working directory of the workflow, which --directory names
            environment=environment(folder),
            output=Path(output.name),
        )
        return subprocess.CompletedProcess(line, status, output.read())


def run(folder: Path, *arguments: str, fails: bool = False, **options: Any) -> str:
    """Run to the end on two cores; return the output."""
    done = snakemake(folder, "--cores", "2", *arguments, **options)
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def plan(folder: Path, *arguments: str, **options: Any) -> dict[str, int]:
    """Return the jobs by rule of a dry run, from the table that it prints."""
    done = snakemake(folder, "--dry-run", *arguments, **options)
    assert done.returncode == 0, done.stdout
    return job_counts(done.stdout)


def job_counts(output: str) -> dict[str, int]:
    """Return the jobs by rule in the job statistics of a run, without the target rules.

    `infer` counts `infer_cpu` and `infer_gpu`, which depend on the machine.
    """
    table = re.search(r"^Job stats:\n.*\n-.*\n((?:\S+ +\d+\n)+)", output, re.MULTILINE)
    if table is None:
        assert "Nothing to be done" in output, output
        return {}
    counts = {name: int(n) for name, n in (line.split() for line in table[1].splitlines())}
    total = counts.pop("total")
    assert total == sum(counts.values())
    kinds = [counts.pop(name) for name in ("infer_cpu", "infer_gpu") if name in counts]
    if kinds:
        counts["infer"] = sum(kinds)
    return {name: n for name, n in counts.items() if name not in ("all", "default")}


def start(folder: Path, *arguments: str) -> Run:
    """Start a run on two cores in a process group of its own; output goes to `run.txt`."""
    line = command(folder, "--cores", "2", *arguments)
    return Run(line[3:], folder.parent, environment(folder), folder / "run.txt")


def start_interpreter(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """As `start`, in an interpreter of its own, and each job in another one."""
    with (folder / "run.txt").open("ab") as output:
        return subprocess.Popen(
            command(folder, "--cores", "2", *arguments),
            cwd=folder.parent,
            env=environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


AnyRun = Run | subprocess.Popen[bytes]


def kill_group(process: AnyRun) -> bool:
    """Send SIGKILL to the whole process group; return once every member has ended.

    Returns:
        True if the run was still running, False if it had ended by itself.
    """
    running = process.poll() is None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(timeout=60)
    deadline = time.monotonic() + 30
    while members(process.pid):
        assert time.monotonic() < deadline, "processes of the run outlived SIGKILL"
        time.sleep(0.005)
    return running


def members(group: int) -> list[int]:
    """Return the running processes of a process group (Linux)."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] not in "ZX":
                members.append(int(entry.name))
    return members


def product_bytes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every product file by its path below `results`, with temporary ones."""
    results = folder / "results"
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.name != ".snakemake_timestamp"
    }


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files of killed writers."""
    return sorted(p for top in ("work", "results") for p in (folder / top).rglob("*.part"))


def archive(folder: Path, scenes: Iterable[Mapping[str, Any]]) -> None:
    """Write `items.json` of scenes in `folder`, with relative paths, so that a copy of the folder
    reads its own scenes."""
    features = json.dumps(list(scenes)).replace(f"{folder}/", "")
    text = f'{{"type": "FeatureCollection", "features": {features}}}'
    (folder / "items.json").write_text(text)


def scenes(folder: Path, days: Sequence[str], shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Write a Sentinel-2 and a Sentinel-1 scene for each day, of random pixels (fixed seed).

    Directions alternate; a quarter of the optical pixels are cloud.
    """
    random = np.random.default_rng(0)
    items = []
    for number, day in enumerate(days):
        bands = random.integers(1, 9000, (*shape, 10)).astype(np.uint16)
        scl = random.choice([4, 4, 5, 9], shape).astype(np.uint8)
        items.append(optical(folder / "scenes", f"{day}T10:00:00", bands, scl))
        vv, vh = random.uniform(0.01, 0.5, shape), random.uniform(0.001, 0.1, shape)
        orbit = "descending" if number % 2 else "ascending"
        items.append(radar(folder / "scenes", f"{day}T06:00:00", vv, vh, orbit))
    return items


def document(folder: Path, start: str, end: str) -> dict[str, Any]:
    """Return the configuration that most tests start from; its paths are relative to `folder`."""
    source = {"provider": "local", "location": "items.json"}
    return {
        "regions": {"here": {"roi": "roi.geojson"}},
        "periods": {"then": {"start": start, "end": end}},
        "model": {"weights": "weights.pt"},
        "sentinel2": dict(source),
        "sentinel1": dict(source),
        "grid": {"block_size": 25, "patch_size": 20},
        "download": {"attempts": 1, "threads": 2},
        "products": {"formats": ["zarr", "arrays", "preview"]},
    }


def write_config(folder: Path, settings: Mapping[str, Any], name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    return path


def change(folder: Path, changes: Changes) -> None:
    """Change `config.yaml`, as a user does in an editor."""
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = settings
        for name in sections:
            section = section.setdefault(name, {})
        if value is None:
            section.pop(last, None)
        else:
            section[last] = value
    write_config(folder, settings)


def box(path: Path, columns: tuple[int, int], rows: tuple[int, int]) -> Path:
    """Write a rectangle of pixels, counted from the upper left corner of the scenes."""
    return write_box(
        path,
        LEFT + columns[0] * PIXEL,
        TOP - rows[1] * PIXEL,
        LEFT + columns[1] * PIXEL,
        TOP - rows[0] * PIXEL,
    )


def four_blocks(folder: Path) -> Path:
    """Write an archive and a configuration: 2 x 2 blocks of 4 patches each, 2 slices, both sensors,
    both directions; 39 jobs."""
    folder.mkdir(parents=True)
    box(folder / "roi.geojson", (0, 50), (0, 40))
    days = ["2021-06-03", "2021-06-13", "2021-07-03", "2021-08-01", "2021-09-30"]
    archive(folder, scenes(folder, days, (40, 50)))
    shutil.copy(CHECKPOINT, folder / "weights.pt")
    write_config(folder, document(folder, "2021-06-01", "2021-09-30"))
    change(folder, {"download.slice_months": 2})
    return folder


def unstarted(run_folder: Path, folder: Path) -> Path:
    """Copy the archive and configuration of a run, without computed files."""
    skipped = shutil.ignore_patterns("work", "results", "logs", ".snakemake", ".cache")
    shutil.copytree(run_folder, folder, ignore=skipped)
    return folder


@contextmanager
def small_disk(folder: Path, size: int, *options: str) -> Iterator[Path]:
    """Mount a disk of `size` bytes on `folder`; skip the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount_options = ",".join((f"size={size}", *options))
    mount = ["mount", "-t", "tmpfs", "-o", mount_options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("this machine has no `mount`")
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Write a file that uses up the disk of `folder` except `leave` bytes."""
    filler = folder / "filler"
    with filler.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, shutil.disk_usage(folder).free - leave)
    return filler
