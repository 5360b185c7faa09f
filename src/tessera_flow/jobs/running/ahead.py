"""Blocks that a GPU job embeds for jobs that have not started, and how those jobs take them over.

Beside the embeddings of a block, in the folder `ahead`, while its own job has not ended:

- `<block>.lock`: locked while a job embeds the block. It contains a word while it is embedded
  ahead: if nobody holds the lock and the word is there, that job was killed, perhaps because of
  this block, and no other embeds it ahead.
- `<block>.zip`: the complete embeddings file.
- `<block>.json`: written last: what the file was made from (`BlockTask.key`), its cost, and the
  log, whose file Snakemake empties when the block's own job starts.

Everything works without it: a job that cannot lock or take over computes its block.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ...atomic import write_text
from ...concurrency import lock_for
from ...errors import OutputError, Stopped
from ...inference.block_task import BlockTask
from ...inference.worker_messages import Finished
from ..resources import rule_name

logger = logging.getLogger(__name__)

FOLDER = "ahead"
_WORD = "embedded ahead\n"


def waiting_file(work: str) -> Path:
    """Return the list of the blocks that GPUs embed in the present run."""
    return Path(work, "plan", "gpu_blocks.json")


@dataclass(frozen=True)
class WaitingBlock:
    """A block that a GPU embeds in this run.

    Attributes:
        region, period, block: its names.
        patches, weights, output: paths of its job's files.
        embeddings: path of its embeddings: the output, or made from it (`geotessera.fill`), which
            is then temporary.
        settings: parameters of its job.
        since: when this run started (ns).
    """

    region: str
    period: str
    block: str
    patches: str
    weights: str
    output: str
    embeddings: str
    settings: Mapping[str, Any]
    since: int = 0

    @property
    def names(self) -> tuple[str, str, str]:
        """Region, period and block."""
        return self.region, self.period, self.block

    @property
    def ready(self) -> bool:
        """Whether its patches are complete, and its embeddings not written by this run."""
        return os.path.exists(self.patches) and not any(
            self._is_written(path) for path in (self.output, self.embeddings)
        )

    def _is_written(self, path: str) -> bool:
        try:
            return os.stat(path).st_mtime_ns >= self.since
        except OSError:
            return False


def list_waiting(work: str, embeddings: str, jobs: Iterable[Any]) -> None:
    """Write the list of the blocks that GPUs embed in a run, in the order of their priority.

    Args:
        work: `paths.work`.
        embeddings: pattern of the embeddings of a block (`paths.RunPaths`).
        jobs: Snakemake's jobs of the run.
    """
    infer = [job for job in jobs if rule_name(job.rule.name) == "infer_gpu"]
    if not infer:
        return
    blocks = [
        WaitingBlock(
            *(job.wildcards.region, job.wildcards.period, job.wildcards.block),
            *(str(job.input.patches), str(job.input.weights), str(job.output.embeddings)),
            embeddings.format(**dict(job.wildcards.items())),
            dict(job.params.settings),
        )
        for job in sorted(infer, key=lambda job: -job.priority)
    ]
    rows = [asdict(block) for block in blocks]
    for row in rows:
        del row["since"]  # it is the time of the file
    write_text(waiting_file(work), json.dumps(rows) + "\n")


def waiting_blocks(work: str) -> list[WaitingBlock]:
    """Return the blocks that GPUs embed in the present run; none if the list cannot be read."""
    path = waiting_file(work)
    try:
        since = path.stat().st_mtime_ns
        return [WaitingBlock(**block, since=since) for block in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        logger.info("no list of waiting blocks (%s): none is embedded ahead", error)
        return []


@dataclass(frozen=True)
class AheadFiles:
    """The files beside the embeddings of one block."""

    output: Path

    @property
    def folder(self) -> Path:
        """The folder of these files."""
        return self.output.parent / FOLDER

    @property
    def embeddings(self) -> Path:
        """The embeddings file."""
        return self.folder / self.output.name

    @property
    def record(self) -> Path:
        """What the embeddings file was made from, its cost, and the log."""
        return self.folder / f"{self.output.stem}.json"

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.folder / f"{self.output.stem}.lock"

    def complete(self) -> bool:
        """Whether the block was embedded ahead."""
        return self.record.exists()

    def keep(self, key: str, cost: Finished, log: Path) -> None:
        """Keep the finished embeddings of a job that is going to embed others, in case it is killed
        and Snakemake removes its output."""
        with suppress(OSError, OutputError):  # no links here, or no space
            self.folder.mkdir(parents=True, exist_ok=True)
            self.embeddings.unlink(missing_ok=True)
            os.link(self.output, self.embeddings)
            self.write_record(key, cost, log)

    def write_record(self, key: str, cost: Finished, log: Path) -> None:
        """State that the embeddings file is complete.

        Raises:
            OutputError: it cannot be written.
            OSError: the log cannot be read.
        """
        text = log.read_text("utf-8", errors="replace")
        write_text(self.record, json.dumps({"key": key, "log": text, **asdict(cost)}) + "\n")

    def take_over(self, task: BlockTask) -> Finished | None:
        """Move the embeddings file to its place, if it is what the job would make, and log what the
        job logged that made it.

        Returns:
            What it cost; None if there is no such file.
        """
        try:
            stated = json.loads(self.record.read_text("utf-8"))
            if stated.pop("key") != task.key():
                logger.info("%s has other inputs: not used", self.embeddings)
                return None
            log = stated.pop("log")
            cost = Finished(**stated)
            os.utime(self.embeddings)  # newer than the inputs
            os.replace(self.embeddings, self.output)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            logger.warning("cannot take over %s: %s", self.embeddings, error)
            return None
        logger.info("taken over from an earlier job, with this log:\n%s", log)
        return cost

    def remove_result(self) -> None:
        """Remove a result that cannot be taken over."""
        with suppress(OSError):
            for path in (self.record, self.embeddings):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the files of this block, which is finished, and the folder if it is empty."""
        unfinished = self.folder.glob(f"{self.output.name}.*.progress")
        with suppress(OSError):
            for path in (self.record, self.embeddings, *unfinished, self.lock):
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    @contextmanager
    def claimed(self, seconds: float = 0.0) -> Iterator[IO[str] | None]:
        """Hold the lock of the block while the body runs.

        Args:
            seconds: how long to wait for another job.

        Yields:
            The lock file; None if another job holds it, or files cannot be locked here.
        """
        handle = self._locked(0)
        if handle is None and seconds:
            logger.info("another job may be embedding this block: waiting up to %.0f s", seconds)
            handle = self._locked(seconds)
        try:
            yield handle
        finally:
            if handle is not None:
                handle.close()

    def _locked(self, seconds: float) -> IO[str] | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = self.lock.open("a+", encoding="utf-8")
        except OSError:
            return None
        try:
            lock_for(handle, seconds, fcntl.lockf)
            if os.path.samestat(os.fstat(handle.fileno()), os.stat(self.lock)):
                return handle
        except OSError:
            pass
        handle.close()
        return None


def was_interrupted(lock: IO[str]) -> bool:
    """Return whether a job ended in any way while it embedded the block ahead."""
    lock.seek(0)
    return bool(lock.read())


@contextmanager
def noted(lock: IO[str]) -> Iterator[None]:
    """Note in its lock file that a block is embedded ahead; the note stays if the body fails."""
    lock.write(_WORD)
    lock.flush()
    try:
        yield
    except Stopped:  # no fault of this block
        lock.truncate(0)
        raise
    lock.truncate(0)
