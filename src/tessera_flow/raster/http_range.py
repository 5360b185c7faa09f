"""Byte ranges of objects on HTTP servers: signed, retried, checked and cached.

All HTTP requests for scenes are made here, so that one module retries, knows the HTTP status
and handles signed URLs.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from ..archives.signing import Access, GivesAccess
from ..concurrency import call_with_timeout
from ..errors import ReadError, TesseraFlowError
from ..urls import keep_secrets_out_of_log, public_href
from .failures import Failure, MissingSceneError, of_exception, of_status
from .retry import Attempts, RetryPolicy, retry_after

log = logging.getLogger(__name__)
for _name in ("urllib3.connectionpool", "urllib3.util.retry", "rasterio._env", "rasterio._err"):
    keep_secrets_out_of_log(_name)

HEAD_BYTES = 32768
"""Size of the first request, which covers the header of most COGs."""

MERGE_GAP = 4096
"""Ranges with a smaller gap are requested together (blocks of a COG are 8 bytes apart)."""

_PIECE = 2**17
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class RangeClient:
    """Fetches byte ranges; thread-safe.

    Attributes:
        requests, received: number of requests made and bytes of data received.
    """

    def __init__(self, access: GivesAccess, policy: RetryPolicy, connections: int = 16) -> None:
        self.policy = policy
        self.requests = 0
        self.received = 0
        self._access = access
        self._signing = threading.Lock()
        self._counting = threading.Lock()
        self._session = requests.Session()
        # `_environment` looks up proxies and certificates once per host, because the lookup
        # takes longer than the rest of a request. Also, requests would replace the header of
        # `access` by an entry of ~/.netrc.
        self._session.trust_env = False
        self._environments: dict[str, dict[str, Any]] = {}
        adapter = HTTPAdapter(pool_connections=8, pool_maxsize=connections, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _sign(self, href: str, refused: Access | None, seconds: float) -> Access | Failure:
        """Return access to `href`, renewed if it equals `refused`."""
        # One thread at a time: after a refusal the first renews the signature for all.
        if not self._signing.acquire(timeout=max(seconds, 0.0)):
            return Failure("transient", "no signature in time")
        try:
            access = call_with_timeout(lambda: self._access(href), seconds)
            if refused is not None and access == refused:
                access = call_with_timeout(lambda: self._access(href, fresh=True), seconds)
            return access
        except TesseraFlowError:
            raise
        except Exception as error:  # the text of any exception may contain the token
            return of_exception(error)
        finally:
            self._signing.release()

    def fetch(
        self, href: str, start: int, stop: int, label: str, attempts: Attempts
    ) -> tuple[bytearray, int]:
        """Fetch bytes `start` to `stop` (exclusive) of an object, fewer at its end.

        Args:
            href: unsigned URL.
            start, stop: byte offsets.
            label: name of the object, for messages.
            attempts: of the read that includes this request.

        Returns:
            The bytes, and the size of the object.

        Raises:
            MissingSceneError: the object does not exist.
            ReadError: any other failure after the last attempt.
        """
        refused: Access | None = None

        def request() -> tuple[bytearray, int] | Failure:
            nonlocal refused
            access = self._sign(href, refused, attempts.seconds_left)
            if isinstance(access, Failure):
                return access
            result = self._get(access, start, stop, attempts)
            if isinstance(result, Failure):
                if result.kind == "refused":
                    refused = access
                if access.advice and (result.kind == "refused" or "web page" in result.cause):
                    result = replace(result, cause=f"{result.cause}; {access.advice}")
            return result

        result, count = attempts.call(request, label)
        if isinstance(result, Failure):
            raise read_error(result, f"{label} ({public_href(href)})", count)
        return result

    def _get(
        self, access: Access, start: int, stop: int, attempts: Attempts
    ) -> tuple[bytearray, int] | Failure:
        try:
            return self._request(access, start, stop, attempts)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            return of_exception(error)

    def _request(
        self, access: Access, start: int, stop: int, attempts: Attempts
    ) -> tuple[bytearray, int] | Failure:
        headers = access.headers | {
            "Range": f"bytes={start}-{stop - 1}",
            "Accept-Encoding": "identity",
        }
        with self._counting:
            self.requests += 1
        # On a redirect to another host, requests drops the Authorization header.
        with closing(
            self._session.get(
                access.href,
                headers=headers,
                stream=True,
                timeout=self.policy.timeout,
                **self._environment(access.href),
            )
        ) as response:
            status = response.status_code
            if status not in (200, 206):
                if status == 416 and start == 0:
                    return Failure("missing", "the object is empty")
                after = retry_after(response.headers.get("Retry-After"))
                return of_status(status, response.reason or "", after)
            length = response.headers.get("Content-Length", "")
            if _is_web_page(response.headers.get("Content-Type", "")):
                return Failure("transient", "the server returned a web page instead of data")
            if status == 200 and not (
                start == 0 and length.isdigit() and int(length) <= HEAD_BYTES
            ):
                return Failure("permanent", "the server does not support range requests")
            return self._body(response, start, stop, attempts)

    def _environment(self, href: str) -> dict[str, Any]:
        parts = urlsplit(href)
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._environments:
            with requests.Session() as session:
                settings = session.merge_environment_settings(host, {}, True, None, None)
            self._environments[host] = {key: settings[key] for key in ("proxies", "verify")}
        return self._environments[host]

    def _body(
        self, response: requests.Response, start: int, stop: int, attempts: Attempts
    ) -> tuple[bytearray, int] | Failure:
        if response.status_code == 206:
            content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if (
                content_range is None
                or int(content_range[1]) != start
                or int(content_range[2]) >= stop
            ):
                return Failure("transient", "the server returned another range than requested")
            length, size = int(content_range[2]) + 1 - start, int(content_range[3])
            if length < min(stop, size) - start:
                return Failure("transient", "the server returned a shorter range than requested")
        else:
            length = size = int(response.headers["Content-Length"])
        data, received = bytearray(length), 0
        start_time = time.monotonic()
        while received < length:
            # `read` would wait for the complete piece, even on a slow connection.
            piece = response.raw.read1(min(_PIECE, length - received))
            if not piece:
                return Failure("transient", f"only {received} of {length} bytes were received")
            data[received : received + len(piece)] = piece
            received += len(piece)
            with self._counting:
                self.received += len(piece)
            slow = time.monotonic() - start_time > self.policy.timeout * (1 + received / 2**20)
            if slow or attempts.seconds_left < 0:
                return Failure("transient", "no answer in time")
        if start == 0 and data[:64].lstrip()[:1] == b"<":
            return Failure("transient", "the server returned a web page instead of data")
        return data, size


def read_error(failure: Failure, asset: str, attempts: int) -> ReadError:
    """Return the error for a request that failed, with the remedy.

    Args:
        failure: of the last attempt.
        asset: its name and URL.
        attempts: number of attempts made.
    """
    if failure.kind == "missing":
        return MissingSceneError(
            f"{asset} does not exist: {failure.cause}.", f"{asset}: {failure.cause}"
        )
    return ReadError(
        f"Cannot read {asset} after {attempts} {'attempt' if attempts == 1 else 'attempts'}: "
        f"{failure.cause}. {_ADVICE[failure.kind]}"
    )


_ADVICE = {
    "refused": "Check the credentials of this archive, and run again.",
    "transient": "Check that the archive is complete and reachable, and run again.",
    "permanent": "Check the URL and what the archive serves there.",
}


def _is_web_page(content_type: str) -> bool:
    return content_type.split(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


class RemoteFile:
    """A remote object as a file for GDAL. Bytes are fetched on demand, once.

    Attributes:
        failure: the error that ended reading, if any. GDAL then sees the end of the file,
            because an exception cannot pass through it.
    """

    def __init__(self, client: RangeClient, href: str, label: str) -> None:
        self.failure: ReadError | None = None
        self._client = client
        self._href = href
        self._label = label
        self._attempts = Attempts(client.policy)
        self._starts: list[int] = []
        self._pieces: list[bytearray] = []
        head, self.size = client.fetch(href, 0, HEAD_BYTES, label, self._attempts)
        self._store(0, head)

    def load(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch the ranges (start, stop), adjacent ones together.

        Raises:
            ReadError: see `RangeClient.fetch`; an earlier request failed.
        """
        if self.failure is not None:
            raise self.failure
        for start, end in _merged(ranges):
            stop = min(end, self.size)
            if start < stop and not self._has(start, stop):
                self._fetch(start, stop)

    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start`, fewer at the end of the object, none on failure."""
        stop = min(start + count, self.size)
        if start >= stop or self.failure:
            return b""
        try:
            if not self._has(start, stop):
                self._fetch(start, max(stop, min(start + HEAD_BYTES, self.size)))
        except ReadError as error:
            self.failure = error
            return b""
        index = bisect_right(self._starts, start) - 1
        offset = start - self._starts[index]
        return bytes(memoryview(self._pieces[index])[offset : offset + stop - start])

    def opener(self, path: str, mode: str = "rb", **_: Any) -> _Handle:
        """Open the object, for `rasterio.open(..., opener=...)`."""
        return _Handle(self)

    def _fetch(self, start: int, stop: int) -> None:
        data, size = self._client.fetch(self._href, start, stop, self._label, self._attempts)
        if size != self.size:
            raise ReadError(
                f"{self._label} ({public_href(self._href)}) changed during the read: run again."
            )
        self._store(start, data)

    def _store(self, start: int, data: bytearray) -> None:
        index = bisect_right(self._starts, start)
        self._starts.insert(index, start)
        self._pieces.insert(index, data)

    def _has(self, start: int, stop: int) -> bool:
        index = bisect_right(self._starts, start) - 1
        return index >= 0 and stop <= self._starts[index] + len(self._pieces[index])


class _Handle:
    """File handle with a position; GDAL opens a file several times."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(self._position, self._file.size if count < 0 else count)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._file.size)[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        pass

    def __enter__(self) -> _Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if result and start <= result[-1][1] + MERGE_GAP:
            result[-1] = (result[-1][0], max(result[-1][1], stop))
        else:
            result.append((start, stop))
    return result
