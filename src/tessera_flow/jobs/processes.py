"""Find out whether a process on this machine, or a Slurm job of this user, has ended."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Literal

State = Literal["running", "ended", "unknown"]
"""`unknown`: nothing may be done that would damage a process that runs."""

PROC = Path("/proc")

SQUEUE_SECONDS = 60
_ENDED_JOBS = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PENDING",  # requeued: its processes have ended
    "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
"""States in which no process of a job that has been running exists."""


def process_start(process: int) -> int | None:
    """Return when a process started, in ticks since the machine started; None if it has ended, or
    if it cannot be seen."""
    stat = _stat(process)
    return None if stat is None or stat[0] in "ZX" else int(stat[19])


def process_state(process: int, started: int) -> State:
    """Return whether a process on this machine runs.

    Args:
        process: its number.
        started: its `process_start`, in which a later process with the same number differs; 0 if
            not known.

    Returns:
        `unknown` if there is a process with this number, but the start of one of them is not
        known: `/proc` hides processes of other users where it is mounted with `hidepid`.
    """
    stat = _stat(process)
    if stat is None:
        return "unknown" if _exists(process) else "ended"
    if stat[0] in "ZX":
        return "ended"
    if not started:
        return "unknown"
    return "running" if int(stat[19]) == started else "ended"


def this_slurm_job() -> tuple[str, str]:
    """Return the cluster and the number of the Slurm job that this process is in; empty if none.

    The shell of `salloc` on a login node has the number too, but does not end with the job. Only
    processes on a node of the job have `SLURMD_NODENAME`.
    """
    names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURMD_NODENAME")
    cluster, job, node = (os.environ.get(name, "") for name in names)
    return (cluster, job) if cluster and job.isdecimal() and node else ("", "")


def slurm_job_has_ended(cluster: str, job: str) -> bool:
    """Return whether Slurm states that a running job of this user has ended.

    False if it runs, and if that is not known: no Slurm here, another cluster, no answer. Jobs of
    other users can be hidden, so ask only for jobs of this user.
    """
    if not (cluster and job) or _cluster_here() != cluster.casefold():
        return False
    done = _slurm("squeue", "--all", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")
    if done is None:
        return False
    if states := done.stdout.split():
        return done.returncode == 0 and set(states) <= _ENDED_JOBS
    errors = done.stderr.strip().casefold()
    forgotten = "invalid job id" in errors  # some time after its end
    return forgotten or (done.returncode == 0 and not errors)


def _stat(process: int) -> list[str] | None:
    """Return the fields of a process after its name; None if they cannot be read."""
    try:
        text = (PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split() or None


def _exists(process: int) -> bool:
    if process <= 0:  # means a group of processes
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _cluster_here() -> str | None:
    """Return the name of the cluster whose Slurm this machine uses; None if not known."""
    done = _slurm("scontrol", "show", "config")
    if done is None or done.returncode:
        return None
    match = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, flags=re.MULTILINE)
    return match[1].casefold() if match else None


def _slurm(*command: str) -> subprocess.CompletedProcess[str] | None:
    if shutil.which(command[0]) is None:
        return None
    # Filters that users set for themselves would hide a job that runs.
    variables = {
        name: value
        for name, value in os.environ.items()
        if name != "SLURM_CLUSTERS" and not name.startswith("SQUEUE_")
    }
    try:
        return subprocess.run(
            command,
            env=variables,
            capture_output=True,
            text=True,
            timeout=SQUEUE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
