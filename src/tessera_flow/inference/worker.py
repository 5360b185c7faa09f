"""A process that keeps the model and embeds one block after another for the job that started it.

As a module, with the number of an open socket: receives tasks and sends a reply for each. It ends
with the job: when the connection ends, and, where the system can do so, by SIGKILL when the job's
process ends in any way. `jobs.running.worker_process` has the other end.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path

from ..block_file import made_from
from ..errors import Stopped, TesseraFlowError
from ..signals import StopRequest, stop_requests
from .block import infer_block
from .block_task import BlockTask
from .device import DeviceName, job_device
from .embed import InferenceOptions
from .model import ModelSpec, PreparedModel, prepare
from .months import PeriodMonths
from .worker_messages import Failed, Finished, Setup

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


@lru_cache(maxsize=1)
def _kept(spec: ModelSpec, dim: int | None) -> PreparedModel:
    """Return the model of the last block if it is the same, else load it."""
    logger.info("loading the model (process %d)", os.getpid())
    return prepare(spec, dim)


def embed_block(task: BlockTask, device: DeviceName, stop: StopRequest, keep: bool = False) -> None:
    """Embed a block on a device; see `block.infer_block`.

    Args:
        task: the block.
        device: where.
        stop: request to stop, checked when a patch is finished.
        keep: keep the model for the next block.
    """
    settings = task.settings
    with made_from(task.made_from):
        infer_block(
            patches=task.patches,
            output=task.output,
            spec=ModelSpec.of(task.record, settings, device, task.threads, task.compiled),
            options=InferenceOptions.of(settings, task.batch_size),
            attributes={"block": task.block, "weights": task.record.sha256},
            origin=tuple(settings["origin"]),
            stop=stop,
            period=PeriodMonths.of(task.source, *map(date.fromisoformat, settings["period"])),
            block_edge=task.block_edge,
            load=_kept if keep else prepare,
        )


@contextmanager
def _logged_to(log: Path | None, log_format: str) -> Iterator[None]:
    """Write messages to another file while the body runs; None: to the log of the job."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    root, handler = logging.getLogger(), logging.FileHandler(log, encoding="utf-8")
    handler.setFormatter(logging.Formatter(log_format))
    before, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = before
        handler.close()


def _reply(task: BlockTask, device: DeviceName) -> Finished | Failed:
    start = time.monotonic()
    try:
        with stop_requests() as stop:
            embed_block(task, device, stop, keep=True)
    except (TesseraFlowError, Stopped) as error:
        return Failed(error, "")
    except Exception:
        return Failed(None, traceback.format_exc(limit=-8))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # kB on Linux
    return Finished(time.monotonic() - start, peak)


def serve(connection: Connection) -> None:
    """Answer tasks until the connection ends."""
    setup: Setup = connection.recv()
    logging.basicConfig(filename=setup.log, level=logging.INFO, format=setup.log_format)
    try:
        with job_device(setup.kind, setup.device, setup.on_missing_gpu) as device:
            connection.send(None)
            while True:
                task, log = connection.recv()
                with _logged_to(log, setup.log_format):
                    reply = _reply(task, device)
                connection.send(reply)
    except TesseraFlowError as error:
        connection.send(Failed(error, ""))


def end_with(parent: int) -> None:
    """Let the system kill this process when its parent ends; end now if it has ended."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):  # not Linux: the end of the connection ends the process
        return
    if os.getppid() != parent:
        os._exit(1)


def main(number: str, parent: str) -> None:
    """Serve on an open socket."""
    end_with(int(parent))
    try:
        serve(Connection(int(number)))
    except (EOFError, OSError, KeyboardInterrupt, Stopped):
        pass
    # Nothing is left to be written, and freeing the memory of a GPU takes a second.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
