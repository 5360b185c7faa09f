"""A run that is killed leaves whole files or none, and the next run finishes the work: every
product has the bytes of a run that nothing disturbed."""

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

from tests.support.workflow import (
    change,
    job_counts,
    kill_group,
    leftovers,
    members,
    product_bytes,
    run,
    snakemake,
    start,
    unstarted,
)

pytestmark = pytest.mark.e2e

MOMENTS = {
    "a first slice is there": ["work/here/then/slices/*/*/b*.zip"],
    "a first stack is there": ["work/here/then/stack/*/b*.zip"],
    "a block is being embedded": ["work/here/then/embeddings/.*.part"],
    "products are being written": ["results/here/then/.*.part"],
}
"""Moments in the order in which a run comes to them: any of the files exists."""


def fresh(finished_run: Path, folder: Path) -> Path:
    """The same run, not yet begun, with intermediate files deleted as they are by default, and
    in longer slices, which change no product."""
    unstarted(finished_run, folder)
    change(folder, {"paths.keep": [], "download.slice_months": 4})
    return folder


def wait_for(patterns: list[str], folder: Path, process: subprocess.Popen[bytes]) -> bool:
    """Return once a file is there (True) or the run has ended (False)."""
    while process.poll() is None:
        if any(True for pattern in patterns for _ in folder.glob(pattern)):
            return True
        time.sleep(0.002)
    return False


def assert_products_whole_or_absent(folder: Path, undisturbed: dict[str, str]) -> None:
    """Every product under its own name is complete. A Zarr store counts as one product."""
    found = {k: v for k, v in product_bytes(folder).items() if ".part" not in k}
    assert found.items() <= undisturbed.items()
    store = "here/then/embeddings.zarr/"
    if any(name.startswith(store) for name in found):
        expected = {name for name in undisturbed if name.startswith(store)}
        assert {name for name in found if name.startswith(store)} == expected


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
            came = wait_for(patterns, folder, process)
        finally:
            going = kill_group(process)
        assert came and going, f"{moment}: {(folder / 'run.txt').read_text()}"
        seen_parts += len(leftovers(folder))
        assert_products_whole_or_absent(folder, undisturbed)
        assert snakemake(folder, "--unlock").returncode == 0
    assert seen_parts > 0, "no writer was killed while it wrote"
    finish(folder, undisturbed)
    assert job_counts(snakemake(folder, "--dry-run").stdout) == {}
    kept = sorted(str(p.relative_to(folder)) for p in (folder / "work").rglob("*.zip"))
    assert kept == sorted(
        f"work/here/then/embeddings/b00{y}_00{x}.zip" for y in (0, 1) for x in (0, 1)
    )


KILLS = 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2026])
def test_a_hundred_kills_at_random_moments(finished_run: Path, tmp_path: Path, seed: int) -> None:
    """SIGKILL to whatever is there: to the whole run, to Snakemake alone, whose jobs go on and
    whose successor starts beside them, or to any process of a job. At every moment a product is
    whole or absent; every run that comes to its end has the bytes of an undisturbed one."""
    folder = fresh(finished_run, tmp_path / "run")
    undisturbed = product_bytes(finished_run)
    moments = random.Random(seed)
    kills = {"all": 0, "controller": 0, "job": 0}
    ends = 0
    while sum(kills.values()) < KILLS:
        process = start(folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(1, 9))
        victim = min(kills, key=kills.__getitem__)
        if not strike(process, victim, moments):
            if process.wait() == 0:
                assert product_bytes(folder) == undisturbed
                ends += 1
                for name in ("work", "results"):
                    shutil.rmtree(folder / name)
            continue
        kills[victim] += 1
        assert_products_whole_or_absent(folder, undisturbed)
        if victim != "job":
            assert snakemake(folder, "--unlock").returncode == 0
    wait_for_orphans(folder)
    assert min(kills.values()) >= 20
    assert ends >= 1, "no run came to its end between the kills"
    finish(folder, undisturbed)


def strike(process: subprocess.Popen[bytes], victim: str, moments: random.Random) -> bool:
    """Kill all of a run, its Snakemake, or one process of its jobs (then the run ends by
    itself, with a failure); False if there is no such process any more."""
    if victim == "all":
        return kill_group(process)
    chosen = [process.pid]
    if victim == "job":
        chosen = [pid for pid in members(process.pid) if pid != process.pid]
    if process.poll() is not None or not chosen:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(moments.choice(chosen), signal.SIGKILL)
    process.wait()
    return True


def wait_for_orphans(folder: Path) -> None:
    """Until no job of any run in a folder is left."""
    for _ in range(600):
        if not any(str(folder) in line for line in commands()):
            return
        time.sleep(0.1)
    raise AssertionError("jobs of a killed Snakemake do not end")


def commands() -> list[str]:
    """Command lines of the processes of this machine (Linux)."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines
