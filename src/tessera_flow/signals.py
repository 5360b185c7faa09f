"""SIGTERM: what a job gets when it is preempted, cancelled or nearly out of time.

Between it and SIGKILL are some seconds (Slurm's KillWait or GraceTime). A job either ends at
once, with its half-written file removed, or at the next point at which what it did is kept.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Stopped


class StopRequest:
    """Whether the job was asked to stop."""

    def __init__(self) -> None:
        self.asked = False
        self._patient = False

    def wait_for_check(self) -> None:
        """From now on a request is honoured only at the next `check`."""
        self._patient = True

    def check(self, done: str) -> None:
        """End here if a stop was asked for.

        Args:
            done: what is finished and kept, for the message.

        Raises:
            Stopped: it was.
        """
        if self.asked:
            raise Stopped(f"Stopped by SIGTERM; {done}. Run again to go on.")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self._patient:
            self.check("nothing half-written is left")


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listen for SIGTERM while the body runs, in the main thread."""
    request = StopRequest()
    before = signal.signal(signal.SIGTERM, request._handle)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
