"""The workflow on a real Slurm: after failures of jobs or of the controller, the products have the
bytes of an undisturbed run, and only unfinished jobs are computed again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tessera_flow.demo.build import PERIOD, make_demo
from tests.support.slurm import (
    USERS_PROFILE,
    Cluster,
    finish,
    hold,
    job_record,
    memory,
    slurm,
    start,
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

STATE_SAVED = 10
"""Seconds after which slurmctld has written its queue to disk."""


def attempts(folder: Path, rule: str = "infer_cpu") -> dict[str, int]:
    """Return how often the job of each block was started."""
    records = {block: job_record(folder, block, rule) for block in BLOCKS}
    return {block: record.attempts for block, record in records.items() if record is not None}


def test_the_demo_runs_through_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """The products have the bytes of a run on one machine, with the profile for users; stacks and
    patches of a block are one Slurm job."""
    folder = tmp_path / "demo"
    shutil.copy(make_demo(folder).config, folder / "config.yaml")
    run(folder)
    expected = product_bytes(folder)
    # The report states the cost of the run.
    of_run = (f"demo/{PERIOD}/report.html", f"demo/{PERIOD}/checksums/report.json")
    for name in of_run:
        del expected[name]
    for name in ("work", "results", "logs", ".snakemake"):
        shutil.rmtree(folder / name)
    finish(start(folder, profile=USERS_PROFILE), folder)
    products = product_bytes(folder)
    for name in of_run:
        del products[name]
    assert products == expected
    assert len(expected) > 5
    series = cluster.jobs(folder, "series")
    assert len(series) == 4
    assert {job["JobState"] for job in cluster.jobs(folder, "")} == {"COMPLETED"}


def test_jobs_that_are_cancelled_killed_requeued_or_out_of_time(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """The jobs of four blocks are disturbed in four ways while they run.

    A job that was killed (exit status 137, as for its memory) or cancelled is submitted again with
    twice the memory; one that is requeued, as by preemption, with the same. The limit of one is
    lowered while it runs: a limit that all have would end others on a busy machine.
    """
    cancelled, killed, requeued, late = BLOCKS
    memories = ["--set-resources", "infer_cpu:mem_mb=800*attempt"]
    process = start(patched, "--set-threads", "infer_cpu=1", *memories)

    def lower_limit(pid: int) -> None:
        number = cluster.job(patched, late)
        slurm("scontrol", "update", f"jobid={number}", "timelimit=1")

    try:
        fates = {
            cancelled: lambda pid: slurm("scancel", cluster.job(patched, cancelled)),
            killed: lambda pid: os.kill(pid, signal.SIGKILL),
            requeued: lambda pid: slurm("scontrol", "requeue", cluster.job(patched, requeued)),
            late: lower_limit,
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


def test_a_job_over_its_memory_is_repeated_with_more(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """Slurm enforces memory as on a cluster. 300 MB are too few for PyTorch and Snakemake; a later
    attempt requests more."""
    process = start(patched, "--set-resources", "infer_cpu:mem_mb=300*attempt")
    output = finish(process, patched)
    for block in BLOCKS:
        jobs = cluster.jobs(patched, block)
        assert [memory(job) for job in jobs] == [300 * n for n in range(1, len(jobs) + 1)]
        assert len(jobs) >= 2, output
        assert [job["JobState"] == "COMPLETED" for job in jobs] == [False] * (len(jobs) - 1) + [
            True
        ]
    assert product_bytes(patched) == product_bytes(finished_run)


def test_the_controller_is_killed_and_started_again(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """Snakemake killed by SIGKILL leaves its lock and its jobs. Messages name both, with the
    command that removes them; then only unfinished blocks are computed."""
    first = BLOCKS[0]
    process = start(patched, "--set-threads", "infer_cpu=1")
    try:
        hold(patched, process, {first: lambda pid: None})
        wait_until(lambda: registered(patched), process)
        assert kill_group(process)
        finished = {b: embeddings(patched, b).stat().st_mtime_ns for b in registered(patched)}
        assert first not in finished
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
        unfinished = ("RUNNING", "COMPLETING", "PENDING")

        def all_ended() -> bool:
            time.sleep(0.2)
            return all(job["JobState"] not in unfinished for job in cluster.jobs(patched, ""))

        wait_until(all_ended, process, ended=True)
        finish(start(patched), patched)
    finally:
        kill_group(process)
    for block, written in finished.items():
        assert embeddings(patched, block).stat().st_mtime_ns == written, block
        assert attempts(patched)[block] == 1
    assert attempts(patched)[first] == 2
    assert product_bytes(patched) == product_bytes(finished_run)


def test_the_cluster_loses_its_controller_for_a_while(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """slurmctld is killed while jobs run, and started again after several status requests have
    failed: the run continues, and no job is done twice.

    The jobs that run are stopped first, so that the queue does not change: slurmctld writes it to
    disk every 5 s, and killed before, it forgets what is new for ever, on any cluster.
    """
    process = start(patched, "--set-threads", "infer_cpu=1")
    cores = int(slurm("sinfo", "--noheader", "--partition=cpu", "--format=%c"))
    held: dict[str, int] = {}

    def hold_started() -> bool:
        for block in BLOCKS:
            record = job_record(patched, block, "infer_cpu")
            if record is not None and block not in held:
                assert record.state == "started", f"{block} was done before it could be stopped"
                os.kill(record.process, signal.SIGSTOP)
                held[block] = record.process
        return len(held) == min(cores, len(BLOCKS))

    try:
        wait_until(hold_started, process)
        wait_until(lambda: len(cluster.jobs(patched, "infer_cpu")) == len(BLOCKS), process)
        time.sleep(STATE_SAVED)
        cluster.controller("down")
        time.sleep(12)
        cluster.controller("up")
        for number in held.values():
            os.kill(number, signal.SIGCONT)
        finish(process, patched)
    finally:
        kill_group(process)
    assert attempts(patched) == dict.fromkeys(BLOCKS, 1)
    assert product_bytes(patched) == product_bytes(finished_run)


def test_gpu_jobs(cluster: Cluster, patched: Path, finished_run: Path) -> None:
    """Half the blocks go to the GPU partition and request a GPU. Slurm has one, PyTorch finds
    none: the jobs fail with a message, or compute on the CPU where that is allowed."""
    change(patched, {"jobs.cpu_gpu": [1, 1]})
    output = finish(start(patched, "--retries", "0"), patched, fails=True)
    submitted = {block: cluster.jobs(patched, block)[-1] for block in BLOCKS}
    assert {block: job["Partition"] for block, job in submitted.items()} == dict(
        zip(BLOCKS, ["cpu", "gpu", "cpu", "gpu"], strict=True)
    )
    assert ["gpu:1" in job.get("TresPerJob", "") for job in submitted.values()] == [
        False,
        True,
        False,
        True,
    ]
    for block in BLOCKS[1::2]:
        message = f"here then {block}: infer_gpu (1 attempt): This block is for a GPU, but PyTorch"
        assert output.count(message) == 1, output
        assert not embeddings(patched, block).exists()
    done = {block: embeddings(patched, block).stat().st_mtime_ns for block in BLOCKS[::2]}
    change(patched, {"jobs.on_missing_gpu": "cpu"})
    finish(start(patched), patched)
    for block, written in done.items():
        assert embeddings(patched, block).stat().st_mtime_ns == written
    assert product_bytes(patched) == product_bytes(finished_run)


def test_a_gpu_job_embeds_the_blocks_that_wait_for_the_gpu(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """The cluster has one GPU. The first job embeds all four blocks with one model; each block is a
    Slurm job of its own, and those of the other blocks take over the results."""
    change(patched, {"jobs.cpu_gpu": [0, 1], "jobs.on_missing_gpu": "cpu"})
    finish(start(patched), patched)
    for block in BLOCKS:
        assert [job["JobState"] for job in cluster.jobs(patched, block)] == ["COMPLETED"]
    logs = [path.read_text() for path in (patched / "logs/here/then/infer").glob("*.log")]
    assert sum(text.count("loading the model") for text in logs) == 1
    assert sum(text.count("taken over") for text in logs) == 3
    assert attempts(patched, "infer_gpu") == dict.fromkeys(BLOCKS, 1)
    assert product_bytes(patched) == product_bytes(finished_run)
    assert not (patched / "work/here/then/embeddings/ahead").exists()


def registered(folder: Path) -> list[str]:
    """Return the blocks that Snakemake has recorded as finished. Jobs that end after its death, or
    just before it, are repeated."""
    output = (folder / "run.txt").read_text()
    jobs = re.findall(r"^Job (\d+): Embedding here (\w+),", output, re.MULTILINE)
    done = set(re.findall(r"^Finished jobid: (\d+) ", output, re.MULTILINE))
    return [block for number, block in jobs if number in done]


def embeddings(folder: Path, block: str) -> Path:
    return folder / "work" / "here" / "then" / "embeddings" / f"{block}.zip"


def profile() -> list[str]:
    return ["--profile", str(REPOSITORY / "profiles" / "test")]
