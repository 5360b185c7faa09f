"""Handle SIGTERM, which a job receives when it is preempted, cancelled or nearly out of time.

SIGKILL follows after some seconds (Slurm's KillWait or GraceTime). A job ends either at once, and
removes its temporary file, or at the next point at which its progress is saved.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Stopped


class StopRequest:
    """A request to stop the job."""

    def __init__(self) -> None:
        self.received = False
        self._patient = False

    def wait_for_check(self) -> None:
        """From now on, stop only at the next `check`."""
        self._patient = True

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
        if not self._patient:
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
