"""Progress of a run in place of three messages per job: `snakemake --logger tessera-flow`.

Warnings, errors and everything that is not known to be routine are shown as Snakemake shows them;
its own log file under `.snakemake/log` is complete. Checked on Snakemake 9.27.1.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from snakemake.logging import (
    ColorizingTextHandler,
    DefaultFormatter,
    LogEvent,
    LogHandlerBase,
    LogHandlerSettingsBase,
)

from tessera_flow.jobs.state.progress import RunProgress

_ROUTINE_EVENTS = {
    LogEvent.GROUP_INFO,
    LogEvent.JOB_FINISHED,
    LogEvent.JOB_INFO,
    LogEvent.JOB_STARTED,
    LogEvent.PROGRESS,
    LogEvent.RESOURCES_INFO,
    LogEvent.RULEGRAPH,
    LogEvent.RUN_INFO,
    LogEvent.SHELLCMD,
    LogEvent.WORKFLOW_STARTED,
}
_ROUTINE = re.compile(
    r"(Select jobs to execute|Execute \d+ jobs|Building DAG of jobs|Using shell|"
    r"Assuming unrestricted|Provided |Rules claiming|Removing temporary output|"
    r"Would remove temporary output|Removing output files|Job \d+ has been submitted|"
    r"(Group job|Job) \S+ has been submitted|No wall time|None$|\s*$)"
)
_INTERRUPT = re.compile(r"Terminating processes on user request|.*died with <Signals.SIGINT", re.S)
_AFTER_INTERRUPT = re.compile(
    r".*(died with <Signals.SIGINT|At least one job did not complete)", re.S
)
"""What Snakemake says of jobs that Ctrl-C has ended, which did not fail."""
_ALWAYS = {LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR, LogEvent.ERROR}


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Settings: `--logger-tessera-flow-interval`."""

    interval: float = field(
        default=60.0,
        metadata={
            "help": "Seconds between two lines where the output is no terminal",
            "type": float,
        },
    )


class LogHandler(LogHandlerBase):
    """Shows one line of progress: every minute, or, on a terminal, at its lower end."""

    def __post_init__(self) -> None:
        settings = self.common_settings
        self._all = bool(settings.verbose or settings.debug_dag)
        stream = sys.stdout if settings.dryrun else sys.stderr
        self._text = ColorizingTextHandler(nocolor=settings.nocolor, stream=stream)
        self._text.setFormatter(DefaultFormatter(settings.quiet, settings.show_failed_logs))
        self._stream = stream
        self._live = stream.isatty() and not settings.dryrun
        self._progress = RunProgress(time.monotonic())
        self._shown_live = False
        self._counted = False
        self._interrupted = False
        # Used by the thread of the handler and by that of the clock.
        self._guard = threading.RLock()
        self._stop = threading.Event()
        interval = 1.0 if self._live else getattr(self.settings, "interval", 60.0)
        self._clock = threading.Thread(target=self._tick, args=(interval,), daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message, or count the job that it is about."""
        try:
            with self._guard:
                event = getattr(record, "event", None)
                if self._all or self._is_shown(record, event):
                    self._clear()
                    self._text.emit(record)
                self._take(event, record.__dict__)
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)

    def _is_shown(self, record: logging.LogRecord, event: LogEvent | None) -> bool:
        text = str(record.msg)
        self._interrupted = self._interrupted or bool(_INTERRUPT.match(text))
        if self._interrupted and (
            event in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR) or _AFTER_INTERRUPT.match(text)
        ):
            return False
        if record.levelno >= logging.WARNING or event in _ALWAYS:
            return True
        if event is None:
            return record.levelno >= logging.INFO and not _ROUTINE.match(text)
        return event not in _ROUTINE_EVENTS

    def _take(self, event: LogEvent | None, values: dict[str, Any]) -> None:
        now, progress = time.monotonic(), self._progress
        if event == LogEvent.RUN_INFO:
            self._count(values.get("stats") or {})
        elif event == LogEvent.JOB_INFO and not self.common_settings.dryrun:
            progress.started(values["jobid"], values["rule_name"], values.get("log") or (), now)
        elif event == LogEvent.JOB_FINISHED:
            progress.finished(values["job_id"], now)
        elif event == LogEvent.JOB_ERROR:
            progress.failed(values["jobid"])
        elif event == LogEvent.GROUP_ERROR:
            for job in values.get("job_error_info") or ():
                progress.failed(job["jobid"])

    def _count(self, stats: dict[str, Any]) -> None:
        jobs = {rule: number for rule, number in stats.items() if rule != "total"}
        if self._counted or not jobs:
            return
        self._counted = True
        self._progress.count(jobs)
        total = sum(jobs.values())
        listed = ", ".join(f"{rule} {number}" for rule, number in jobs.items())
        self._write(f"{total} jobs: {listed}\n")
        if not self.common_settings.dryrun:
            self._clock.start()

    def _tick(self, interval: float) -> None:
        while not self._stop.wait(interval):
            with self._guard:
                self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if not self._live:
            self._write(f"{self._progress.line(now)}\n")
            return
        self._write(f"\r{self._progress.line(now, self._width())}\x1b[K")
        self._shown_live = True

    def _width(self) -> int:
        """Return the columns of the terminal that the line may use. `COLUMNS` of the environment
        is that of the start, so the terminal itself is asked."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return (columns or shutil.get_terminal_size().columns) - 1

    def _clear(self) -> None:
        if self._shown_live:
            self._write("\r\x1b[K")
            self._shown_live = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def close(self) -> None:
        """Stop the clock and show the last state."""
        try:
            self._stop.set()
            with self._guard:
                self._clear()
                if self._clock.is_alive():
                    self._write(f"{self._progress.line(time.monotonic())}\n")
        finally:
            super().close()

    @property
    def writes_to_stream(self) -> bool:
        """See `LogHandlerBase`."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """See `LogHandlerBase`."""
        return False

    @property
    def has_filter(self) -> bool:
        """See `LogHandlerBase`: what `quiet` excludes is not shown."""
        return False

    @property
    def has_formatter(self) -> bool:
        """See `LogHandlerBase`."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """See `LogHandlerBase`."""
        return False
