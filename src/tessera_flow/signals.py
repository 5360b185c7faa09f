"""Handle SIGTERM, which a job receives when it is preempted, cancelled or nearly out of time.

SIGKILL follows after some seconds (Slurm's KillWait or GraceTime). A job ends either at once, and
removes its temporary file, or at the next point at which its progress is saved.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Stopped


class StopRequest:
    """A request to stop the job."""

    def __init__(self) -> None:
        self.received = False
        self._patient = False
        self._passed_on: Callable[[], object] | None = None

    def wait_for_check(self) -> None:
        """From now on, stop only at the next `check`."""
        self._patient = True

    @contextmanager
    def passed_on(self, notify: Callable[[], object]) -> Iterator[None]:
        """While the body runs, call `notify` when a request is received, instead of stopping: the
        work is done by another process, which stops by itself. Also if it was received before."""
        self._passed_on = notify
        try:
            if self.received:
                notify()
            yield
        finally:
            self._passed_on = None

    def check(self, done: str) -> None:
        """Stop here if a request was received.

        Args:
            done: what is finished and kept, for the message.

        Raises:
            Stopped: a request was received.
        """
        if self.received:
            raise Stopped(f"Stopped by SIGTERM; {done}. Run again to continue.")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if self._passed_on is not None:
            self._passed_on()
        elif not self._patient:
            self.check("no partial file remains")


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listen for SIGTERM while the body runs, in the main thread."""
    request = StopRequest()
    previous = signal.signal(signal.SIGTERM, request._handle)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)
