"""A killed run leaves only complete files, and the next run finishes the work: every product has
the bytes of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tessera_flow.atomic import HOST
from tests.support.workflow import (
    AnyRun,
    change,
    job_counts,
    kill_group,
    leftovers,
    members,
    product_bytes,
    run,
    snakemake,
    start,
    start_interpreter,
    unstarted,
)

pytestmark = pytest.mark.e2e

MOMENTS = {
    "a first slice exists": ["work/here/then/slices/*/*/b*.zip"],
    "a first stack exists": ["work/here/then/stack/*/b*.zip"],
    "a block is being embedded": ["work/here/then/embeddings/.*.part"],
    "products are being written": ["results/here/then/.*.part"],
}
"""Moments in the order of a run, each with patterns: a file that matches exists."""


def fresh(finished_run: Path, folder: Path) -> Path:
    """Copy the run before its start, with the default deletion of intermediate files, and with
    longer slices, which change no product."""
    unstarted(finished_run, folder)
    change(folder, {"paths.keep": [], "download.slice_months": 4})
    return folder


def wait_for(patterns: list[str], folder: Path, process: AnyRun) -> bool:
    """Return once a file exists (True) or the run has ended (False)."""
    while process.poll() is None:
        if any(True for pattern in patterns for _ in folder.glob(pattern)):
            return True
        time.sleep(0.01)
    return False


def assert_products_complete_or_absent(folder: Path, undisturbed: dict[str, str]) -> None:
    """Every product under its own name is complete. A Zarr store counts as one product."""
    products = {k: v for k, v in product_bytes(folder).items() if ".part" not in k}
    assert products.items() <= undisturbed.items()
    store = "here/then/embeddings.zarr/"
    if any(name.startswith(store) for name in products):
        expected = {name for name in undisturbed if name.startswith(store)}
        assert {name for name in products if name.startswith(store)} == expected


def finish(folder: Path, undisturbed: dict[str, str]) -> None:
    """Unlock, run to the end, and compare with the undisturbed run."""
    assert snakemake(folder, "--unlock").returncode == 0
    run(folder)
    assert product_bytes(folder) == undisturbed
    assert leftovers(folder) == []


def test_kills_at_chosen_moments(finished_run: Path, tmp_path: Path) -> None:
    folder = fresh(finished_run, tmp_path / "run")
    undisturbed = product_bytes(finished_run)
    seen_parts = 0
    for moment, patterns in MOMENTS.items():
        process = start(folder)
        try:
            reached = wait_for(patterns, folder, process)
        finally:
            running = kill_group(process)
        assert reached and running, f"{moment}: {(folder / 'run.txt').read_text()}"
        seen_parts += len(leftovers(folder))
        assert_products_complete_or_absent(folder, undisturbed)
        assert snakemake(folder, "--unlock").returncode == 0
    assert seen_parts > 0, "no writer was killed while it wrote"
    # Of a writer that was killed after another one had completed its result.
    for place in ("work/here/then/slices/sentinel1/0", "results/here/then"):
        leftover = folder / place / f".completed.zip.{HOST}.{process.pid}.{'1' * 16}.part"
        leftover.parent.mkdir(parents=True, exist_ok=True)
        leftover.touch()
    finish(folder, undisturbed)
    assert job_counts(snakemake(folder, "--dry-run").stdout) == {}
    remaining = sorted(str(p.relative_to(folder)) for p in (folder / "work").rglob("*.zip"))
    assert remaining == sorted(
        f"work/here/then/embeddings/b00{y}_00{x}.zip" for y in (0, 1) for x in (0, 1)
    )


KILLS = 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2026])
def test_a_hundred_kills_at_random_moments(finished_run: Path, tmp_path: Path, seed: int) -> None:
    """SIGKILL to the whole run, to Snakemake only, whose jobs continue beside the next run, or
    to any process of a job. A product is always complete or absent; every run that finishes
    has the bytes of an undisturbed one."""
    folder = fresh(finished_run, tmp_path / "run")
    undisturbed = product_bytes(finished_run)
    moments = random.Random(seed)
    kills = {"all": 0, "controller": 0, "job": 0}
    ends = 0
    while sum(kills.values()) < KILLS:
        process = start_interpreter(folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(1, 9))
        victim = min(kills, key=kills.__getitem__)
        if not strike(process, victim, moments):
            if process.wait(timeout=300) == 0:
                assert product_bytes(folder) == undisturbed
                ends += 1
                for name in ("work", "results"):
                    shutil.rmtree(folder / name)
            continue
        kills[victim] += 1
        assert_products_complete_or_absent(folder, undisturbed)
        if victim != "job":
            assert snakemake(folder, "--unlock").returncode == 0
    wait_for_orphans(folder)
    assert min(kills.values()) >= 20
    assert ends >= 1, "no run finished between the kills"
    finish(folder, undisturbed)


def strike(process: AnyRun, victim: str, moments: random.Random) -> bool:
    """Kill all of a run, its Snakemake, or one process of its jobs (then the run fails by itself);
    return False if no such process exists any more."""
    if victim == "all":
        return kill_group(process)
    candidates = [process.pid]
    if victim == "job":
        candidates = [pid for pid in members(process.pid) if pid != process.pid]
    if process.poll() is not None or not candidates:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(moments.choice(candidates), signal.SIGKILL)
    process.wait(timeout=300)
    return True


def wait_for_orphans(folder: Path) -> None:
    """Wait until no job of any run in a folder is running."""
    for _ in range(600):
        if not any(str(folder) in line for line in commands()):
            return
        time.sleep(0.1)
    raise AssertionError("jobs of a killed Snakemake do not end")


def commands() -> list[str]:
    """Return the command lines of the processes of this machine (Linux)."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines
