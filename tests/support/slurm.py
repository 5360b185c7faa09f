"""Runs the workflow through a real Slurm and meddles with its jobs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """The cluster, and where its state is."""

    folder: Path

    def jobs(self, folder: Path, word: str) -> list[dict[str, str]]:
        """What Slurm knows of the jobs of a run whose comment (rule and wildcards) has a word,
        in the order of submission."""
        found = []
        for line in slurm("scontrol", "--oneliner", "show", "job").splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            if fields.get("WorkDir") == str(folder) and word in fields.get("Comment", ""):
                found.append(fields)
        return sorted(found, key=lambda fields: int(fields["JobId"]))

    def controller(self, action: str) -> None:
        """`down`: kill slurmctld; `up`: start it again."""
        subprocess.run([REPOSITORY / "tools" / "slurm.sh", action, self.folder], check=True)

    def job(self, folder: Path, word: str) -> str:
        """Number of the one job of a run that is in the queue and has a word in its comment."""
        waiting = ("PENDING", "RUNNING", "COMPLETING")
        (found,) = [j for j in self.jobs(folder, word) if j["JobState"] in waiting]
        return found["JobId"]


def slurm(*arguments: str) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout


def memory(job: dict[str, str]) -> int:
    """MB that a job was given."""
    number, unit = re.fullmatch(r".*mem=([\d.]+)([MG]).*", job["TRES"]).groups()  # type: ignore[union-attr]
    return round(float(number) * {"M": 1, "G": 1024}[unit])


def verdict(folder: Path, block: str, rule: str) -> JobRecord | None:
    """What became of a rule's job of a block."""
    path = job_log_path(folder / "work", "here", "then", block)
    return next((v for v in read_job_log(path) if v.rule == rule), None)


def start(
    folder: Path, *arguments: str, profile: Sequence[str] = PROFILE
) -> subprocess.Popen[bytes]:
    """Begin a run on the cluster, in a process group of its own; output goes to `run.txt`."""
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
    """Wait for the end of a run, and of all that is left of it where it does not come; returns
    what it printed."""
    try:
        process.wait(timeout=600)
    except BaseException:
        kill_group(process)
        raise
    output = (folder / "run.txt").read_text()
    assert (process.returncode != 0) == fails, output
    return output


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 300
) -> None:
    """Wait while the run goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before"
        assert time.monotonic() < deadline, "waited for nothing"
        time.sleep(0.01)


def hold(
    folder: Path, process: subprocess.Popen[bytes], fates: Mapping[str, Callable[[int], object]]
) -> None:
    """Stop (SIGSTOP) the process that embeds a block as soon as it has begun, and do to it what
    `fates` says (a function of the process's id by block); returns when every fate was met."""
    left = dict(fates)

    def meet() -> bool:
        for block in list(left):
            found = verdict(folder, block, "infer_cpu")
            if found is None:
                continue
            assert found.state == "started", f"{block} was done too soon to be held"
            os.kill(found.process, signal.SIGSTOP)
            left.pop(block)(found.process)
        return not left

    wait_until(meet, process)
