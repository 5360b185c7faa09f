"""Retries of failed requests: how many, after which pause, until when."""

from __future__ import annotations

import datetime
import email.utils
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_result,
    sleep_using_event,
    stop_after_attempt,
    stop_before_delay,
    stop_when_event_set,
)

from .failures import Failure

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Limits on the attempts of a request.

    Attributes:
        attempts: attempts, including the first.
        timeout: seconds to wait for an answer, or for more data of one.
        deadline: seconds that all attempts and pauses of one read may take together.
        stop: set when the job has failed or ended; pauses end at once, nothing is retried.
    """

    attempts: int = 5
    timeout: float = 60.0
    deadline: float = 900.0
    stop: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)


class Attempts:
    """The attempts of one read. A read can make several requests: each has its own count of
    attempts, all share the deadline."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self._deadline = time.monotonic() + policy.deadline

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def call(self, request: Callable[[], T | Failure], label: str) -> tuple[T | Failure, int]:
        """Make a request, again if it fails in a way that can pass.

        Args:
            request: returns the result, or a `Failure`.
            label: name of the object, for the log.

        Returns:
            The result, or the failure of the last attempt; and the number of attempts made.
        """
        stop = self.policy.stop
        failure: Failure | None = None
        count = 0

        def attempt() -> T | Failure:
            nonlocal failure, count
            if failure is not None and stop.is_set():  # during the pause
                return failure
            count += 1
            result = request()
            # Only failures are kept: tenacity's object lives until the garbage collector runs.
            failure = result if isinstance(result, Failure) else None
            return result

        retrying = Retrying(
            retry=retry_if_result(_can_pass),
            stop=stop_after_attempt(self.policy.attempts)
            | stop_when_event_set(stop)
            | stop_before_delay(self.seconds_left),
            wait=_pause,
            sleep=sleep_using_event(stop),
            before_sleep=lambda state: _log_failure(state, label),
            retry_error_callback=lambda _: failure,
        )
        return retrying(attempt), count


def _can_pass(result: object) -> bool:
    return isinstance(result, Failure) and result.kind in ("refused", "transient")


def _pause(state: RetryCallState) -> float:
    """Seconds to wait after a failure: doubling, with jitter, and never less than the service
    requests."""
    assert state.outcome is not None
    failure: Failure = state.outcome.result()
    if failure.kind == "refused" and state.attempt_number == 1 and not failure.retry_after:
        return 0.0  # an expired token: a new one is valid at once
    # Without jitter, all readers of a job would come back at the same moment.
    backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (state.attempt_number - 1))
    pause: float = max(backoff * random.uniform(0.5, 1.5), failure.retry_after or 0.0)
    return pause


def _log_failure(state: RetryCallState, label: str) -> None:
    assert state.outcome is not None
    log.warning(
        "attempt %d at %s failed (%s); again in %.1f s",
        state.attempt_number, label, state.outcome.result().cause, state.upcoming_sleep,
    )  # fmt: skip


def retry_after(value: str | None) -> float | None:
    """Seconds in a `Retry-After` header (a number, or a date); None for neither."""
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
