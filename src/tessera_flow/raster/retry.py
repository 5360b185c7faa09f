"""When a failed request is made again: how often, after what pause, until when."""

from __future__ import annotations

import datetime
import email.utils
import random
import threading
import time
from dataclasses import dataclass, field

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds of the attempts of one request.

    Attributes:
        attempts: attempts, the first one included.
        timeout: seconds to wait for an answer, or for more of one.
        deadline: seconds that all attempts and pauses of one read may take together.
        stop: set when the job has failed elsewhere: no pause lasts beyond it.
    """

    attempts: int = 5
    timeout: float = 60.0
    deadline: float = 900.0
    stop: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)


class Attempts:
    """The attempts of one read. Counts requests that failed in a row; one that succeeds sets the
    count back, the deadline stays."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self.failed = 0
        self._until = time.monotonic() + policy.deadline

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._until - time.monotonic()

    def succeeded(self) -> None:
        """Begin to count anew."""
        self.failed = 0

    def pause(self, retry_after: float | None = None) -> float | None:
        """Count a failure.

        Args:
            retry_after: seconds that the service asks to wait; never waited less.

        Returns:
            Seconds to wait before the next try; None when there is to be none.
        """
        self.failed += 1
        if self.failed >= self.policy.attempts or self.policy.stop.is_set():
            return None
        # Full pauses would bring all the readers of a job back at one moment.
        backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self.failed - 1))
        wait = max(backoff * random.uniform(0.5, 1.5), retry_after or 0.0)
        return None if wait >= self.left else wait

    def wait(self, seconds: float) -> bool:
        """Wait; False if the job stopped meanwhile."""
        return not self.policy.stop.wait(seconds)


def retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for (a number, or a date); None for neither."""
    if not value:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())
