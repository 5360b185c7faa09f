"""The simulated schedule of a run, compared with schedules worked out by hand."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tessera_flow.jobs.plan.bottleneck import MOST_JOBS, dominated_by
from tessera_flow.jobs.plan.simulate import Job, Limits, simulate


def chains(number: int, downloads: int = 2, seconds: tuple[float, float] = (10, 30)) -> list[Job]:
    """Return blocks of some downloads and one inference, which has a higher priority."""
    jobs: list[Job] = []
    for block in range(number):
        first = len(jobs)
        jobs += [
            Job("download", seconds[0], -block, uses={"downloads": 1}, block=block,
                starts_block=True)
            for _ in range(downloads)
        ]  # fmt: skip
        needs = tuple(range(first, len(jobs)))
        jobs.append(
            Job("infer_cpu", seconds[1], 100 - block, needs, 2, block=block, ends_block=True)
        )
    return jobs


def test_a_chain_takes_the_sum_of_its_jobs() -> None:
    jobs = [Job("a", 3), Job("b", 5, needs=(0,)), Job("c", 7, needs=(1,))]
    done = simulate(jobs, Limits(cores=8, overhead=1))
    assert list(done.starts) == [0, 4, 10]
    assert done.seconds == 18
    assert simulate([], Limits(cores=1)).seconds == 0


def test_a_job_may_only_need_earlier_ones() -> None:
    with pytest.raises(ValueError, match=r"job 0 \(a\) needs job 0"):
        simulate([Job("a", 1, needs=(0,))], Limits(cores=1))


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        # 2 blocks: both downloads of the first, its inference on both cores, then the second.
        (Limits(cores=2), 10 + 30 + 10 + 30),
        (Limits(cores=4), 10 + 30),  # all downloads, both inferences
        (Limits(cores=3), 10 + 30 + 10 + 30 - 10),  # a download runs beside the first inference
        (Limits(cores=1), 2 * (20 + 30)),  # two threads are too many: it gets one
        (Limits(cores=8, resources={"downloads": 1}), 40 + 30),
        (Limits(cores=8, in_flight=1), 2 * 40),
        (Limits(cores=8, in_flight=2), 40),
        # The first inference with one download after another, then the second inference.
        (Limits(jobs=2), 10 + 20 + 30),
        (Limits(jobs=9), 40),
        # Two starts in 100 s: downloads at 0 and 0; an inference and a download at 100, the last
        # download at 200, and its inference at 210.
        (Limits(jobs=9, starts=(2, 100.0)), 210 + 30),
        (Limits(cores=2, overhead=1), 2 * (11 + 31)),
    ],
)
def test_limits(limits: Limits, seconds: float) -> None:
    assert simulate(chains(2), limits).seconds == pytest.approx(seconds)


def test_gpus_and_memory() -> None:
    jobs = [Job("infer_gpu", 10, uses={"gpu": 1, "mem_mb": 4000}) for _ in range(6)]
    for resources, seconds in (
        ({}, 10),
        ({"gpu": 2}, 30),
        ({"mem_mb": 8000}, 30),
        ({"gpu": 1, "mem_mb": 100_000}, 60),
        ({"mem_mb": 1}, 60),  # more than all: one at a time
    ):
        assert simulate(jobs, Limits(cores=64, resources=resources)).seconds == seconds


def test_a_job_that_does_not_fit_is_overtaken() -> None:
    """As in Snakemake: nothing is reserved for a job with a higher priority."""
    jobs = [Job("long", 10, 9.0), Job("wide", 10, 5.0, threads=2), Job("short", 4)]
    assert list(simulate(jobs, Limits(cores=2)).starts) == [0, 10, 0]


def test_local_jobs_of_a_cluster_use_the_cores_of_the_login_node() -> None:
    jobs = [Job("download", 10, local=True) for _ in range(4)] + [Job("infer_cpu", 15)]
    done = simulate(jobs, Limits(jobs=1, local_cores=2))
    assert done.seconds == 20 and done.starts[4] == 0


def test_starts_at_times_that_are_rounded() -> None:
    """0.1 + 10 - 10 is less than 0.1: a simulation that waits for it never ends."""
    jobs = [Job("first", 0.1)] + [Job("second", 0.3, needs=(0,)) for _ in range(40)]
    done = simulate(jobs, Limits(cores=64, starts=(3, 10.0), overhead=0.0871))
    assert done.seconds == pytest.approx(0.1871 + 130 + 0.3871, abs=10)


def test_disk_is_that_of_the_blocks_in_progress() -> None:
    jobs = chains(3)
    spans = {0: (0, 2), 1: (3, 5), 2: (6, 8)}
    sizes = {0: 1.0, 1: 2.0, 2: 4.0}
    assert simulate(jobs, Limits(cores=64)).peak(spans, sizes) == 7
    assert simulate(jobs, Limits(cores=64, in_flight=1)).peak(spans, sizes) == 4
    assert simulate([], Limits(cores=1)).peak({}, {}) == 0


def test_what_dominates_many_jobs_that_take_no_time() -> None:
    """Only their starts take time."""
    jobs = chains(MOST_JOBS // 2 + 1, seconds=(0.0, 0.0))
    assert dominated_by(jobs, Limits(jobs=64), 1.0).endswith("(0% of the time of all jobs)")


def test_what_dominates() -> None:
    jobs = chains(8, seconds=(1.0, 60.0))
    limits = Limits(cores=2, resources={"downloads": 4, "mem_mb": 10**6})
    text = dominated_by(jobs, limits, simulate(jobs, limits).seconds)
    assert text == "inference (98% of the wall time); twice the cores would save 50%"
    slow = chains(8, seconds=(60.0, 1.0))
    limits = Limits(cores=64, resources={"downloads": 2})
    text = dominated_by(slow, limits, simulate(slow, limits).seconds)
    assert text.startswith("downloads (100% of the wall time); twice the concurrent downloads")
    one, cluster = chains(1), Limits(jobs=64)
    text = dominated_by(one, cluster, simulate(one, cluster).seconds)
    assert text.endswith("no limit: the steps of a block wait for each other")
    # One block takes as many cores as there are.
    few = Limits(cores=2)
    text = dominated_by(one, few, simulate(one, few).seconds)
    assert text == "inference (75% of the wall time); twice the cores would save 38%"
    many = replace(limits, overhead=100.0)
    text = dominated_by(slow, many, simulate(slow, many).seconds)
    assert text.startswith("the start of jobs (6")
    assert dominated_by([], limits, 0.0) == ""


def test_a_country_is_simulated_in_seconds() -> None:
    """2,500 blocks of ten jobs."""
    jobs = chains(2500, downloads=9)
    start = time.process_time()
    limits = Limits(jobs=100, resources={"downloads": 24}, starts=(50, 60.0), overhead=30.0)
    done = simulate(jobs, limits)
    assert time.process_time() - start < 10
    # 25,000 starts, 50 a minute
    assert done.seconds >= 25_000 / 50 * 60 - 60
