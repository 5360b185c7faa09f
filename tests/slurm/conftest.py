"""A Slurm cluster of one node for these tests: real daemons on loopback (tools/slurm.sh)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.slurm import Cluster, kill_in
from tests.support.workflow import REPOSITORY

DAEMONS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "munged", "mariadbd")
SCRIPT = REPOSITORY / "tools" / "slurm.sh"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [name for name in DAEMONS if not which(name)]
    if missing:
        pytest.skip(
            f"NOT TESTED ON SLURM: missing {', '.join(missing)}; see tools/install-slurm.sh"
        )
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED ON SLURM: root must start its daemons")
    folder = tmp_path_factory.mktemp("slurm")
    done = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(f"NOT TESTED ON SLURM: {done.stderr.strip()}")
    if done.returncode:
        pytest.fail(f"Slurm is installed but does not start: {done.stderr.strip()}")
    try:
        yield Cluster(folder)
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)


def which(name: str) -> str | None:
    """Return the path of a program, also in sbin, which may not be on PATH."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.fixture(scope="session")
def patched_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`finished_run` up to the patches of its blocks: inference and products remain."""
    folder = tmp_path_factory.mktemp("patched") / "run"
    shutil.copytree(finished_run, folder)
    shutil.rmtree(folder / "results")
    shutil.rmtree(folder / "work" / "here" / "then" / "embeddings")
    shutil.rmtree(folder / "work" / "here" / "then" / "job_log")
    return folder


@pytest.fixture
def patched(cluster: Cluster, patched_run: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of `patched_run` to work in. Jobs that a failed test leaves are cancelled, and
    processes that Slurm does not know any more are killed."""
    folder = Path(shutil.copytree(patched_run, tmp_path / "run"))
    yield folder
    subprocess.run(["scancel", "--user=root"], check=False)
    kill_in(folder)
