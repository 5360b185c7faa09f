"""Start the worker of a GPU job, send it blocks and wait for them; no PyTorch in this process.

A worker that is killed, or that a library ends, costs the block that it was at; the job lives on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ...errors import TesseraFlowError
from ...inference.block_task import BlockTask
from ...inference.worker_messages import Failed, Finished, Setup
from ...signals import StopRequest

_END_SECONDS = 30
_MODULE = "tessera_flow.inference.worker"


class WorkerEnded(TesseraFlowError):
    """The worker ended while it embedded a block."""


class WorkerProcess:
    """A process that keeps the model; see `inference.worker`. It ends with the `with` block."""

    def __init__(self, setup: Setup, stop: StopRequest) -> None:
        """Start the process. It imports libraries meanwhile; `embed` waits for it."""
        self._stop, self._ready, self._idle = stop, False, False
        here, there = socket.socketpair()
        sources = str(Path(__file__).resolve().parents[3])
        paths = [sources, *filter(None, [os.environ.get("PYTHONPATH")])]
        with here, there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(there.fileno()), str(os.getpid())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
            )
            self._connection = Connection(here.detach())
        with suppress(OSError):  # it has ended already: `embed` reports it
            self._connection.send(setup)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, and wait until it has ended."""
        self._connection.close()
        try:
            if self._idle:  # it ends with the connection
                self._process.wait(_END_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        self._process.kill()
        self._process.wait()

    @property
    def process(self) -> int:
        """Number of the process."""
        return self._process.pid

    def embed(self, task: BlockTask, log: Path | None = None) -> Finished:
        """Embed a block in the worker.

        Args:
            task: the block.
            log: file that gets its messages; default: the log of the job.

        Raises:
            TesseraFlowError, Stopped: what the worker raised.
            WorkerEnded: the worker was killed or crashed.
            RuntimeError: an internal error, with the traceback of the worker.
        """
        with self._stop.passed_on(self._process.terminate):
            self._idle = False
            try:
                if not self._ready:
                    self._raise(self._connection.recv())
                    self._ready = True
                self._connection.send((task, log))
                reply = self._connection.recv()
            except (EOFError, OSError) as error:
                status = self._process.wait()
                self._stop.check("finished patches are kept")
                raise WorkerEnded(_why(status)) from error
        self._idle = True
        self._raise(reply)
        finished: Finished = reply
        return finished

    def _raise(self, reply: Any) -> None:
        """Raise the error of a reply."""
        if isinstance(reply, Failed):
            if reply.error is not None:
                raise reply.error
            raise RuntimeError(f"in the process that embeds blocks:\n{reply.text}")


def _why(status: int) -> str:
    """Return why a worker ended, by its exit status."""
    how = f"ended with status {status}"
    if status < 0:
        memory = " (out of memory?)" if -status == signal.SIGKILL else ""
        how = f"was ended by {signal.Signals(-status).name}{memory}"
    return f"The process that embeds blocks {how}. Finished patches are kept."
