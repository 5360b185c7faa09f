"""What became of every job of a block, in one file per block that is only ever appended to.

Snakemake empties a job's log before each attempt, so the reason of the first failure is lost
there; here it stays. Status, summary and holes are read from these files, whose names follow
from the plan: no folder is ever scanned.

A line is a JSON object: `job`, `state` (begun, done, failed, stopped, interrupted), `time` (UTC),
`host`, `process`, `attempt` and, at the end of a job, `seconds`, `peak_mb` and `reason`. A job that
was killed has a line for its beginning and none for its end.
"""

from __future__ import annotations

import datetime
import fcntl
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

from ..errors import Stopped, TesseraFlowError

State = Literal["started", "done", "failed", "stopped", "interrupted"]
REGION_WIDE = "all"
"""In place of a block's name: jobs of a whole region."""


@dataclass(frozen=True)
class JobRecord:
    """What became of one job.

    Attributes:
        job: rule and, where a block has several jobs of it, which one.
        state: of its latest attempt; `begun` means that it runs or was killed.
        attempts: how often it was begun.
        time: of the latest line (ISO, UTC).
        reason: why the latest attempt that ended in one did fail or stop; empty if none.
        seconds: of the latest attempt that was done.
        host, process: where the latest attempt runs or ran.
    """

    job: str
    state: State
    attempts: int
    time: str
    reason: str
    seconds: float
    host: str
    process: int

    @property
    def rule(self) -> str:
        """The rule of the job."""
        return self.job.split(" ", 1)[0]

    @property
    def running(self) -> bool:
        """Whether it may still run: asked for on its own host, taken for true elsewhere."""
        if self.state != "started":
            return False
        if self.host != socket.gethostname():
            return True
        return Path(f"/proc/{self.process}").exists()

    def why(self) -> str:
        """The reason of a job that is not done, in a sentence."""
        if self.state == "started":
            ended = "was killed (out of memory, out of time, cancelled, or its machine went down)"
            return ended if not self.reason else f"{ended}; before that: {self.reason}"
        return self.reason.strip() or "no reason recorded"


def job_log_path(work: str | os.PathLike[str], *names: str) -> Path:
    """The file of a block (`region`, `period`, `block`), a region's or the run's own jobs."""
    folders, name = (names[:2], names[2]) if len(names) == 3 else (names, REGION_WIDE)
    return Path(work, *folders, "job_log", f"{name}.jsonl")


@contextmanager
def verdict(path: Path, job: str, attempt: int = 1) -> Iterator[None]:
    """Record that a job begins, and how it ends.

    A file that cannot be written fails no job. Whatever the body raises is raised again.
    """
    began = time.monotonic()
    about = {"job": job, "host": socket.gethostname(), "process": os.getpid(), "attempt": attempt}
    _append(path, about | {"state": "started"})
    state: State = "interrupted"
    reason = ""
    try:
        yield
        state = "done"
    except Stopped as error:
        state, reason = "stopped", str(error)
        raise
    except TesseraFlowError as error:
        state, reason = "failed", str(error)
        raise
    except Exception:
        state, reason = "failed", traceback.format_exc(limit=-8)
        raise
    except BaseException as error:
        # Ctrl-C reaches the jobs on this machine as well as Snakemake; that is no failure.
        reason = f"Interrupted ({type(error).__name__}). Run again to go on."
        raise
    finally:
        about["seconds"] = round(time.monotonic() - began, 3)
        # Linux gives kilobytes.
        about["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        _append(path, about | {"state": state} | ({"reason": reason} if reason else {}))


def _append(path: Path, record: dict[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = json.dumps({"time": now, **record}) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as handle:
            try:
                # Jobs of a block run on several machines; on NFS appending alone is not whole.
                fcntl.lockf(handle, fcntl.LOCK_EX)
            except OSError:
                pass
            handle.write(line)
            handle.flush()
    except OSError:
        pass


def read_job_log(path: Path) -> list[JobRecord]:
    """The verdicts in a file, one for each job, in the order in which jobs were first begun."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[str, JobRecord] = {}
    for line in lines:
        try:
            record = json.loads(line)
            before = found.get(record["job"])
            found[record["job"]] = _next(before, record)
        except (ValueError, KeyError, TypeError):
            continue  # a line that was cut off
    return list(found.values())


def _next(before: JobRecord | None, record: dict[str, Any]) -> JobRecord:
    state: State = record["state"]
    datetime.datetime.fromisoformat(record["time"])
    reason = record.get("reason") or (before.reason if before and state == "started" else "")
    seconds = record["seconds"] if state == "done" else before.seconds if before else 0.0
    return JobRecord(
        job=str(record["job"]),
        state=state,
        attempts=(before.attempts if before else 0) + (state == "started"),
        time=record["time"],
        reason=str(reason),
        seconds=float(seconds),
        host=str(record["host"]),
        process=int(record["process"]),
    )


def unfinished(verdicts: Sequence[JobRecord], over: bool = False) -> list[JobRecord]:
    """Of a block's verdicts those whose job failed, was stopped or was killed.

    Args:
        verdicts: of one block.
        over: no run is going on, so that a job that was begun on another machine and did not end
            was killed there.
    """
    elsewhere = [v for v in verdicts if over and v.host != socket.gethostname()]
    return [v for v in verdicts if v.state != "done" and (v in elsewhere or not v.running)]
