"""profiles/generic, with sbatch as the submit command. The requested resources reach the cluster,
and the products are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera_flow.jobs.resources import memory_mb
from tests.support.slurm import Cluster, finish, memory, slurm, start, wait_until
from tests.support.workflow import REPOSITORY, change, product_bytes

pytestmark = pytest.mark.slurm

PROFILE = [
    *("--profile", str(REPOSITORY / "profiles" / "generic")),
    "--cluster-generic-submit-cmd",
    "sbatch --parsable --output=/dev/null --partition={resources.queue} --cpus-per-task={threads} "
    "--mem={resources.mem_mb} --time={resources.runtime} --gpus={resources.gpu} "
    "--comment={rule}",
    *("--cluster-generic-cancel-cmd", "scancel"),
    *("--default-resources", "queue=cpu", "gpu=0", "runtime=5", "mem_mb=1000"),
    # One disk and one machine: files appear at once.
    *("--latency-wait", "5", "--max-status-checks-per-second", "10"),
    *("--set-threads", "infer_gpu=1"),
]


def test_the_generic_profile(cluster: Cluster, patched: Path, finished_run: Path) -> None:
    """CPU and GPU jobs go to their queues with the memory, time and GPUs of the one table."""
    change(patched, {"jobs.cpu_gpu": [1, 1], "jobs.on_missing_gpu": "cpu"})
    process = start(patched, profile=PROFILE)
    finish(process, patched)
    # The run learns from files that jobs have ended, before Slurm does.
    wait_until(lambda: slurm("squeue", "--noheader") == "", process, ended=True)
    assert product_bytes(patched) == product_bytes(finished_run)
    jobs = {name: cluster.jobs(patched, name) for name in ("infer_cpu", "infer_gpu", "stitch")}
    assert [len(batch) for batch in jobs.values()] == [2, 2, 2]
    for name, batch in jobs.items():
        partition = "gpu" if name == "infer_gpu" else "cpu"
        assert {job["Partition"] for job in batch} == {partition}
        assert {job["JobState"] for job in batch} == {"COMPLETED"}
        with_gpu = {"gpu:1" in job.get("TresPerJob", "") for job in batch}
        assert with_gpu == {name == "infer_gpu"}
    assert {job["TimeLimit"] for job in jobs["infer_cpu"]} == {"00:30:00"}
    for job in jobs["stitch"]:
        assert memory(job) == memory_mb(job["Comment"], 1, block_size=25, patch_size=20)
