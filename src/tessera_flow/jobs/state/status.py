"""Report the progress of a run, its failures and their reasons, and what to do.

Read from job logs, whose names follow from the grids.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...config.configuration import SITES, runs
from ..files import RunFiles
from ..journal import JobRecord, read_job_log
from ..measured import STAGES
from ..product_files import ProductFiles
from ..running.submission import PROGRAMS, SILENT
from ..scene_warnings import scene_warnings
from ..schedule import LAST_STEPS
from ..sites.files import SiteFiles
from .check_results import check_lines
from .outdated import outdated_now, outdated_text
from .progress import Step, minutes_text, patches_of, step_of, steps_text

_CONFIG = re.compile(r"--config(=|$)|-C")
_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"@]*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s'\"?]*|/vsi[^\s'\"?]*)\?[^\s'\",}]+")
_SECRET = re.compile(
    r"((?:password|passwd|token|secret|key|sig|signature)\w*['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+",
    re.I,
)

COMMAND_VARIABLE = "TESSERA_FLOW_COMMAND"
"""Environment variable with the command to repeat, if Snakemake was not started by the user."""

_FRONT = "tessera-flow"
_LISTED = 20
_FAILED = "failed or stopped"
_WIDTH = 1000


@dataclass(frozen=True)
class FailedJob:
    """A job that failed, was stopped or was killed.

    Attributes:
        names: region, period and block, as far as the job has them.
        record: its state.
        job_log: the file with all its attempts.
    """

    names: tuple[str, ...]
    record: JobRecord
    job_log: Path

    def line(self) -> str:
        """Return one line: block, job, attempts, reason."""
        reason = " ".join((self.record.why().strip().splitlines() or ["no reason recorded"])[-1:])
        if len(reason) > _WIDTH:
            reason = reason[:_WIDTH] + " ..."
        attempts = f"{self.record.attempts} attempts" if self.record.attempts > 1 else "1 attempt"
        where = " ".join(self.names) or "all regions"
        return f"{where}: {self.record.job} ({attempts}): {reason}"


def failed_jobs(files: RunFiles, run_ended: bool = False) -> list[FailedJob]:
    """Return the failed jobs whose results are still missing, in the order of the grids;
    `run_ended` as in `journal.unfinished`."""
    logs: list[tuple[str, ...]] = [(), *((region,) for region in files.grids)]
    for region, period in runs(files.config):
        logs.append((region, period))
        logs += [
            (region, period, block.id)
            for block in files.grids[region].blocks
            if not files.embeddings_file(region, period, block.id).exists()
        ]
    if files.config.sites.table is not None:
        sites = SiteFiles(files)
        logs += [(SITES, *u) for u in sites.units if not sites.embeddings_file(*u).exists()]
    return [
        FailedJob(names, record, files.job_log_file(*names))
        for names in logs
        for record in files.failures(*names, run_ended=run_ended)
    ]


def blocks_of(jobs: Sequence[FailedJob]) -> list[tuple[str, ...]]:
    """Return (region, period, block) of the failed jobs of blocks, each once."""
    return list(dict.fromkeys(job.names for job in jobs if len(job.names) == 3))


def end_of_run(files: RunFiles, command: Sequence[str]) -> str:
    """Return the summary of a run that failed: jobs, reasons, and the command to continue.

    Args:
        files: the files of the run.
        command: the command line of the run.
    """
    failed = failed_jobs(files, run_ended=True)
    blocks = blocks_of([job for job in failed if job.record.state != "refused"])
    lines = ["", "Failed jobs:"]
    lines += [f"  {job.line()}" for job in failed[:_LISTED]]
    if len(failed) > _LISTED:
        lines.append(f"  and {len(failed) - _LISTED} more")
    if not failed:
        lines.append(
            "  none is recorded: the run was interrupted, or the reason is in the messages above "
            "and in Snakemake's log"
        )
    if failed:
        lines.append(f"All attempts are recorded, those of the first job in {failed[0].job_log}")
    command = users_command(command)
    again = command_line(command)
    lines += ["To compute what is missing, and nothing else, repeat the command:", f"  {again}"]
    if blocks and files.config.jobs.on_failed_block == "fail":
        count = f"{len(blocks)} failed block" + ("s" if len(blocks) > 1 else "")
        lines += [
            f"To write the products now, without embeddings of the {count}:",
            f"  {command_line(with_config(command, 'jobs={on_failed_block: skip}'))}",
        ]
    if "***" in again:
        lines.append("Put what has been replaced by *** in its place.")
    return "\n".join(lines) + "\n"


def users_command(command: Sequence[str]) -> Sequence[str]:
    """Return the command that the user gave: that of `tessera-flow run`, if it started Snakemake
    with `command`."""
    return shlex.split(os.environ.get(COMMAND_VARIABLE, "")) or command


def with_argument(command: Sequence[str], word: str) -> list[str]:
    """Return a command with one more argument for Snakemake, and without a dry run."""
    kept = [part for part in command if part not in ("-n", "--dry-run", "--dryrun")]
    more = ["--"] if command[0] == _FRONT and "--" not in command else []
    return [*kept, *more, word]


def command_line(command: Sequence[str]) -> str:
    """Return a command line of Snakemake, or of `tessera-flow run`, as text for a shell, without
    secrets."""
    program = _FRONT if command[0] == _FRONT else "snakemake"
    return shlex.join([program, *(_without_secrets(part) for part in command[1:])])


def _without_secrets(argument: str) -> str:
    """Return an argument with the user names, passwords and queries of its URLs as `***`, and the
    values of settings that are named as secrets."""
    argument = _LOGIN.sub(r"\1***@", argument)
    argument = _QUERY.sub(r"\1?***", argument)
    return _SECRET.sub(r"\1***", argument)


def with_config(command: Sequence[str], entry: str) -> list[str]:
    """Return a command line of Snakemake, or of `tessera-flow run` with arguments for Snakemake
    after `--`, with one more entry of --config.

    Of several options --config Snakemake uses the last one only, so the entry is added to it;
    entries of one section are merged.
    """
    options = [n for n, part in enumerate(command) if _CONFIG.match(part)]
    if not options:
        more = ["--"] if command[0] == _FRONT and "--" not in command else []
        return [*command, *more, "--config", entry]
    start = options[-1]
    option, equals, first = command[start].partition("=")
    if option.startswith("-C") and len(option) > 2:  # -Cname=value
        equals, first, option = "=", command[start][2:].removeprefix("="), "-C"
    end = start + 1
    if not equals:
        while end < len(command) and not command[end].startswith("-"):
            end += 1
    entries = [first] if equals else list(command[start + 1 : end])
    return [*command[:start], option, *entries, entry, *command[end:]]


def duration(hours: float) -> str:
    """Return hours, or minutes below one hour, as text."""
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"


def status(files: RunFiles) -> str:
    """Return the number of blocks by state, of jobs by step, the rate and the time left, the jobs
    that run with their patches, and failures."""
    counts: Counter[str] = Counter()
    steps: dict[str, Step] = {}
    finished, running = [], []
    last_steps = ("fill",) if files.config.fills else LAST_STEPS
    for region, period in runs(files.config):
        expected = files.jobs_of_block(region, period)
        for block in files.grids[region].blocks:
            records = read_job_log(files.job_log_file(region, period, block.id))
            done = files.embeddings_file(region, period, block.id).exists()
            counts[_state(records, done)] += 1
            _count_steps(steps, expected, records, done)
            if done:
                finished += [r.time for r in records if r.rule.startswith(last_steps)]
            else:
                names = (region, period, block.id)
                running += [_running_line(files, names, r) for r in records if r.running]
    total = sum(counts.values())
    lines = [text] if (text := SiteFiles(files).progress_text()) else []
    if total or not lines:
        lines.append(f"{counts['done']} of {total} blocks have embeddings.")
        lines += [f"  {state}: {number}" for state, number in sorted(counts.items())]
        lines.append(f"Jobs done of all: {steps_text(steps)}.")
    lines += _products_line(files)
    rate = _blocks_per_hour(finished)
    left = total - counts["done"] - counts[_FAILED]  # a failed block may fail again
    if rate and left:
        time_left = minutes_text(3600 * left / rate)
        lines.append(f"{rate:.1f} blocks per hour recently; about {time_left} left.")
    running += _running_products(files)
    lines += unanswered_states()
    if running:
        lines += ["Running:", *running[:_LISTED]]
    if len(running) > _LISTED:
        lines.append(f"  and {len(running) - _LISTED} more")
    lines += [f"Warning: {text}" for text in _warnings(files)]
    lines += check_lines(files)
    failed = failed_jobs(files)
    lines += ["Failed:"] if failed else []
    lines += [f"  {job.line()}" for job in failed[:_LISTED]]
    if len(failed) > _LISTED:
        lines.append(f"  and {len(failed) - _LISTED} more failures")
    return "\n".join(lines) + "\n"


def unanswered_states() -> list[str]:
    """Return a line if Slurm does not answer the run in the working directory."""
    lines = []
    for path in Path(PROGRAMS).glob(f"*{SILENT}"):
        with contextlib.suppress(OSError):
            since = datetime.datetime.fromtimestamp(path.stat().st_mtime).astimezone()
            text = " ".join(path.read_text(encoding="utf-8", errors="replace").split())
            lines.append(
                f"Slurm has not answered since {since:%Y-%m-%d %H:%M} ({text[:_WIDTH]}): its jobs "
                "are taken as running."
            )
    return lines


def _warnings(files: RunFiles) -> list[str]:
    """Return the warnings about files of other settings and about scenes."""
    outdated, problems = outdated_now(files)
    problems += outdated_text(outdated, "the next run makes it again")
    return [*problems, *scene_warnings(files, of_blocks=True)]


def _products_line(files: RunFiles) -> list[str]:
    """Return how many product files exist; nothing without products."""
    paths = [*ProductFiles(files).all(), *SiteFiles(files).products()]
    if not paths:
        return []
    done = sum(Path(path).exists() for path in paths)
    return [f"{done} of {len(paths)} product files exist."]


def _running_products(files: RunFiles) -> list[str]:
    """Return a line for each job of a region or period that runs."""
    logs = [*((region,) for region in files.grids), *runs(files.config)]
    return [
        _line_of_job(names, record)
        for names in logs
        for record in read_job_log(files.job_log_file(*names))
        if record.running
    ]


def _count_steps(
    steps: dict[str, Step],
    expected: Mapping[str, int],
    records: Sequence[JobRecord],
    block_done: bool,
) -> None:
    """Add the jobs of a block; all jobs of a block with embeddings are done."""
    for name, number in expected.items():
        step = steps.setdefault(name, Step())
        of_step = [r for r in records if step_of(r.rule) == name]
        step.total += number
        if block_done:
            step.done += number
            continue
        if name != list(expected)[-1]:  # whose result is missing
            step.done += min(number, sum(r.state == "done" for r in of_step))
        step.running += sum(r.running for r in of_step)
        step.failed += sum(r.state != "done" and not r.running for r in of_step)


def _line_of_job(names: tuple[str, ...], record: JobRecord) -> str:
    """Return one line: region, period and block, job, how long it has run."""
    start = datetime.datetime.fromisoformat(record.time)
    seconds = (datetime.datetime.now(datetime.UTC) - start).total_seconds()
    return f"  {' '.join(names)}: {record.job} for {minutes_text(max(0.0, seconds))}"


def _running_line(files: RunFiles, names: tuple[str, str, str], record: JobRecord) -> str:
    """Return one line: block, job, how long it has run, finished patches."""
    line = _line_of_job(names, record)
    patches = patches_of(files.infer_log(*names)) if record.rule.startswith("infer") else None
    return f"{line}, {patches}" if patches else line


def _state(records: Sequence[JobRecord], done: bool) -> str:
    """Return the state of a block in a few words."""
    if done:
        return "done"
    running = [r for r in records if r.running]
    if running:
        return f"running {running[-1].rule.split('_')[0]}"
    if any(r.state != "done" for r in records):
        return _FAILED
    reached = [stage for stage in STAGES for r in records if r.rule.split("_")[0] == stage]
    return f"waiting after {reached[-1]}" if reached else "not started"


def _blocks_per_hour(finished: Sequence[str]) -> float:
    """Return the rate of the latest 50 finished blocks (ISO times)."""
    times = sorted(datetime.datetime.fromisoformat(text) for text in finished)[-50:]
    if len(times) < 2:
        return 0.0
    seconds = (times[-1] - times[0]).total_seconds()
    return 3600 * (len(times) - 1) / seconds if seconds else 0.0
