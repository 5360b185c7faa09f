"""Run the workflow through a real Slurm and disturb its jobs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tessera_flow.jobs.journal import JobRecord, job_log_path, read_job_log

from .workflow import REPOSITORY, command, environment, kill_group

PROFILE = ["--profile", str(REPOSITORY / "profiles" / "test")]
USERS_PROFILE = [
    *("--profile", str(REPOSITORY / "profiles" / "slurm")),
    # One disk and one machine: files are there at once, and a job takes seconds.
    *("--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "2"),
    *("--max-status-checks-per-second", "2", "--slurm-no-account"),
]


_LONGEST_RUN = 900
"""Seconds: some times what a run takes on two cores that have nothing else to do."""


@dataclass(frozen=True)
class Cluster:
    """The cluster: the folder of its state, and the script that controls it."""

    folder: Path
    script: Path = REPOSITORY / "tools" / "slurm.sh"

    def jobs(self, folder: Path, word: str) -> list[dict[str, str]]:
        """Return the fields of a run's jobs whose comment (rule and wildcards) contains a word,
        in the order of submission."""
        jobs = []
        for line in slurm("scontrol", "--oneliner", "show", "job").splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            if fields.get("WorkDir") == str(folder) and word in fields.get("Comment", ""):
                jobs.append(fields)
        return sorted(jobs, key=lambda fields: int(fields["JobId"]))

    def controller(self, action: str) -> None:
        """Kill slurmctld (`down`) or start it again (`up`)."""
        subprocess.run([self.script, action, self.folder], check=True)

    def job(self, folder: Path, word: str) -> str:
        """Return the id of the one queued job of a run whose comment contains a word."""
        waiting = ("PENDING", "RUNNING", "COMPLETING")
        (job,) = [j for j in self.jobs(folder, word) if j["JobState"] in waiting]
        return job["JobId"]


def slurm(*arguments: str) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout


def memory(job: dict[str, str]) -> int:
    """Return the memory of a job in MB."""
    number, unit = re.fullmatch(r".*mem=([\d.]+)([MG]).*", job["TRES"]).groups()  # type: ignore[union-attr]
    return round(float(number) * {"M": 1, "G": 1024}[unit])


def job_record(folder: Path, block: str, rule: str) -> JobRecord | None:
    """Return the record of a rule's job of a block, if it has one."""
    path = job_log_path(folder / "work", "here", "then", block)
    return next((record for record in read_job_log(path) if record.rule == rule), None)


class Run(subprocess.Popen[bytes]):
    """A run on the cluster, whose output goes to `run.txt` in its folder."""

    folder: Path

    def output(self) -> str:
        """Return its output so far, and the queue of the cluster."""
        command = ["timeout", "30", "squeue", "--all", "--states=all"]
        queue = subprocess.run(command, capture_output=True, text=True, check=False)
        output = (self.folder / "run.txt").read_text(errors="replace")
        return f"{output}\n{queue.stdout}{queue.stderr}"


def start(folder: Path, *arguments: str, profile: Sequence[str] = PROFILE) -> Run:
    """Start a run on the cluster, in a process group of its own."""
    with (folder / "run.txt").open("ab") as output:
        run = Run(
            command(folder, *profile, *arguments),
            cwd=folder,
            env=environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    run.folder = folder
    return run


def finish(process: Run, folder: Path, fails: bool = False) -> str:
    """Wait for the end of a run, or kill its processes after a timeout; return its output."""
    try:
        process.wait(timeout=_LONGEST_RUN)
    except subprocess.TimeoutExpired:
        kill_group(process)
        pytest.fail(f"The run did not end.\n{process.output()}")
    except BaseException:
        kill_group(process)
        raise
    output = (folder / "run.txt").read_text()
    assert (process.returncode != 0) == fails, output
    return output


def wait_until(
    condition: Callable[[], object], process: Run, seconds: float = 600, ended: bool = False
) -> None:
    """Wait until a condition holds, while the run is running (or has `ended`)."""
    deadline = time.monotonic() + seconds
    while not condition():
        running = ended or process.poll() is None
        assert running, f"The run ended first.\n{process.output()}"
        late = time.monotonic() > deadline
        assert not late, f"The condition did not come true.\n{process.output()}"
        time.sleep(0.01)


def kill_in(folder: Path) -> None:
    """Kill the processes whose working directory is a folder.

    This cluster knows the processes of a job by their parents, so a Snakemake whose parent was
    killed first is not killed with its job; clusters that use cgroups kill it.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is of another user
            if Path(os.readlink(entry / "cwd")) == folder:
                os.kill(int(entry.name), signal.SIGKILL)


def hold(folder: Path, process: Run, fates: Mapping[str, Callable[[int], object]]) -> None:
    """Stop (SIGSTOP) the process that embeds a block as soon as it has started, and call the
    function of that block in `fates` with its process id; return after the last call."""
    remaining = dict(fates)

    def meet() -> bool:
        for block in list(remaining):
            record = job_record(folder, block, "infer_cpu")
            if record is None:
                continue
            late = f"{block} was done before it could be stopped\n"
            assert record.state == "started", late + process.output()
            os.kill(record.process, signal.SIGSTOP)
            remaining.pop(block)(record.process)
        return not remaining

    wait_until(meet, process)
