"""A controller that times out and refuses, preemption, a node that is down, accounting away: no job
is submitted twice, no attempt is spent, and the products have the bytes of an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.slurm import Cluster, finish, job_record, slurm, start, wait_until
from tests.support.workflow import kill_group, leftovers, product_bytes

pytestmark = pytest.mark.slurm

BLOCKS = ["b000_000", "b000_001", "b001_000", "b001_001"]
NO_RETRIES = ("--retries", "0", "--set-threads", "infer_cpu=1")

BUSY = """\
#!/bin/bash
# {name} of a busy controller: of four calls, one is carried out and times out, and one fails.
calls={folder}/{name}.calls
exec 9>>$calls; flock 9; echo "$$" >&9; n=$(wc -l <$calls); flock -u 9
case $((n % 4)) in
1) {first}; echo "{name}: error: Socket timed out on send/recv operation" >&2; exit 1 ;;
2) echo "{name}: error: Unable to contact slurm controller (connect failure)" >&2; exit 1 ;;
esac
exec {real} "$@"
"""


def make_busy(folder: Path, name: str, first: str) -> None:
    """Write a program that fails in two of four calls; `first` is what it does in one of them."""
    real = shutil.which(name)
    assert real is not None
    folder.mkdir(exist_ok=True)
    text = BUSY.format(name=name, folder=folder, real=real, first=first.format(real=real))
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def attempts(folder: Path) -> dict[str, int]:
    """Return how often the inference of each block was started."""
    records = {block: job_record(folder, block, "infer_cpu") for block in BLOCKS}
    return {block: record.attempts for block, record in records.items() if record is not None}


def test_a_controller_that_times_out(
    cluster: Cluster,
    patched: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of all calls of `sbatch` and `squeue` fail, with 500 other jobs in the queue. A quarter
    of the submissions is carried out nevertheless."""
    busy = tmp_path / "busy"
    make_busy(busy, "sbatch", '{real} "$@" >/dev/null')
    make_busy(busy, "squeue", "sleep 2")
    others = slurm(
        "sbatch", "--parsable", "--hold", "--output=/dev/null", "--array=1-500", "--wrap=true"
    ).strip()
    monkeypatch.setenv("PATH", f"{busy}:{os.environ['PATH']}")
    process = start(patched, *NO_RETRIES)
    try:
        output = finish(process, patched)
    finally:
        kill_group(process)
        slurm("scancel", others)
    calls = len((busy / "sbatch.calls").read_text().splitlines())
    jobs = cluster.jobs(patched, "")
    names = Counter(job["Comment"].rpartition("_submission_")[0] for job in jobs)
    assert len(names) >= 7 and calls > len(names)
    assert set(names.values()) == {1}, output
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert attempts(patched) == dict.fromkeys(BLOCKS, 1)
    assert product_bytes(patched) == product_bytes(finished_run)
    assert leftovers(patched) == []


FORGETFUL = """\
#!/bin/bash
# squeue of a controller that is away while there is a file, and then lists no jobs that ended.
[ ! -e {folder}/away ] || {{ echo "Unable to contact slurm controller" >&2; exit 1; }}
exec {real} "${{@/--states=all/--states=PENDING,RUNNING,SUSPENDED,COMPLETING}}"
"""


def test_a_controller_that_is_away_until_jobs_are_not_listed_any_more(
    cluster: Cluster,
    patched: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Jobs end meanwhile: the run gets their states from accounting, and computes nothing twice."""
    programs, real = tmp_path / "programs", shutil.which("squeue")
    programs.mkdir()
    (programs / "squeue").write_text(FORGETFUL.format(folder=programs, real=real))
    (programs / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    process = start(patched, *NO_RETRIES)

    def ended() -> int:
        return [job["JobState"] for job in cluster.jobs(patched, "infer_cpu")].count("COMPLETED")

    try:
        wait_until(lambda: cluster.jobs(patched, "infer_cpu"), process)
        (programs / "away").touch()
        wait_until(lambda: ended() >= 2, process)
        (programs / "away").unlink()
        finish(process, patched)
    finally:
        kill_group(process)
    assert attempts(patched) == dict.fromkeys(BLOCKS, 1)
    assert product_bytes(patched) == product_bytes(finished_run)


def test_job_arrays_are_refused(cluster: Cluster, patched: Path) -> None:
    output = finish(start(patched, "--slurm-array-jobs", "infer_cpu"), patched, fails=True)
    assert "slurm-array-jobs: infer_cpu is not possible here" in output
    assert "Traceback" not in output
    assert cluster.jobs(patched, "") == []


def test_preemption_then_a_node_that_is_down_without_accounting(
    cluster: Cluster, patched: Path, finished_run: Path
) -> None:
    """Slurm puts the jobs back into the queue, and they are not failures of the run."""
    node = socket.gethostname().split(".")[0]
    process = start(patched, *NO_RETRIES)

    def running() -> int:
        jobs = cluster.jobs(patched, "infer_cpu")
        return sum(job["JobState"] == "RUNNING" for job in jobs)

    def stopped() -> bool:
        """Stop (SIGSTOP) a job that embeds, so that it is running when something happens."""
        for block in BLOCKS:
            record = job_record(patched, block, "infer_cpu")
            if record is not None and record.state == "started" and running():
                try:
                    os.kill(record.process, signal.SIGSTOP)
                except ProcessLookupError:
                    continue
                return True
        return False

    def start_requeued() -> None:
        """Start jobs at once that Slurm has put back into the queue; it waits two minutes."""
        for job in cluster.jobs(patched, "infer_cpu"):
            if job["JobState"] == "PENDING":
                now = ["scontrol", "update", f"jobid={job['JobId']}", "starttime=now"]
                subprocess.run(now, capture_output=True, check=False)  # it may have started

    try:
        wait_until(stopped, process)
        subprocess.run([cluster.script, "accounting-down", cluster.folder], check=True)
        cores = slurm("sinfo", "--noheader", "--partition=cpu", "--format=%c").strip()
        all_cores = ("--partition=urgent", f"-n{cores}", "--output=/dev/null", "--wrap=sleep 3")
        urgent = slurm("sbatch", "--parsable", *all_cores).strip()
        wait_until(
            lambda: "JobState=COMPLETED" in slurm("scontrol", "show", "job", urgent), process
        )
        preempted = [job for job in cluster.jobs(patched, "infer_cpu") if job["Restarts"] != "0"]
        assert preempted
        start_requeued()
        wait_until(stopped, process)
        slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        time.sleep(5)
        # Refused if the node has come back by itself.
        resume = ["scontrol", "update", f"nodename={node}", "state=resume"]
        subprocess.run(resume, capture_output=True, check=False)
        start_requeued()
        finish(process, patched)
    finally:
        kill_group(process)
        subprocess.run([cluster.script, "accounting-up", cluster.folder], check=True)
    jobs = cluster.jobs(patched, "infer_cpu")
    assert len(jobs) == len(BLOCKS)
    assert sum(int(job["Restarts"]) for job in jobs) >= 2
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert product_bytes(patched) == product_bytes(finished_run)
