"""Progress of a run in one line: jobs by step, patches of running blocks, time left.

From the messages of the running Snakemake (`RunProgress`); `status` reads the job logs instead.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

STEPS = ("download", "stack", "retile", "infer", "import", "fill")
"""Steps of blocks, by the beginnings of the names of their rules; all other rules are `others`."""
OTHERS = "others"

_TAIL = 8192
_PATCH = re.compile(r"patch \S+ \((\d+) of (\d+)\): .* \((\d+) per s\)\s*$", re.MULTILINE)
_READ = re.compile(r"\(so far ([\d.]+) MB in \d+ requests\)")
_RECENT = 60.0
"""Seconds over which the rate of downloads is measured."""
_BEFORE = re.compile(r" (\d+) of (\d+) patches were finished before")


@dataclass(frozen=True)
class Patches:
    """Progress within a block.

    Attributes:
        done, total: patches; `done` are finished.
        rate: pixels per second of the last patch; 0 if none was finished by this job.
    """

    done: int
    total: int
    rate: float

    def __str__(self) -> str:
        rate = f", {self.rate:,.0f} px/s" if self.rate else ""
        return f"{self.done} of {self.total} patches{rate}"


def patches_of(log: str | Path) -> Patches | None:
    """Return the progress of an inference job from the end of its log; None if it has none yet."""
    text = _tail(log)
    for pattern in (_PATCH, _BEFORE):
        if matches := pattern.findall(text):
            done, total, *rate = matches[-1]
            return Patches(int(done), int(total), float(rate[0]) if rate else 0.0)
    return None


def megabytes_of(log: str | Path) -> float:
    """Return the MB that a download has read, from the end of its log; 0 if it has read none."""
    matches = _READ.findall(_tail(log))
    return float(matches[-1]) if matches else 0.0


def _tail(log: str | Path) -> str:
    """Return the end of a file; empty if it cannot be read."""
    try:
        with Path(log).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def step_of(rule: str) -> str:
    """Return the step of a rule: `infer` for `infer_gpu`; also with the prefix of a module."""
    return next((s for s in STEPS if re.search(rf"(^|_){s}(_|$)", rule)), OTHERS)


@dataclass
class Step:
    """Jobs of one step."""

    total: int = 0
    done: int = 0
    running: int = 0
    failed: int = 0

    def text(self, name: str) -> str:
        """Return the step in a few words."""
        notes = [f"{n} {what}" for n, what in ((self.running, "running"), (self.failed, "failed"))
                 if n]  # fmt: skip
        return f"{name} {self.done}/{self.total}" + (f" ({', '.join(notes)})" if notes else "")


def steps_text(steps: Mapping[str, Step]) -> str:
    """Return all steps that have jobs, in the order of the work."""
    names = [name for name in (*STEPS, OTHERS) if name in steps and steps[name].total]
    return ", ".join(steps[name].text(name) for name in names)


def minutes_text(seconds: float) -> str:
    """Return a duration in seconds, in minutes, or in hours and minutes."""
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


_ORDER = ("jobs", "steps", "read", "block", "left")
_LEAST_FIRST = ("steps", "block", "read", "steps")
"""What is shortened or left out of a line that is too long; the steps are first shortened to those
that run, and then left out."""


def _short(steps: str) -> str:
    """Return of the text of all steps those that run or have failed."""
    found = re.findall(r"\w+ \d+/\d+ \([^)]*\)", steps)
    return ", ".join(found) if ", ".join(found) != steps else ""


@dataclass
class _Job:
    step: str
    log: str
    start: float


@dataclass
class RunProgress:
    """The jobs of one run of Snakemake.

    Times are seconds of one clock.
    """

    start: float
    _steps: dict[str, Step] = field(default_factory=dict)
    _running: dict[int, _Job] = field(default_factory=dict)
    _failed: dict[int, str] = field(default_factory=dict)
    _busy: dict[str, float] = field(default_factory=dict)
    _ended: dict[str, int] = field(default_factory=dict)
    _read: float = 0.0
    _reads: deque[tuple[float, float]] = field(default_factory=deque)

    @property
    def known(self) -> bool:
        """Whether the jobs have been counted."""
        return bool(self._steps)

    def count(self, jobs: Mapping[str, int]) -> None:
        """Set the number of jobs by rule."""
        self._steps = {}
        for rule, number in jobs.items():
            self._steps.setdefault(step_of(rule), Step()).total += number

    def started(self, job: int, rule: str, logs: Iterable[str], now: float) -> None:
        """Note that a job was started or submitted, perhaps again."""
        self._failed.pop(job, None)
        self._running[job] = _Job(step_of(rule), next(iter(logs), ""), now)

    def finished(self, job: int, now: float) -> None:
        """Note that a job is done."""
        ended = self._running.pop(job, None)
        self._failed.pop(job, None)
        if ended is not None:
            if ended.step == "download" and ended.log:
                self._read += megabytes_of(ended.log)
            self._steps.setdefault(ended.step, Step()).done += 1
            self._busy[ended.step] = self._busy.get(ended.step, 0.0) + now - ended.start
            self._ended[ended.step] = self._ended.get(ended.step, 0) + 1

    def failed(self, job: int) -> None:
        """Note that a job failed."""
        ended = self._running.pop(job, None)
        if ended is not None:
            self._failed[job] = ended.step

    def line(self, now: float, width: int = 0) -> str:
        """Return the progress in one line, without a line break.

        Args:
            now: time.
            width: most characters; what matters least is left out, and then the end is cut off.
                0: no limit.
        """
        parts = self._parts(now)
        line = "; ".join(parts[name] for name in _ORDER if parts.get(name))
        for least in _LEAST_FIRST if width else ():
            if len(line) <= width:
                break
            parts[least] = _short(parts[least]) if least == "steps" else ""
            line = "; ".join(parts[name] for name in _ORDER if parts.get(name))
        return line[:width] if width else line

    def _parts(self, now: float) -> dict[str, str]:
        for step in self._steps.values():
            step.running = step.failed = 0
        for job in self._running.values():
            self._steps.setdefault(job.step, Step()).running += 1
        for name in self._failed.values():
            self._steps[name].failed += 1
        done = sum(step.done for step in self._steps.values())
        total = sum(step.total for step in self._steps.values())
        left = self.seconds_left(now)
        return {
            "jobs": f"{minutes_text(now - self.start)}: {done} of {total} jobs done",
            "steps": steps_text(self._steps),
            "read": self._read_text(now),
            "block": self._block(),
            "left": "" if left is None else f"about {minutes_text(left)} left",
        }

    def _read_text(self, now: float) -> str:
        """Return the MB read, and the rate of the last minute while downloads run."""
        logs = [job.log for job in self._running.values() if job.step == "download" and job.log]
        read = self._read + sum(map(megabytes_of, logs))
        self._reads.append((now, read))
        while len(self._reads) > 2 and self._reads[1][0] <= now - _RECENT:
            self._reads.popleft()
        since, before = self._reads[0]
        if not read:
            return ""
        if not logs or now <= since:
            return f"{read:,.0f} MB read"
        # An attempt that is repeated starts again with nothing read.
        return f"{read:,.0f} MB read, {max(0.0, read - before) / (now - since):,.1f} MB/s"

    def _block(self) -> str:
        """Return the patches of the block whose inference has run longest, and the rate of all."""
        jobs = sorted((job.start, job.log) for job in self._running.values() if job.step == "infer")
        found = [(log, patches) for _, log in jobs if log and (patches := patches_of(log))]
        if not found:
            return ""
        log, patches = found[0]
        text = f"block {Path(log).stem}: {patches}"
        rates = [each.rate for _, each in found if each.rate]
        return f"{text} ({sum(rates):,.0f} in {len(rates)} blocks)" if len(rates) > 1 else text

    def seconds_left(self, now: float) -> float | None:
        """Return the time left, if the finished jobs are a sample of each step of blocks that is
        left; other steps count once one of them has finished. None if jobs failed and none runs."""
        if self._failed and not self._running:
            return None
        work = 0.0
        for name, step in self._steps.items():
            running = [job for job in self._running.values() if job.step == name]
            waiting = step.total - step.done - len(running)
            mean = self._mean(name, running, now)
            if mean is None:
                if name != OTHERS and waiting + len(running):
                    return None
                continue
            work += mean * waiting + sum(max(0.0, mean - (now - job.start)) for job in running)
        elapsed = now - self.start
        busy = sum(self._busy.values()) + sum(now - job.start for job in self._running.values())
        if not work or elapsed <= 0 or busy <= 0:
            return None
        return work / max(busy / elapsed, 0.1)

    def _mean(self, name: str, running: Iterable[_Job], now: float) -> float | None:
        """Return the mean seconds of a job of a step, from finished jobs or finished patches."""
        if self._ended.get(name):
            return self._busy[name] / self._ended[name]
        if name != "infer":
            return None
        estimates = [
            (now - job.start) * patches.total / patches.done
            for job in running
            if job.log and (patches := patches_of(job.log)) and patches.done and patches.rate
        ]
        return sum(estimates) / len(estimates) if estimates else None
