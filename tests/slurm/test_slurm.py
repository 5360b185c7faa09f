"""The workflow on a real Slurm: whatever happens to its jobs or to its controller, the products
have the bytes of an undisturbed run, and only what was lost is computed again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tessera_flow.demo.build import PERIOD, make_demo
from tests.support.slurm import (
    USERS_PROFILE,
    Cluster,
    finish,
    hold,
    memory,
    slurm,
    start,
    verdict,
    wait_until,
)
from tests.support.workflow import (
    REPOSITORY,
    change,
    kill_group,
    leftovers,
    product_bytes,
    run,
    snakemake,
)

pytestmark = pytest.mark.slurm

BLOCKS = ["b000_000", "b000_001", "b001_000", "b001_001"]


def attempts(folder: Path, rule: str = "infer_cpu") -> dict[str, int]:
    """How often each block was begun to be embedded."""
    found = {block: verdict(folder, block, rule) for block in BLOCKS}
    return {block: v.attempts for block, v in found.items() if v is not None}


def test_the_demo_runs_through_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """As on one machine, to the last byte, with the profile that users take; stacks and patches
    of a block are one Slurm job."""
    folder = tmp_path / "demo"
    make_demo(folder)
    run(folder)
    expected = product_bytes(folder)
    page = f"demo/{PERIOD}/report.html"  # tells what the run cost
    del expected[page]
    for name in ("work", "results", "logs", ".snakemake"):
        shutil.rmtree(folder / name)
    finish(start(folder, profile=USERS_PROFILE), folder)
    found = product_bytes(folder)
    del found[page]
    assert found == expected
    assert len(expected) > 5
    series = cluster.jobs(folder, "series")
    assert len(series) == 4
    assert {job["JobState"] for job in cluster.jobs(folder, "")} == {"COMPLETED"}


def test_jobs_that_are_cancelled_killed_requeued_or_out_of_time(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """Each of four blocks meets another fate, while it is being embedded.

    A job that was killed (exit status 137, as by a full machine) or cancelled comes back with
    twice the memory; one that is put back into the queue, as by preemption, with the same.
    """
    cancelled, killed, requeued, late = BLOCKS
    limits = ["infer_cpu:runtime=1", "infer_cpu:mem_mb=800*attempt"]
    process = start(patched, "--set-threads", "infer_cpu=1", "--set-resources", *limits)
    try:
        fates = {
            cancelled: lambda pid: slurm("scancel", cluster.job(patched, cancelled)),
            killed: lambda pid: os.kill(pid, signal.SIGKILL),
            requeued: lambda pid: slurm("scontrol", "requeue", cluster.job(patched, requeued)),
            late: lambda pid: None,
        }
        hold(patched, process, fates)
        output = finish(process, patched)
    finally:
        kill_group(process)
    states = {block: [job["JobState"] for job in cluster.jobs(patched, block)] for block in BLOCKS}
    assert states == {
        cancelled: ["CANCELLED", "COMPLETED"],
        killed: ["FAILED", "COMPLETED"],
        requeued: ["COMPLETED"],
        late: ["TIMEOUT", "COMPLETED"],
    }, output
    for block in (cancelled, killed, late):
        assert [memory(job) for job in cluster.jobs(patched, block)] == [800, 1600]
    assert attempts(patched) == dict.fromkeys(BLOCKS, 2)
    assert product_bytes(patched) == product_bytes(finished_run)
    assert leftovers(patched) == []


def test_a_job_over_its_memory_comes_back_with_more(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """Slurm watches memory here as it does on a cluster. 400 MB are too few for PyTorch beside
    Snakemake; what one attempt was denied, a later one is given."""
    process = start(patched, "--set-resources", "infer_cpu:mem_mb=400*attempt")
    output = finish(process, patched)
    for block in BLOCKS:
        jobs = cluster.jobs(patched, block)
        assert [memory(job) for job in jobs] == [400 * n for n in range(1, len(jobs) + 1)]
        assert len(jobs) >= 2, output
        assert [job["JobState"] == "COMPLETED" for job in jobs] == [False] * (len(jobs) - 1) + [
            True
        ]
    assert product_bytes(patched) == product_bytes(finished_run)


def test_the_controller_is_killed_and_started_again(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """Snakemake killed by SIGKILL leaves its lock and its jobs. Both are named, with the
    command that removes them; then only what was not finished is computed."""
    first = BLOCKS[0]
    process = start(patched, "--set-threads", "infer_cpu=1")
    try:
        hold(patched, process, {first: lambda pid: None})
        wait_until(lambda: registered(patched), process)
        assert kill_group(process)
        kept = {b: embeddings(patched, b).stat().st_mtime_ns for b in registered(patched)}
        assert first not in kept
        locked = snakemake(patched, *profile())
        assert locked.returncode != 0 and "--unlock" in locked.stdout
        assert snakemake(patched, "--unlock").returncode == 0
        looked = snakemake(patched, "--cores", "1", "status")
        assert looked.returncode == 0, looked.stdout
        assert " of 4 blocks have embeddings." in looked.stdout
        refused = finish(start(patched), patched, fails=True)
        number = cluster.job(patched, first)
        named = refused.split("scancel ")[1].split(". ")[0].split()
        assert number in named
        slurm("scancel", *named)
        deadline = ("RUNNING", "COMPLETING", "PENDING")
        while any(job["JobState"] in deadline for job in cluster.jobs(patched, "")):
            subprocess.run(["sleep", "0.2"], check=True)
        finish(start(patched), patched)
    finally:
        kill_group(process)
    for block, written in kept.items():
        assert embeddings(patched, block).stat().st_mtime_ns == written, block
        assert attempts(patched)[block] == 1
    assert attempts(patched)[first] == 2
    assert product_bytes(patched) == product_bytes(finished_run)


def test_the_cluster_loses_its_controller_for_a_while(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """slurmctld is killed while jobs run, and started again after several questions for their
    state were not answered: the run goes on, and no job is done twice."""
    process = start(patched, "--set-threads", "infer_cpu=1")
    held = []
    try:
        hold(patched, process, {BLOCKS[0]: held.append})
        cluster.controller("down")
        time.sleep(12)
        cluster.controller("up")
        os.kill(held[0], signal.SIGCONT)
        finish(process, patched)
    finally:
        kill_group(process)
    assert attempts(patched) == dict.fromkeys(BLOCKS, 1)
    assert product_bytes(patched) == product_bytes(finished_run)


def test_gpu_jobs(cluster: Cluster, patched: Path, finished_run: Path) -> None:
    """Half the blocks go to the GPU partition and ask for a GPU. Slurm has one there, PyTorch
    finds none: the jobs say so and fail, or compute on the CPU where that is allowed."""
    change(patched, {"jobs.cpu_gpu": [1, 1]})
    output = finish(start(patched, "--retries", "0"), patched, fails=True)
    asked = {block: cluster.jobs(patched, block)[-1] for block in BLOCKS}
    assert {block: job["Partition"] for block, job in asked.items()} == dict(
        zip(BLOCKS, ["cpu", "gpu", "cpu", "gpu"], strict=True)
    )
    assert ["gpu:1" in job.get("TresPerJob", "") for job in asked.values()] == [
        False,
        True,
        False,
        True,
    ]
    for block in BLOCKS[1::2]:
        sentence = f"here then {block}: infer_gpu (1 attempt): This block is for a GPU, but PyTorch"
        assert output.count(sentence) == 1, output
        assert not embeddings(patched, block).exists()
    done = {block: embeddings(patched, block).stat().st_mtime_ns for block in BLOCKS[::2]}
    change(patched, {"jobs.on_missing_gpu": "cpu"})
    finish(start(patched), patched)
    for block, written in done.items():
        assert embeddings(patched, block).stat().st_mtime_ns == written
    assert product_bytes(patched) == product_bytes(finished_run)


def registered(folder: Path) -> list[str]:
    """Blocks of which Snakemake has said that they are embedded. What ends after its death, or
    just before it, it does not know to be whole, and makes again."""
    output = (folder / "run.txt").read_text()
    jobs = re.findall(r"^Job (\d+): Embedding here (\w+),", output, re.MULTILINE)
    done = set(re.findall(r"^Finished jobid: (\d+) ", output, re.MULTILINE))
    return [block for number, block in jobs if number in done]


def embeddings(folder: Path, block: str) -> Path:
    return folder / "work" / "here" / "then" / "embeddings" / f"{block}.zip"


def profile() -> list[str]:
    return ["--profile", str(REPOSITORY / "profiles" / "test")]
