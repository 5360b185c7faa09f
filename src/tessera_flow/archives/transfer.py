"""Requests of searches with limits that no service can exceed: of their time, and of their size.

A timeout of `requests` is the wait for the next bytes, so an answer that arrives byte by byte has
none. Therefore each request runs in a thread of its own, which is left behind at the end of the
time limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InvalidHeader
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry

from ..concurrency import call_with_timeout
from ..config.sections import Download
from .paging import SearchTooLong
from .query import MAX_SEARCH_DEADLINES, RETRIED

MAX_PAGE = 2**28
"""Largest body of an answer, in bytes. A page of 200 items has about 8 MB."""

MAX_TABLE = 2**35
"""Largest stac-geoparquet file that is downloaded, in bytes."""

_PIECE = 2**16
_ERROR_BYTES = 2**16

T = TypeVar("T")


class TimeLimit:
    """The time limit of a search."""

    def __init__(self, download: Download) -> None:
        self.seconds = MAX_SEARCH_DEADLINES * download.deadline
        self._end = time.monotonic() + self.seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until the end."""
        return self._end - time.monotonic()

    def call(self, request: Callable[[], T]) -> T:
        """Return the result of a request.

        Raises:
            SearchTooLong: it is not there in time.
        """
        try:
            return call_with_timeout(request, self.seconds_left)
        except TimeoutError:
            raise self.too_long() from None

    def too_long(self) -> SearchTooLong:
        """Return the error for a search that is not finished at the end."""
        return SearchTooLong(f"the search did not finish: it took more than {self.seconds:.0f} s")


class _PatientRetry(Retry):
    """Retries with the pauses that a service requests, while the time limit allows them."""

    limit: TimeLimit | None = None

    def new(self, **changes: Any) -> Self:
        result = super().new(**changes)
        result.limit = self.limit
        return result

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        try:
            return super().get_retry_after(response)
        except InvalidHeader:
            return None

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        pause = self.get_retry_after(response) if response is not None else None
        if pause and self.limit is not None and pause > self.limit.seconds_left:
            raise SearchTooLong(
                f"the service asks to wait {pause:.0f} s, longer than the time limit of "
                f"{self.limit.seconds:.0f} s for a search allows"
            )
        super().sleep(response)


def session_of(download: Download, limit: TimeLimit) -> requests.Session:
    """Return a session that repeats requests: exponential pauses with jitter, `Retry-After`."""
    retries = _PatientRetry(
        total=download.attempts - 1,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        status_forcelist=RETRIED,
        allowed_methods=None,
        respect_retry_after_header=True,
        retry_after_max=10**9,
        # Return the last response, so that its status can be read.
        raise_on_status=False,
    )
    retries.limit = limit
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    return session


def receive(
    session: requests.Session,
    request: requests.PreparedRequest,
    timeout: float,
    limit: TimeLimit,
    largest: int = MAX_PAGE,
) -> tuple[requests.Response, bytes]:
    """Send a request; return the response and its body, of an error only the beginning.

    Raises:
        SearchTooLong: it is not complete in time, or too large.
        requests.RequestException: the request fails.
    """

    def call() -> tuple[requests.Response, bytes]:
        settings = session.merge_environment_settings(str(request.url), {}, True, None, None)
        with session.send(request, timeout=timeout, **settings) as response:
            body = bytearray()
            most = largest if response.ok else _ERROR_BYTES
            for piece in pieces(response, limit):
                body += piece
                if len(body) > most:
                    if response.ok:
                        raise SearchTooLong(f"an answer has more than {most / 1e6:.0f} MB")
                    break
            return response, bytes(body[:most])

    return limit.call(call)


def pieces(response: requests.Response, limit: TimeLimit) -> Any:
    """Yield the body of a response as it arrives.

    Raises:
        requests.RequestException: it is cut off.
        SearchTooLong: the time is over.
    """
    try:
        while piece := response.raw.read1(_PIECE, decode_content=True):
            yield piece
            if limit.seconds_left < 0:
                raise limit.too_long()
        # `read1` does not notice an end that is too early.
        remaining = getattr(response.raw, "length_remaining", None)
        if remaining:
            raise requests.exceptions.ChunkedEncodingError(
                f"Connection broken: IncompleteRead({remaining} bytes more expected)"
            )
    except (OSError, requests.exceptions.ChunkedEncodingError):
        raise
    except Exception as error:
        if isinstance(error, SearchTooLong):
            raise
        raise requests.exceptions.ChunkedEncodingError(error) from error
