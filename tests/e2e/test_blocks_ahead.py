"""A GPU job embeds blocks that wait, with the model that it has; each block stays a job of its own.

On CPUs here: `jobs.on_missing_gpu: cpu` lets the GPU rule run without a GPU. All runs start with
finished patches; the products must have the bytes of a run in which each block had its own model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tessera_flow.jobs.journal import read_job_log
from tests.support.workflow import change, kill_group, product_bytes, run, snakemake, start

pytestmark = pytest.mark.e2e

BLOCKS = ["b000_000", "b000_001", "b001_000", "b001_001"]
GPU = ("--resources", "gpu=1")


@pytest.fixture
def patched(finished: Path) -> Path:
    """A finished run without embeddings and products, with all blocks on GPUs."""
    shutil.rmtree(finished / "results")
    shutil.rmtree(finished / "work/here/then/embeddings")
    shutil.rmtree(finished / "work/here/then/job_log")
    settings = {"jobs.cpu_gpu": [0, 1], "jobs.on_missing_gpu": "cpu"}
    change(finished, settings)
    return finished


def loads(folder: Path) -> int:
    """Return how often a model was loaded, from the logs of all blocks."""
    logs = (folder / "logs/here/then/infer").glob("*.log")
    return sum(path.read_text().count("loading the model") for path in logs)


def log_of(folder: Path, block: str) -> str:
    return (folder / f"logs/here/then/infer/{block}.log").read_text()


def attempts(folder: Path) -> dict[str, int]:
    """Return the number of attempts of each block's own job."""
    result = {}
    for block in BLOCKS:
        records = read_job_log(folder / f"work/here/then/job_log/{block}.jsonl")
        (result[block],) = [record.attempts for record in records if record.rule == "infer_gpu"]
    return result


def files_of_embeddings(folder: Path) -> list[str]:
    parent = folder / "work/here/then/embeddings"
    return sorted(str(path.relative_to(parent)) for path in parent.rglob("*"))


def lines_ahead(folder: Path, block: str) -> list[str]:
    """Return the states that another job recorded for a block."""
    path = folder / f"work/here/then/job_log/{block}.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return [line["state"] for line in lines if line.get("ahead")]


def worker_of(job: int) -> int:
    """Return the process that embeds for a job."""
    (child,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    return int(child)


def test_one_model_embeds_all_blocks(patched: Path, finished_run: Path) -> None:
    """One job loads the model; the others take over results in their own jobs, and their time in
    the job log is that of the computation."""
    output = run(patched, *GPU)
    assert product_bytes(patched) == product_bytes(finished_run)
    assert loads(patched) == 1
    assert output.count("(Rule: infer_gpu)") == 4
    assert attempts(patched) == dict.fromkeys(BLOCKS, 1)
    assert lines_ahead(patched, BLOCKS[0]) == []
    for block in BLOCKS[1:]:
        assert lines_ahead(patched, block) == ["started", "done"]
        log = log_of(patched, block)
        assert "taken over" in log and re.search(r"\((\d) of \1\): \d+ of \d+ pixels", log)
        path = patched / f"work/here/then/job_log/{block}.jsonl"
        ahead, own = [
            json.loads(line)["seconds"]
            for line in path.read_text().splitlines()
            if '"infer_gpu"' in line and '"done"' in line
        ]
        assert 0 < ahead <= own
    assert files_of_embeddings(patched) == [f"{block}.zip" for block in BLOCKS]
    assert "Nothing to be done" in snakemake(patched, "--dry-run").stdout


def damage(path: Path) -> bytes:
    """Change a byte of a block file, without a trace in its times; return what it was."""
    content, times = path.read_bytes(), path.stat()
    middle = len(content) // 3
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return content


def test_a_block_that_fails_costs_only_itself(patched: Path, finished_run: Path) -> None:
    """Its failure is that of its own job; the next run computes only that block."""
    bad = patched / "work/here/then/patches/b000_001.zip"
    times, content = bad.stat(), damage(bad)
    output = run(patched, *GPU, fails=True)
    assert "here then b000_001: infer_gpu (1 attempt)" in output
    assert output.count("Failed jobs:") == 1 and "b001_000: infer_gpu" not in output
    assert lines_ahead(patched, "b000_001") == ["started", "failed"]
    assert [lines_ahead(patched, block) for block in BLOCKS[2:]] == [["started", "done"]] * 2
    others = [patched / f"work/here/then/embeddings/{b}.zip" for b in BLOCKS if b != "b000_001"]
    written = [path.stat().st_mtime_ns for path in others]
    bad.write_bytes(content)
    os.utime(bad, ns=(times.st_atime_ns, times.st_mtime_ns))
    run(patched, *GPU)
    assert [path.stat().st_mtime_ns for path in others] == written
    assert product_bytes(patched) == product_bytes(finished_run)
    assert files_of_embeddings(patched) == [f"{block}.zip" for block in BLOCKS]


def wait_for_ahead(folder: Path, block: str, process: subprocess.Popen[bytes]) -> int:
    """Return the job that embeds a block ahead, stopped (SIGSTOP) while its worker does so."""
    while lines_ahead(folder, block) != ["started"]:
        assert process.poll() is None, (folder / "run.txt").read_text()
        time.sleep(0.002)
    path = folder / f"work/here/then/job_log/{block}.jsonl"
    (job,) = {r.process for r in read_job_log(path) if r.rule == "infer_gpu"}
    return job


def test_a_worker_that_is_killed_costs_only_the_block_it_was_at(
    patched: Path, finished_run: Path
) -> None:
    """As by the system when memory runs out: the job itself succeeds, and so does the run without
    a second attempt. The block is embedded by its own job, and the rest with that job's model."""
    process = start(patched, *GPU)
    try:
        job = wait_for_ahead(patched, "b000_001", process)
        os.kill(worker_of(job), signal.SIGKILL)
        assert process.wait(timeout=300) == 0, (patched / "run.txt").read_text()
    finally:
        kill_group(process)
    assert "was ended by SIGKILL (out of memory?)" in log_of(patched, BLOCKS[0])
    assert attempts(patched) == dict.fromkeys(BLOCKS, 1)
    assert lines_ahead(patched, "b000_001") == ["started", "failed"]
    assert [lines_ahead(patched, block) for block in BLOCKS[2:]] == [["started", "done"]] * 2
    assert loads(patched) == 2
    assert product_bytes(patched) == product_bytes(finished_run)


def test_a_job_that_is_killed_keeps_its_own_block(patched: Path, finished_run: Path) -> None:
    """SIGKILL to the job while it embeds another block: its worker ends with it. Snakemake removes
    the output of the job; the next attempt takes it over from the kept copy."""
    process = start(patched, *GPU, "--retries", "1")
    try:
        job = wait_for_ahead(patched, "b000_001", process)
        worker = worker_of(job)
        os.kill(job, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{worker}").exists():
            assert time.monotonic() < deadline, "the worker outlived its job"
            time.sleep(0.005)
        assert process.wait(timeout=300) == 0, (patched / "run.txt").read_text()
    finally:
        kill_group(process)
    assert "taken over" in log_of(patched, BLOCKS[0])
    # The killed block is not embedded ahead again, and the killed job's own not computed again.
    assert lines_ahead(patched, "b000_001") == ["started"]
    assert "patches to embed" in log_of(patched, "b000_001")
    assert product_bytes(patched) == product_bytes(finished_run)
    assert files_of_embeddings(patched) == [f"{block}.zip" for block in BLOCKS]
