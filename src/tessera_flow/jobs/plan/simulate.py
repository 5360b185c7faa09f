"""Simulate how Snakemake works through the jobs of a run, to estimate its wall time.

As in Snakemake with its greedy scheduler: whenever a job ends, the jobs that are ready are started
in the order of their priorities, as far as the remaining cores, jobs and resources allow. Nothing
is reserved for a job that does not fit.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

PLACES = "places"
"""Resource of `Limits.jobs`: a job in the queue of a cluster takes one place."""
CORES = "cores"
LOCAL_CORES = "local_cores"
"""Cores of the machine that runs Snakemake, for the local jobs of a run on a cluster."""


@dataclass(frozen=True)
class Job:
    """One job, or a group of jobs that a cluster runs as one.

    Attributes:
        rule: its rule.
        seconds: duration without `Limits.overhead`.
        priority: a higher one is started first.
        needs: indices of the jobs that must have ended.
        threads: cores.
        uses: resources, such as `mem_mb`, `gpu` and `downloads`.
        block: number of its block, in the order in which blocks are admitted; None without one.
        starts_block: it may start only when its block is admitted (`Limits.in_flight`).
        ends_block: when it ends, the next block is admitted.
        local: on a cluster, it runs on the machine that runs Snakemake.
        members: number of Snakemake jobs in it.
    """

    rule: str
    seconds: float
    priority: float = 0.0
    needs: tuple[int, ...] = ()
    threads: int = 1
    uses: Mapping[str, int] = field(default_factory=dict)
    block: int | None = None
    starts_block: bool = False
    ends_block: bool = False
    local: bool = False
    members: int = 1


@dataclass(frozen=True)
class Limits:
    """What limits the jobs that run at the same time.

    Attributes:
        cores: of this machine; None on a cluster.
        jobs: jobs in the queue of a cluster; None on this machine.
        local_cores: of the machine that runs Snakemake, for local jobs of a run on a cluster.
        resources: totals of other resources; those that are absent are not limited.
        in_flight: blocks in progress.
        starts: (number, seconds): at most so many jobs are started in so many seconds.
        overhead: seconds of each job beyond its work: start of Python, noticing its end.
        threads: cores of the jobs of a rule, where they differ from those of the rule.
    """

    cores: int | None = None
    jobs: int | None = None
    local_cores: int = 2
    resources: Mapping[str, int] = field(default_factory=dict)
    in_flight: int | None = None
    starts: tuple[int, float] | None = None
    overhead: float = 0.0
    threads: Mapping[str, int] = field(default_factory=dict)

    @property
    def on_cluster(self) -> bool:
        """Whether jobs are submitted to a cluster."""
        return self.jobs is not None

    def totals(self) -> dict[str, int]:
        """Return all limited resources with their totals."""
        totals = dict(self.resources)
        if self.jobs is not None:
            totals |= {PLACES: self.jobs, LOCAL_CORES: self.local_cores}
        if self.cores is not None:
            totals[CORES] = self.cores
        return totals


@dataclass(frozen=True)
class Simulated:
    """The schedule of a run.

    Attributes:
        seconds: wall time.
        starts, ends: seconds of each job, from the start of the run.
    """

    seconds: float
    starts: Sequence[float]
    ends: Sequence[float]

    def peak(self, spans: Mapping[int, tuple[int, int]], sizes: Mapping[int, float]) -> float:
        """Return the largest sum of sizes at one time.

        Args:
            spans: (first job, last job) by block: between the start of the one and the end of the
                other it has its size.
            sizes: by block.
        """
        changes = [(self.starts[first], sizes[block]) for block, (first, _) in spans.items()]
        changes += [(self.ends[last], -sizes[block]) for block, (_, last) in spans.items()]
        size = largest = 0.0
        for _, change in sorted(changes):
            size += change
            largest = max(largest, size)
        return largest


def simulate(
    jobs: Sequence[Job], limits: Limits, seconds: Callable[[Job], float] = lambda job: job.seconds
) -> Simulated:
    """Return the schedule of all jobs.

    Args:
        jobs: those that a job needs come before it.
        limits: see `Limits`.
        seconds: duration of a job without the overhead.

    Raises:
        ValueError: a job needs one that comes after it.
    """
    return _Simulation(jobs, limits, seconds).run()


class _Simulation:
    """The state of a simulation.

    Ready jobs are in one heap for each combination of resources, so that only the first of each
    has to be compared.
    """

    def __init__(
        self, jobs: Sequence[Job], limits: Limits, seconds: Callable[[Job], float]
    ) -> None:
        self.jobs, self.limits, self.seconds = jobs, limits, seconds
        self.totals = limits.totals()
        self.free = dict(self.totals)
        self.time = 0.0
        self.starts = [0.0] * len(jobs)
        self.ends = [0.0] * len(jobs)
        self.missing = [len(job.needs) for job in jobs]
        self.followers: list[list[int]] = [[] for _ in jobs]
        for number, job in enumerate(jobs):
            for need in job.needs:
                if need >= number:
                    raise ValueError(f"job {number} ({job.rule}) needs job {need}")
                self.followers[need].append(number)
        self.demands = [self._demand(job) for job in jobs]
        self.ready: dict[tuple[tuple[tuple[str, int], ...], bool], list[tuple[float, int]]] = {}
        self.running: list[tuple[float, int]] = []
        self.recent: deque[float] = deque()
        self.ended_blocks = 0

    def _demand(self, job: Job) -> tuple[tuple[str, int], ...]:
        needs = dict(job.uses)
        if self.limits.on_cluster:
            needs[LOCAL_CORES if job.local else PLACES] = job.threads if job.local else 1
        else:
            needs[CORES] = job.threads
        # Snakemake gives a job as many threads as there are cores, and scales no other resource.
        return tuple(
            sorted((name, min(n, self.totals[name])) for name, n in needs.items()
                   if n and name in self.totals)
        )  # fmt: skip

    def run(self) -> Simulated:
        for number, missing in enumerate(self.missing):
            if not missing:
                self._make_ready(number)
        while True:
            self._start_all()
            if self.running:
                self._wait()
            elif any(self.ready.values()):
                self._next_start()  # only the number of starts can hold them up
            else:
                return Simulated(max(self.ends, default=0.0), self.starts, self.ends)

    def _make_ready(self, number: int) -> None:
        job = self.jobs[number]
        key = (self.demands[number], job.starts_block)
        heapq.heappush(self.ready.setdefault(key, []), (-job.priority, number))

    def _start_all(self) -> None:
        while self._may_start():
            heaps = [
                heap
                for (demand, starts_block), heap in self.ready.items()
                if heap
                and all(self.free[name] >= n for name, n in demand)
                and (not starts_block or not self.running or self._admitted(heap[0][1]))
            ]
            if not heaps:
                return
            _, number = heapq.heappop(min(heaps, key=lambda heap: heap[0]))
            job = self.jobs[number]
            for name, n in self.demands[number]:
                self.free[name] -= n
            self.starts[number] = self.time
            self.ends[number] = self.time + self.limits.overhead + self.seconds(job)
            heapq.heappush(self.running, (self.ends[number], number))
            if self.limits.starts is not None:
                self.recent.append(self.time)

    def _may_start(self) -> bool:
        if self.limits.starts is None:
            return True
        most, span = self.limits.starts
        # The sum as in `_wait`: rounded otherwise, this time would never come.
        while self.recent and self.recent[0] + span <= self.time:
            self.recent.popleft()
        return len(self.recent) < most

    def _admitted(self, number: int) -> bool:
        limit, block = self.limits.in_flight, self.jobs[number].block
        return limit is None or block is None or block < limit + self.ended_blocks

    def _wait(self) -> None:
        """Go to the next end of a job, or to the next time at which jobs may be started."""
        if not self._may_start() and any(self.ready.values()):
            again = self.recent[0] + self._span
            if again < self.running[0][0]:
                self.time = again
                return
        self.time = self.running[0][0]
        while self.running and self.running[0][0] == self.time:
            _, number = heapq.heappop(self.running)
            for name, n in self.demands[number]:
                self.free[name] += n
            self.ended_blocks += self.jobs[number].ends_block
            for follower in self.followers[number]:
                self.missing[follower] -= 1
                if not self.missing[follower]:
                    self._make_ready(follower)

    def _next_start(self) -> None:
        self.time = self.recent[0] + self._span

    @property
    def _span(self) -> float:
        return self.limits.starts[1] if self.limits.starts is not None else 0.0
