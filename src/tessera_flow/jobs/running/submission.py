"""Submit each job to Slurm once, and learn how it ended, also if the controller does not answer.

A busy controller can accept a job and still answer `sbatch` with "Socket timed out". The executor
takes this for a failure of the job, spends one of its attempts and submits it again, so that two
jobs write the same files. It calls `sbatch` by its name; `install` puts a script with that name
before the others on PATH, which runs this file. Each submission gets a comment of its own. If it
fails, the queue is searched for that comment before anything is submitted again. The comments and
numbers are recorded beside the script, so that the next submission of a job finds one that was
interrupted.

The executor also forgets its jobs if `squeue` (or `sacct`) fails for long, and waits forever for
those that ended meanwhile, because the controller lists a job only for a while after its end
(MinJobAge). So there are scripts with these names, too: while there is no answer, all jobs are
taken as running; a job that is not listed any more has the state that accounting has. If accounting
knows of no end for minutes, the job is cancelled, so that no two jobs write the same files, and has
failed, so that it is run again.

This file is started for every job, by its path: it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
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
_SECONDS_OF_STATES, _SECONDS_OF_LOST = 40, 5
"""The same for states of jobs, and for each call about jobs that are not listed: the executor gives
up after 60."""

MARK = "_submission_"
"""In the comment of every job, before what is its own."""

PROGRAMS = ".snakemake/tessera-flow/bin"
"""Folder of the scripts of `install`, in that of the run."""
_GRACE = 300
"""Seconds for which a job may be missing in the queue before it is taken as lost: some sites put a
program in the place of `squeue` that repeats an older answer, and accounting learns late."""
_ATTEMPTS, _PAUSE = 3, 0.5
"""Calls for what is in the queue, and seconds between them."""
RECORD = ".jobs"
"""End of the name of the record of the jobs of a run."""
SILENT = ".silent"
"""End of the name of a file with the last error, made when states were first not answered."""
_OLD = 10 * 86400
"""Seconds after which records of earlier runs are deleted."""

_CLUSTER = (
    "{} names a cluster that this run does not know of: it could not find or cancel its jobs. "
    "Remove it, and name the cluster in the profile: default-resources: slurm_cluster: NAME\n"
)


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
    """Put programs of Slurm that call this module before the others on PATH.

    Does nothing without Slurm.

    Args:
        folder: for the scripts and records; made if necessary. Old records are deleted.

    Raises:
        OSError: a script cannot be written.
    """
    if shutil.which("sbatch") is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    for name in _PROGRAMS:
        if shutil.which(name) is None:
            continue
        part = folder / f".{name}.{uuid.uuid4().hex}"
        with part.open("x", encoding="utf-8") as file:  # not through a link of another user
            file.write(f'#!/bin/sh\nexec {shlex.join(words)} "$0" "$@"\n')
        part.chmod(0o755)
        os.replace(part, folder / name)
    for path in folder.iterdir():
        if path.suffix in (RECORD, SILENT) and path.stat().st_mtime < time.time() - _OLD:
            path.unlink()
    paths = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if str(folder) not in paths:
        os.environ["PATH"] = os.pathsep.join([str(folder), *paths])


def main(argv: Sequence[str]) -> int:
    """Do what the program of Slurm does whose path and arguments are given."""
    folder, program = os.path.split(os.path.abspath(argv[0]))
    paths = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(p for p in paths if os.path.abspath(p) != folder)
    run = _PROGRAMS[program]
    name = _run_of(argv, run.needs)
    if name is None:
        os.execvp(program, [program, *argv[1:]])
    try:
        answer = run.call([program, *argv[1:]], Record(Path(folder, f"{name}{RECORD}")))
    except KeyboardInterrupt:
        answer = Answer(130, "", f"{program} was interrupted\n")
    sys.stdout.write(answer.out)
    sys.stderr.write(answer.error)
    return answer.status


def _run_of(argv: Sequence[str], needs: Sequence[str]) -> str | None:
    """Return the name of the jobs of a run; None if the executor has not made the call."""
    if any(word not in argv for word in needs):
        return None
    (option,) = (word for word in needs if word in ("--job-name", "--name"))
    name = argv[argv.index(option) + 1]
    return None if "/" in name or not name else name


def _without_links(path: str, flags: int) -> int:
    """As `input_files.without_links`, which this file must not import."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


class Record:
    """The submissions of a run, in a file with a line for each event: `+ MARK COMMENT` before a job
    is submitted, `= MARK NUMBER CLUSTER` when it is accepted, `- MARK` when it is refused,
    `? NUMBER TIME` when it is first missing in the queue (`-`: it is listed again), and
    `. NUMBER STATE` when it has ended."""

    def __init__(self, path: Path) -> None:
        """Take the path of the file, which need not exist."""
        self.path = path

    def add(self, *words: str) -> None:
        """Add a line. A file that cannot be written prevents no submission."""
        with (
            contextlib.suppress(OSError),
            open(self.path, "a", encoding="utf-8", opener=_without_links) as file,
        ):
            file.write(" ".join(words) + "\n")

    def _lines(self) -> list[list[str]]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [line.split(" ", 2) for line in text.splitlines() if line.count(" ")]

    def unanswered(self, comment: str) -> list[str]:
        """Return the marks of submissions of a job of which the end is not known."""
        lines = self._lines()
        ended = {line[1] for line in lines if line[0] in "=-"}
        return [
            line[1] for line in lines if line[0] == "+" and line[2:] == [comment]
            and line[1] not in ended
        ]  # fmt: skip

    def accepted(self) -> dict[str, str]:
        """Return the cluster of each accepted job, by number; empty for that of this machine."""
        found = {}
        for line in self._lines():
            if line[0] == "=" and len(line) == 3:
                number, _, cluster = line[2].partition(" ")
                found[number] = cluster
        return found

    def ended(self) -> dict[str, str]:
        """Return the states of the jobs that are known to have ended, by number."""
        return {line[1]: line[2] for line in self._lines() if line[0] == "." and len(line) == 3}

    def missing(self) -> dict[str, float]:
        """Return since when (Unix time) jobs are missing in the queue, by number."""
        found = {line[1]: line[2] for line in self._lines() if line[0] == "?" and len(line) == 3}
        return {number: float(since) for number, since in found.items() if since.isdecimal()}


def submit_recorded(command: Sequence[str], record: Record) -> Answer:
    """Submit a job as `submit`, and record it. One that was interrupted before is found again."""
    words = list(command[1:])
    if "SBATCH_CLUSTERS" in os.environ:
        return Answer(1, "", _CLUSTER.format("SBATCH_CLUSTERS in the environment"))
    if any(word.startswith("-M") for word in words):
        return Answer(1, "", _CLUSTER.format("-M in slurm_extra"))
    comment = words[words.index("--comment") + 1]
    for mark in record.unanswered(comment):
        numbers = _wait_for_queue(words, mark, Patience())
        if numbers is None:
            text = "whether an interrupted submission of this job was accepted is not known\n"
            return Answer(1, "", f"squeue does not answer: {text}")
        if not numbers:
            record.add("-", mark)
            continue
        answer = _only_one(words, numbers)
        record.add("=", mark, answer.out.strip(), *_clusters(words)[1:])
        return answer
    mark = _new_mark()
    record.add("+", mark, comment)
    answer = submit(words, Patience(), mark)
    if answer.status != 0:
        if not answer.passes:
            record.add("-", mark)
        return answer
    lines = re.findall(r"^(\d+)(?:;(\S*))?\s*$", answer.out, re.MULTILINE)
    if len(lines) != 1:  # a program of the site says something else
        numbers = _in_queue(words, mark)
        if not numbers:
            return answer
        lines = [(_only_one(words, numbers).out.strip(), "")]
    ((number, cluster),) = lines
    record.add("=", mark, number, cluster or next(iter(_clusters(words)[1:]), ""))
    # No notices of the site around it: the executor would look for the number in them.
    return Answer(0, f"{number};{cluster}\n" if cluster else f"{number}\n", answer.error)


def _wait_for_queue(words: Sequence[str], mark: str, patience: Patience) -> list[int] | None:
    """Return the numbers of the jobs with a mark; None: no answer for too long."""
    deadline = time.monotonic() + patience.total
    pause = patience.pause
    if shutil.which("squeue") is None:
        return []  # nothing can be found out
    while (numbers := _in_queue(words, mark)) is None and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, patience.most)
    return numbers


def states(command: Sequence[str], record: Record) -> Answer:
    """Return the states of the jobs of a run, a line `NUMBER|STATE` for each.

    Without an answer there are no lines, which the executor takes for running jobs.

    Args:
        command: `squeue` or `sacct` with the arguments of the executor.
        record: of the submissions.
    """
    known = record.accepted()  # read first: a job that is accepted later may not be listed
    ended = record.ended()
    silent = record.path.with_suffix(SILENT)
    listed: dict[str, str] = {}
    clusters = sorted(set(known.values())) or [""] if command[0] == "squeue" else [""]
    for cluster in clusters:
        of_cluster = ["--clusters", cluster] if cluster else []
        answer = _ask([*command, *of_cluster], _SECONDS_OF_STATES / len(clusters))
        if answer.status != 0:
            with contextlib.suppress(OSError), silent.open("x", encoding="utf-8") as file:
                file.write(answer.error)
            return Answer(0, "", answer.error)
        listed |= _states_in(answer.out)
    silent.unlink(missing_ok=True)
    if command[0] == "squeue":
        missing = {n: known[n] for n in known if n not in listed and n not in ended}
        new = _ended(missing, record)
        for number in record.missing():
            if number in listed:
                record.add("?", number, "-")
        # Other states may be those of a job that Slurm puts back into the queue.
        new |= {n: s for n, s in listed.items() if s == "COMPLETED" and n not in ended}
        if new:
            record.add("\n".join(f". {number} {state}" for number, state in new.items()))
        listed = ended | listed | new
    return Answer(0, "".join(f"{number}|{state}\n" for number, state in listed.items()), "")


def _ask(command: Sequence[str], seconds: float) -> Answer:
    """Return the answer of a command, called a few times if it fails quickly."""
    deadline = time.monotonic() + seconds
    for _ in range(_ATTEMPTS):
        answer = _run(command, None, deadline - time.monotonic())
        if answer.status in (0, 127) or deadline - time.monotonic() < 1:  # 127: no such program
            break
        time.sleep(_PAUSE)
    return answer


def _states_in(text: str) -> dict[str, str]:
    """Return the states by job; `CANCELLED by 0` is `CANCELLED`, which the executor knows."""
    lines = (line.strip().partition("|") for line in text.splitlines() if "|" in line)
    return {number: (state.split() or [""])[0] for number, _, state in lines}


def _ended(jobs: dict[str, str], record: Record) -> dict[str, str]:
    """Return the states of those jobs that have ended, of those that the controller does not list.

    Args:
        jobs: their clusters, by number.
        record: of the submissions; the time is added at which a job was first missing.
    """
    found: dict[str, str] = {}
    since, now = record.missing(), time.time()
    for cluster in sorted(set(jobs.values())):
        numbers = [number for number in jobs if jobs[number] == cluster]
        of_cluster = ["--clusters", cluster] if cluster else []
        command = ["sacct", "-X", "--noheader", "--parsable2", "--format=JobIdRaw,State"]
        command += ["--jobs", ",".join(numbers), *of_cluster]
        answer = _run(command, None, _SECONDS_OF_LOST)
        answered = _states_in(answer.out) if answer.status == 0 else {}
        found |= {n: answered[n] for n in numbers if answered.get(n) in _ENDED}
        unknown = [number for number in numbers if number not in found]
        for number in unknown:
            if number not in since:
                record.add("?", number, f"{now:.0f}")
        lost = [number for number in unknown if now - since.get(number, now) > _GRACE]
        # They may run: then no other jobs may write their files.
        cancel = ["scancel", *of_cluster, *lost]
        if lost and not _run(cancel, None, _SECONDS_OF_LOST).passes:
            found |= dict.fromkeys(lost, "FAILED")
    return found


def _new_mark() -> str:
    return f"{MARK[1:]}{uuid.uuid4().hex[:12]}"


def submit(arguments: Sequence[str], patience: Patience, mark: str = "") -> Answer:
    """Submit a job, and again only if it is not in the queue.

    Args:
        arguments: of `sbatch`, with `--job-name` and `--comment`.
        patience: how long to wait for the controller.
        mark: added to the comment; of this submission alone.

    Returns:
        The answer of `sbatch`, or one with the number of the job that it did not report.
    """
    mark = mark or _new_mark()
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
    answer = _ask([*command, *_clusters(words)], _SECONDS)
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


def _run(command: Sequence[str], stdin: str | None, seconds: float = _SECONDS) -> Answer:
    # Filters of the user hide jobs.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, errors="backslashreplace",
            check=False, env=environment, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(1, "", f"{command[0]} timed out after {seconds:g} s\n")
    except OSError as error:
        return Answer(127, "", f"{command[0]}: {error.strerror}\n")
    return Answer(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Program:
    """A program of Slurm: what is called in its place, if a call has certain options."""

    call: Callable[[Sequence[str], Record], Answer]
    needs: tuple[str, ...]


_PROGRAMS = {
    "sbatch": Program(submit_recorded, ("--parsable", "--comment", "--job-name")),
    "squeue": Program(states, ("--states=all", "--noheader", "--format=%i|%T", "--name")),
    "sacct": Program(states, ("--parsable2", "--noheader", "--format=JobIdRaw,State", "--name")),
}
_ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE",
          "BOOT_FAIL")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
