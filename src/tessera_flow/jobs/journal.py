"""Record every attempt of every job in a job log, one file per block, which is only appended to.

Snakemake empties a job's own log before each attempt, so the reason of the first failure would be
lost. Status, summary and skipped blocks are read from the job logs. Their names follow from the
grid: no folder is ever scanned.

A line is a JSON object: `job`, `state` (started, done, failed, stopped, refused, interrupted),
`time` (UTC), `host`, `process`, `process_started`, `attempt` and, at the end of a job, `seconds`,
`peak_mb` and `reason`. A job that was killed has a line for its start and none for its end. Lines
with `ahead` are of a job that did the work of this one before it started, see `ahead`.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..concurrency import lock_for
from ..errors import Refused, Stopped, TesseraFlowError
from ..input_files import without_links
from .processes import process_start, process_state

State = Literal["started", "done", "failed", "stopped", "refused", "interrupted"]
LOCK_SECONDS = 5.0
"""Longest wait for a job log that another job is writing; its lines are shorter than a page."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
"""Of lines in the log files of jobs, which are not the job logs."""

REGION_WIDE = "all"
"""In place of a block's name: jobs of all blocks."""


@dataclass(frozen=True)
class JobRecord:
    """The state of one job.

    Attributes:
        job: rule, followed by sensor and time slice where a block has several jobs of the rule.
        state: of the latest attempt; `started` means that it runs or was killed.
        attempts: number of attempts.
        time: of the latest line (ISO, UTC).
        reason: of the latest failure or stop; empty if there was none.
        seconds: duration of the latest attempt that was done.
        host, process: of the latest attempt.
        process_started: start of that process (`processes.process_start`); 0 if not recorded.
        settings: hash of the parameters of the latest attempt; empty if not recorded.
    """

    job: str
    state: State
    attempts: int
    time: str
    reason: str
    seconds: float
    host: str
    process: int
    settings: str = ""
    process_started: int = 0

    @property
    def rule(self) -> str:
        """The rule of the job."""
        return self.job.split(" ", 1)[0]

    @property
    def running(self) -> bool:
        """Whether the job may still run: checked on its own host, assumed on others."""
        if self.state != "started":
            return False
        if self.host != socket.gethostname():
            return True
        return process_state(self.process, self.process_started) != "ended"

    def why(self) -> str:
        """Return why the job is not done, as a message."""
        if self.state == "started":
            killed = "was killed (out of memory, out of time, cancelled, or its machine went down)"
            return f"{killed}; before that: {self.reason}" if self.reason else killed
        return self.reason.strip() or "no reason recorded"


def job_log_path(work: str | os.PathLike[str], *names: str) -> Path:
    """Return the job log of a block (`region`, `period`, `block`), or of a region's, a period's or
    the run's own jobs."""
    folders, name = (names[:2], names[2]) if len(names) == 3 else (names, REGION_WIDE)
    return Path(work, *folders, "job_log", f"{name}.jsonl")


@dataclass
class JobCost:
    """What a job states about its cost, where that of its process is not its own.

    Attributes:
        seconds: instead of the time of the job; None: that time.
        peak_mb: of another process that works for it.
    """

    seconds: float | None = None
    peak_mb: int = 0


@contextmanager
def record_job(
    path: Path, job: str, attempt: int = 1, settings: str = "", ahead: bool = False
) -> Iterator[JobCost]:
    """Record the start of a job, and how it ends; yield its cost, which the body may set.

    A job log that cannot be written fails no job. What the body raises is raised again.

    Args:
        path: the job log.
        job: name of the job.
        attempt: number of the attempt.
        settings: hash of its parameters.
        ahead: another job does its work, before it starts; this is no attempt.
    """
    start, cost = time.monotonic(), JobCost()
    known: dict[str, Any] = {"settings": settings} if settings else {}
    known |= {"ahead": True} if ahead else {}
    common = {
        **known,
        "job": job,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "process_started": process_start(os.getpid()) or 0,
        "attempt": attempt,
    }
    _append(path, common | {"state": "started"})
    state: State = "interrupted"
    reason = ""
    try:
        yield cost
        state = "done"
    except Stopped as error:
        state, reason = "stopped", str(error)
        raise
    except Refused as error:
        state, reason = "refused", str(error)
        raise
    except TesseraFlowError as error:
        state, reason = "failed", str(error)
        raise
    except Exception:
        state, reason = "failed", traceback.format_exc(limit=-8)
        raise
    except BaseException as error:
        # Ctrl-C reaches the jobs on this machine as well as Snakemake: not a failure.
        reason = f"Interrupted ({type(error).__name__}). Run again to continue."
        raise
    finally:
        seconds = time.monotonic() - start if cost.seconds is None else cost.seconds
        common["seconds"] = round(seconds, 3)
        own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # kB on Linux
        common["peak_mb"] = max(own_mb, cost.peak_mb)
        _append(path, common | {"state": state} | ({"reason": reason} if reason else {}))


def _append(path: Path, record: dict[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = json.dumps({"time": now, **record}) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8", opener=without_links) as handle:
            try:
                # Jobs of a block run on several machines; on NFS, appending alone is not atomic.
                # A lock that its owner never releases must not hold up a job.
                lock_for(handle, LOCK_SECONDS)
            except OSError:
                pass
            handle.write(line)
            handle.flush()
    except OSError:
        pass


def read_job_log(path: Path) -> list[JobRecord]:
    """Return the state of each job in a job log, in the order of their first attempts."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    jobs: dict[str, JobRecord] = {}
    for line in lines:
        try:
            record = json.loads(line)
            previous = jobs.get(record["job"])
            jobs[record["job"]] = _updated(previous, record)
        except (ValueError, KeyError, TypeError):
            continue  # an incomplete line
    return list(jobs.values())


def _updated(previous: JobRecord | None, record: dict[str, Any]) -> JobRecord:
    state: State = record["state"]
    datetime.datetime.fromisoformat(record["time"])
    reason = record.get("reason") or (previous.reason if previous and state == "started" else "")
    attempted = state == "started" and not record.get("ahead")
    seconds = record["seconds"] if state == "done" else previous.seconds if previous else 0.0
    return JobRecord(
        job=str(record["job"]),
        state=state,
        attempts=(previous.attempts if previous else 0) + attempted,
        time=record["time"],
        reason=str(reason),
        seconds=float(seconds),
        host=str(record["host"]),
        process=int(record["process"]),
        settings=str(record.get("settings", "")),
        process_started=int(record.get("process_started", 0)),
    )


def unfinished(records: Sequence[JobRecord], run_ended: bool = False) -> list[JobRecord]:
    """Return the jobs that failed, were stopped or were killed.

    Args:
        records: of one job log.
        run_ended: no run is active, so a job that started on another machine and did not end was
            killed there.
    """
    elsewhere = [r for r in records if run_ended and r.host != socket.gethostname()]
    return [r for r in records if r.state != "done" and (r in elsewhere or not r.running)]
