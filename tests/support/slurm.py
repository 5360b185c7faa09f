"""Run the workflow through a real Slurm and disturb its jobs."""

from __future__ import annotations

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


def start(
    folder: Path, *arguments: str, profile: Sequence[str] = PROFILE
) -> subprocess.Popen[bytes]:
    """Start a run on the cluster, in a process group of its own; output goes to `run.txt`."""
    with (folder / "run.txt").open("ab") as output:
        return subprocess.Popen(
            command(folder, *profile, *arguments),
            cwd=folder,
            env=environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], folder: Path, fails: bool = False) -> str:
    """Wait for the end of a run, or kill its processes after a timeout; return its output."""
    try:
        process.wait(timeout=600)
    except subprocess.TimeoutExpired:
        kill_group(process)
        queue = subprocess.run(["squeue", "--all"], capture_output=True, text=True, check=False)
        output = (folder / "run.txt").read_text()
        pytest.fail(f"The run did not end.\n{output}\n{queue.stdout}{queue.stderr}")
    except BaseException:
        kill_group(process)
        raise
    output = (folder / "run.txt").read_text()
    assert (process.returncode != 0) == fails, output
    return output


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 300
) -> None:
    """Wait until a condition holds, while the run is running."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended first"
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def hold(
    folder: Path, process: subprocess.Popen[bytes], fates: Mapping[str, Callable[[int], object]]
) -> None:
    """Stop (SIGSTOP) the process that embeds a block as soon as it has started, and call the
    function of that block in `fates` with its process id; return after the last call."""
    remaining = dict(fates)

    def meet() -> bool:
        for block in list(remaining):
            record = job_record(folder, block, "infer_cpu")
            if record is None:
                continue
            assert record.state == "started", f"{block} was done before it could be stopped"
            os.kill(record.process, signal.SIGSTOP)
            remaining.pop(block)(record.process)
        return not remaining

    wait_until(meet, process)
