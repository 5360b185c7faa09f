"""What a user is told at the end of a run, and in between: which blocks are done, which failed,
why, and what to do. Read from verdicts, whose names follow from the plan."""

from __future__ import annotations

import datetime
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config.configuration import runs
from .files import RunFiles
from .journal import JobRecord, read_job_log
from .schedule import LAST_STEPS, STAGES

_SHOWN = 20
_WIDTH = 1000


@dataclass(frozen=True)
class Failure:
    """A job that did not end well.

    Attributes:
        place: region, period and block, as far as the job has them.
        verdict: what is known of it.
        file: where all its attempts are recorded.
    """

    place: tuple[str, ...]
    verdict: JobRecord
    file: Path

    def line(self) -> str:
        """One line: where, what, how often, why."""
        reason = " ".join((self.verdict.why().strip().splitlines() or ["no reason recorded"])[-1:])
        if len(reason) > _WIDTH:
            reason = reason[:_WIDTH] + " ..."
        tried = f"{self.verdict.attempts} attempts" if self.verdict.attempts > 1 else "1 attempt"
        where = " ".join(self.place) or "all regions"
        return f"{where}: {self.verdict.job} ({tried}): {reason}"


def failures(run: RunFiles, over: bool = False) -> list[Failure]:
    """Jobs that did not end well and are still wanted, in the order of the plan; `over` as in
    `verdicts.unfinished`."""
    places: list[tuple[str, ...]] = [(), *((region,) for region in run.grids)]
    for region, period in runs(run.config):
        places.append((region, period))
        places += [
            (region, period, block.id)
            for block in run.grids[region].blocks
            if not run.embeddings_file(region, period, block.id).exists()
        ]
    return [
        Failure(place, verdict, run.job_log_file(*place))
        for place in places
        for verdict in run.failures(*place, over=over)
    ]


def blocks_that_failed(found: Sequence[Failure]) -> list[tuple[str, ...]]:
    """The blocks among the failures, each once."""
    return list(dict.fromkeys(f.place for f in found if len(f.place) == 3))


def end_of_run(run: RunFiles, command: Sequence[str]) -> str:
    """The end of a run that failed: what, why, and the command that computes it.

    Args:
        run: the run.
        command: the command line that was run.
    """
    found = failures(run, over=True)
    blocks = blocks_that_failed(found)
    lines = ["", "What failed, and why:"]
    lines += [f"  {failure.line()}" for failure in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"  and {len(found) - _SHOWN} more")
    if not found:
        lines.append("  nothing that left a record: see the messages above and the log below")
    if found:
        lines.append(f"Every attempt is recorded, the first of these in {found[0].file}")
    again = shlex.join(["snakemake", *command[1:]])
    lines += ["This computes what is missing, and nothing that is there:", f"  {again}"]
    if blocks and run.config.jobs.on_failed_block == "fail":
        lines += [
            f"This publishes without the failed blocks ({len(blocks)}), which become holes:",
            f"  {again} --config 'jobs={{on_failed_block: skip}}'",
        ]
    return "\n".join(lines) + "\n"


def duration(hours: float) -> str:
    """Hours, or minutes below one, to be read by people."""
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"


def status(run: RunFiles) -> str:
    """Blocks by state and step, failures with reasons, the rate and the time left.

    Only files whose names follow from the plan are looked at.
    """
    counts: Counter[str] = Counter()
    finished = []
    for region, period in runs(run.config):
        for block in run.grids[region].blocks:
            verdicts = read_job_log(run.job_log_file(region, period, block.id))
            there = run.embeddings_file(region, period, block.id).exists()
            counts[_state(verdicts, there)] += 1
            if there:
                finished += [v.time for v in verdicts if v.rule.startswith(LAST_STEPS)]
    total = sum(counts.values())
    lines = [f"{counts['done']} of {total} blocks have embeddings."]
    lines += [f"  {state}: {number}" for state, number in sorted(counts.items())]
    rate = _blocks_per_hour(finished)
    left = total - counts["done"]
    if rate and left:
        wait = duration(left / rate)
        lines.append(f"{rate:.1f} blocks an hour lately; at that rate {wait} are left.")
    found = failures(run)
    lines += [f"  {failure.line()}" for failure in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"  and {len(found) - _SHOWN} more failures")
    return "\n".join(lines) + "\n"


def _state(verdicts: Sequence[JobRecord], there: bool) -> str:
    """Of a block, in a word or two."""
    if there:
        return "done"
    running = [v for v in verdicts if v.running]
    if running:
        return f"in {running[-1].rule.split('_')[0]}"
    if any(v.state != "done" for v in verdicts):
        return "failed or stopped"
    reached = [stage for stage in STAGES for v in verdicts if v.rule.split("_")[0] == stage]
    return f"waiting after {reached[-1]}" if reached else "not begun"


def _blocks_per_hour(finished: Sequence[str]) -> float:
    """From the times at which the latest blocks were finished."""
    times = sorted(datetime.datetime.fromisoformat(text) for text in finished)[-50:]
    if len(times) < 2:
        return 0.0
    seconds = (times[-1] - times[0]).total_seconds()
    return 3600 * (len(times) - 1) / seconds if seconds else 0.0
