"""Find what decides the wall time of a run, by simulating it with other times and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..state.progress import OTHERS, step_of
from .simulate import CORES, Job, Limits, simulate

MOST_JOBS = 60_000
"""Larger runs are not simulated again; the shares of the steps decide."""
LEAST = 0.05
"""A limit is named if twice as much shortens the run by this share."""

_STEPS = {
    "download": "downloads",
    "stack": "stacking",
    "retile": "retiling",
    "infer": "inference",
    "import": "the import",
    OTHERS: "lists, products and reports",
}
_LIMITS = {"mem_mb": "memory", "downloads": "concurrent downloads", "gpu": "GPUs"}


def dominated_by(jobs: Sequence[Job], limits: Limits, seconds: float) -> str:
    """Return what decides the wall time: the step that shortens it most if it takes half as long,
    and the limit that shortens it most if there is twice as much; empty without jobs."""
    if not jobs or not seconds:
        return ""
    steps = {step_of(job.rule) for job in jobs}
    if len(jobs) > MOST_JOBS:
        busy = {name: sum(j.seconds for j in jobs if step_of(j.rule) == name) for name in steps}
        name = max(busy, key=lambda name: busy[name])
        total = sum(busy.values()) or 1.0  # jobs that take no time
        return f"{_STEPS[name]} ({busy[name] / total:.0%} of the time of all jobs)"
    saved = {name: 1 - _halved(jobs, limits, name) / seconds for name in sorted(steps)}
    overhead = 1 - simulate(jobs, replace(limits, overhead=limits.overhead / 2)).seconds / seconds
    name = max(saved, key=lambda name: saved[name])
    if overhead > saved[name]:
        text = f"the start of jobs ({2 * overhead:.0%} of the wall time)"
    else:
        text = f"{_STEPS[name]} ({min(1.0, 2 * saved[name]):.0%} of the wall time)"
    gains = {
        limit: 1
        - simulate(_divided(jobs, more) if limit == CORES else jobs, more).seconds / seconds
        for limit, more in _doubled(limits).items()
    }
    limit = max(gains, key=lambda limit: gains[limit], default="")
    if limit and gains[limit] >= LEAST:
        return f"{text}; twice the {limit} would save {gains[limit]:.0%}"
    return f"{text}; no limit: the steps of a block wait for each other"


def _divided(jobs: Sequence[Job], limits: Limits) -> Sequence[Job]:
    """Return the jobs with twice the threads for inference, if a run with twice the cores has
    fewer blocks than can use them (`Schedule.threads`)."""
    of_cpus = [job for job in jobs if job.rule == "infer_cpu"]
    if not of_cpus or 2 * sum(job.threads for job in of_cpus) > (limits.cores or 0):
        return jobs
    return [
        replace(job, threads=2 * job.threads, seconds=job.seconds / 2)
        if job.rule == "infer_cpu"
        else job
        for job in jobs
    ]


def _halved(jobs: Sequence[Job], limits: Limits, name: str) -> float:
    return simulate(
        jobs, limits, lambda job: job.seconds * (0.5 if step_of(job.rule) == name else 1.0)
    ).seconds


def _doubled(limits: Limits) -> dict[str, Limits]:
    """Return the limits with twice of each, by name."""
    more = {
        text: replace(limits, resources={**limits.resources, name: 2 * limits.resources[name]})
        for name, text in _LIMITS.items()
        if name in limits.resources
    }
    if limits.cores is not None:
        more[CORES] = replace(limits, cores=2 * limits.cores)
    if limits.jobs is not None:
        more["jobs in the queue"] = replace(limits, jobs=2 * limits.jobs)
    if limits.in_flight is not None:
        more["disk (jobs.max_disk_gb)"] = replace(limits, in_flight=2 * limits.in_flight)
    if limits.starts is not None:
        number, seconds = limits.starts
        more["starts per minute"] = replace(limits, starts=(2 * number, seconds))
    return more
