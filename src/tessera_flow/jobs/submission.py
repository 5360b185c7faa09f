"""Submit each job to Slurm once, also if the controller does not answer.

A busy controller can accept a job and still answer `sbatch` with "Socket timed out". The executor
takes this for a failure of the job, spends one of its attempts and submits it again, so that two
jobs write the same files. It calls `sbatch` by its name; `install` puts a script with that name
before the others on PATH, which runs this file. Each submission gets a comment of its own. If it
fails, the queue is asked for that comment before anything is submitted again.

This file is started for every job, by its path: it imports the standard library only.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PASSING = (
    "timed out",
    "timeout",
    "unable to contact",
    "temporarily",
    "try again",
    "communication",
    "connection",
    "not responding",
    "zero bytes were transmitted",
    "standby mode",
    "writing script",
    "munge",
    "maxsubmitjob",  # AssocMaxSubmitJobLimit, QOSMaxSubmitJobPerUserLimit
)
"""Parts of messages of `sbatch` about what passes: the controller is busy, restarts, or has as many
jobs of this user as it allows."""

_SECONDS = 300
"""After which a command of Slurm that has not ended is stopped."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a controller.

    Attributes:
        pause: seconds before the queue is asked; doubled at each attempt, up to `most`.
        most: see `pause`.
        total: seconds after which the last message of `sbatch` is passed on.
    """

    pause: float = 5.0
    most: float = 60.0
    total: float = 3600.0


@dataclass(frozen=True)
class Answer:
    """What a command has answered: its status and output."""

    status: int
    out: str
    error: str

    @property
    def passes(self) -> bool:
        """Whether the same command may succeed later."""
        return any(part in self.error.lower() for part in PASSING)


def install(folder: Path) -> None:
    """Put an `sbatch` that calls this module before the others on PATH.

    Does nothing without Slurm.

    Args:
        folder: for the script; made if necessary.

    Raises:
        OSError: the script cannot be written.
    """
    if shutil.which("sbatch") is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    part = folder / f".sbatch.{os.getpid()}"
    part.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$0" "$@"\n', encoding="utf-8")
    part.chmod(0o755)
    os.replace(part, folder / "sbatch")
    paths = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if str(folder) not in paths:
        os.environ["PATH"] = os.pathsep.join([str(folder), *paths])


def main(argv: Sequence[str]) -> int:
    """Submit a job as `sbatch` does, whose arguments follow the path of the script."""
    own = os.path.dirname(os.path.abspath(argv[0]))
    paths = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(p for p in paths if os.path.abspath(p) != own)
    if "--parsable" not in argv or "--comment" not in argv or "--job-name" not in argv:
        os.execvp("sbatch", ["sbatch", *argv[1:]])
    try:
        answer = submit(argv[1:], Patience())
    except KeyboardInterrupt:
        answer = Answer(130, "", "sbatch was interrupted\n")
    sys.stdout.write(answer.out)
    sys.stderr.write(answer.error)
    return answer.status


def submit(arguments: Sequence[str], patience: Patience) -> Answer:
    """Submit a job, and again only if it is not in the queue.

    Args:
        arguments: of `sbatch`, with `--job-name` and `--comment`.
        patience: how long to wait for the controller.

    Returns:
        The answer of `sbatch`, or one with the number of the job that it did not report.
    """
    mark = f"submission_{uuid.uuid4().hex[:12]}"
    words = list(arguments)
    words[words.index("--comment") + 1] += f"_{mark}"
    script = sys.stdin.read() if words[-1] == "/dev/stdin" else None
    deadline = time.monotonic() + patience.total
    pause = patience.pause
    answer = _run(["sbatch", *words], script)
    if answer.status == 0:
        return answer
    while True:
        # A request that has timed out may be waiting at the controller: ask twice.
        for _ in range(2):
            time.sleep(pause)
            numbers = _in_queue(words, mark)
            if numbers:
                return _only_one(words, numbers)
        if numbers is None and shutil.which("squeue") is None:
            return answer  # nothing can be found out
        late = time.monotonic() > deadline
        if numbers is not None:
            if not answer.passes or late:
                return answer
            answer = _run(["sbatch", *words], script)
            if answer.status == 0:
                numbers = _in_queue(words, mark)
                return _only_one(words, numbers) if numbers else answer
        elif late:
            return answer
        pause = min(2 * pause, patience.most)


def _in_queue(words: Sequence[str], mark: str) -> list[int] | None:
    """Return the numbers of the jobs with a mark, also of those that ended; None: no answer."""
    command = ["squeue", "--noheader", "--states=all", "--format=%F|%k"]
    command += ["--name", words[words.index("--job-name") + 1]]
    answer = _run([*command, *_clusters(words)], None)
    if answer.status != 0:
        return None
    lines = [line.strip().partition("|") for line in answer.out.splitlines()]
    return sorted({int(number) for number, _, comment in lines if comment.endswith(mark)})


def _clusters(words: Sequence[str]) -> list[str]:
    """Return the option that names the cluster of a job: numbers are those of one cluster."""
    return ["--clusters", words[words.index("--clusters") + 1]] if "--clusters" in words else []


def _only_one(words: Sequence[str], numbers: Sequence[int]) -> Answer:
    """Cancel all but the first of the jobs; return the answer for that one."""
    if numbers[1:]:
        _run(["scancel", *_clusters(words), *map(str, numbers[1:])], None)
    return Answer(0, f"{numbers[0]}\n", "")


def _run(command: Sequence[str], stdin: str | None) -> Answer:
    # Filters of the user hide jobs.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, errors="backslashreplace",
            check=False, env=environment, timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(1, "", f"{command[0]} timed out after {_SECONDS} s\n")
    except OSError as error:
        return Answer(127, "", f"{command[0]}: {error.strerror}\n")
    return Answer(done.returncode, done.stdout, done.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
