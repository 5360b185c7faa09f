"""The job of the rules `infer_cpu` and `infer_gpu`: its own block, and on a GPU blocks that wait.

Every block has a job of its own, with its output, log and failures. A job on a GPU whose block
took little time embeds other blocks as well, with the model that it has (`jobs.gpu_job_minutes`);
their jobs take over the results in a second. See `ahead`.
"""

from __future__ import annotations

import logging
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...config.configuration import Config
from ...errors import ConfigError, Stopped, TesseraFlowError
from ...inference.block_task import BlockTask
from ...inference.worker_messages import Finished, Setup
from ...models.weights_record import read_weights_record
from ...region.needed import NOT_NEEDED
from ...signals import StopRequest
from ..block_attributes import read_attributes
from ..journal import LOG_FORMAT, JobCost, job_log_path, record_job
from ..made_from import record_of_job, settings_hash
from ..paths import compiled_folder
from .ahead import AheadFiles, WaitingBlock, noted, waiting_blocks, was_interrupted
from .staging import staged
from .worker_process import WorkerEnded, WorkerProcess

logger = logging.getLogger(__name__)

OF_LIMIT = 0.8
"""Share of its time limit after which a job embeds no other block."""
MARGIN = 1.5
"""Assumed time of the next block, relative to the longest so far."""


@dataclass
class InferJob:
    """One job.

    Attributes:
        config: of the run.
        kind: `cpu` or `gpu`.
        stop: request to stop.
        cost: of the job, for the job log; set here.
        log: its log file.
        runtime: its time limit in minutes; 0 if there is none.
    """

    config: Config
    kind: str
    stop: StopRequest
    cost: JobCost
    log: str
    runtime: int

    def run(self, task: BlockTask) -> None:
        """Embed the block of the job; then, on a GPU, blocks that wait.

        Raises:
            TesseraFlowError: the block of the job failed. Failures of other blocks are those of
                their own jobs.
        """
        if self.kind == "gpu" and self.config.jobs.gpu_job_minutes:
            self._run_with_worker(task)
            return
        # PyTorch is imported here, not by jobs that have a worker.
        from ...inference.device import job_device
        from ...inference.worker import embed_block

        model, jobs = self.config.model, self.config.jobs
        with job_device(self.kind, model.device, jobs.on_missing_gpu) as device:
            embed_block(self._staged(task), device, self.stop)
        AheadFiles(Path(task.output)).remove()

    def _run_with_worker(self, task: BlockTask) -> None:
        start, files = time.monotonic(), AheadFiles(Path(task.output))
        limit = self._limit()
        with files.claimed(limit):
            if done := files.take_over(task):
                self._state_cost(done.seconds + time.monotonic() - start, done)
                files.remove()
                return
            files.remove_result()
            with WorkerProcess(self._setup(), self.stop) as worker:
                done = worker.embed(self._staged(task))
                seconds = time.monotonic() - start
                self._state_cost(seconds, done)
                self.stop.wait_for_check()  # the block is finished
                files.keep(task.key(), done, Path(self.log))
                self._embed_ahead(worker, task, start + limit, done.seconds)
            files.remove()

    def _limit(self) -> float:
        """Return the seconds after which no other block is embedded."""
        limit = 60.0 * self.config.jobs.gpu_job_minutes
        return min(limit, OF_LIMIT * 60 * self.runtime) if self.runtime else limit

    def _setup(self) -> Setup:
        model, jobs = self.config.model, self.config.jobs
        return Setup(self.kind, model.device, jobs.on_missing_gpu, self.log, LOG_FORMAT)

    def _state_cost(self, seconds: float, done: Finished) -> None:
        self.cost.seconds, self.cost.peak_mb = seconds, done.peak_mb

    def _staged(self, task: BlockTask) -> BlockTask:
        return task.of_copy(staged([task.patches], self.config.jobs.scratch)[0])

    def _embed_ahead(
        self, worker: WorkerProcess, own: BlockTask, end: float, longest: float
    ) -> None:
        """Embed blocks that wait, until the time is over or none is left. Nothing that happens
        here fails the job, whose block is finished."""
        waiting = [
            block for block in waiting_blocks(self.config.paths.work) if block.output != own.output
        ]
        embedded = True
        while embedded:  # blocks become ready meanwhile
            embedded = False
            for block in waiting:
                if time.monotonic() + MARGIN * longest > end or self.stop.received:
                    return
                try:
                    seconds = self._embed_if_free(worker, own, block)
                except (Exception, Stopped) as error:
                    level = logging.WARNING if _expected(error) else logging.ERROR
                    logger.log(level, "no block is embedded ahead any more: %s", error)
                    return
                embedded = embedded or seconds > 0
                longest = max(longest, seconds)

    def _embed_if_free(self, worker: WorkerProcess, own: BlockTask, block: WaitingBlock) -> float:
        """Embed a block if its patches are complete and no other job is at it.

        Returns:
            The seconds it took; 0 if it was not embedded.

        Raises:
            Exception: the worker cannot be used for another block.
        """
        files = AheadFiles(Path(block.output))
        if not block.ready or files.complete():
            return 0.0
        with files.claimed() as lock:
            if lock is None or was_interrupted(lock) or files.complete():
                return 0.0
            try:
                if not block.ready or read_attributes(Path(block.patches)).get(NOT_NEEDED):
                    files.remove()  # its own job has ended, or will not look here
                    return 0.0
                task = self._task(own, block)
                key = task.key()
            except (TesseraFlowError, OSError, zipfile.BadZipFile) as error:
                logger.info("block %s is left to its own job: %s", block.block, error)
                return 0.0
            log = Path(self.config.paths.logs, *block.names[:2], "infer", f"{block.block}.log")
            path = job_log_path(self.config.paths.work, *block.names)
            logger.info("embedding block %s ahead of its own job", " ".join(block.names))
            copy = self._staged(task.to(files.embeddings))
            try:
                with (
                    record_job(path, "infer_gpu", 1, settings_hash(block.settings), True) as cost,
                    noted(lock),
                ):
                    done = worker.embed(copy, log)
                    files.write_record(key, done, log)
                    cost.seconds, cost.peak_mb = done.seconds, done.peak_mb
            except TesseraFlowError as error:
                if isinstance(error, (ConfigError, WorkerEnded)):
                    raise
                logger.warning("block %s is left to its own job: %s", block.block, error)
                return 0.0
            finally:
                if copy.patches != task.patches:
                    with suppress(OSError):
                        Path(copy.patches).unlink()
        return done.seconds

    def _task(self, own: BlockTask, block: WaitingBlock) -> BlockTask:
        names = dict(zip(("region", "period", "block"), block.names, strict=True))
        return BlockTask.of(
            self.config,
            *(block.block, block.patches, block.output),
            record=read_weights_record(block.weights),
            settings=block.settings,
            made_from=record_of_job(self.config, "infer_gpu", names, [block.patches]),
            threads=own.threads,
            compiled=compiled_folder(self.config),
        )


def _expected(error: BaseException) -> bool:
    return isinstance(error, (TesseraFlowError, Stopped))
