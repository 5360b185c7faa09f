"""Byte ranges of objects on HTTP servers: signed, retried, checked and cached.

All HTTP requests for scenes are made here, so that one module retries, knows the HTTP status
and handles signed URLs.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from ..archives.credentials import netrc_login
from ..archives.signing import Access, GivesAccess
from ..concurrency import call_with_timeout
from ..errors import ReadError, TesseraFlowError
from ..urls import keep_secrets_out_of_log, public_href, stated_secret
from .failures import Failure, MissingSceneError, ReplacedError, of_exception, of_status
from .responses import Version, credential_scope, decoded, encodings
from .retry import Attempts, RetryPolicy, retry_after

log = logging.getLogger(__name__)
for _name in ("urllib3.connectionpool", "urllib3.util.retry", "rasterio._env", "rasterio._err"):
    keep_secrets_out_of_log(_name)

HEAD_BYTES = 32768
"""Size of the first request, which covers the header of most COGs."""

MAX_ENCODED_BYTES = 2**26
"""Largest object that is decoded if the server stores it compressed."""

WITNESSES = 8
"""Other objects to ask for, at most, to distinguish a missing object from refused credentials."""

ACCEPTED = 64
"""Number of signatures by which data were served that are remembered, as keys of their scope."""

EMPTY = "the object is empty"
"""Cause of a missing object that exists without content."""

T = TypeVar("T")

_PIECE = 2**17
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class RangeClient:
    """Fetches byte ranges; thread-safe.

    Attributes:
        requests, received: number of requests made and bytes of data received.
        witnesses: URLs of other objects of the archive, for `_is_missing`.
    """

    def __init__(self, access: GivesAccess, policy: RetryPolicy, connections: int = 16) -> None:
        self.policy = policy
        self.requests = 0
        self.received = 0
        self.witnesses: Sequence[str] = ()
        self._served: deque[str] = deque(maxlen=WITNESSES)
        self._access = access
        self._accepted: dict[tuple[str, ...], None] = {}
        self._signing = threading.Lock()
        self._counting = threading.Lock()
        self._session = requests.Session()
        # `_environment` looks up proxies and certificates once per host, because the lookup
        # takes longer than the rest of a request. Also, requests would replace the header of
        # `access` by an entry of ~/.netrc.
        self._session.trust_env = False
        self._environments: dict[str, dict[str, Any]] = {}
        self._logins: dict[str, tuple[str, str] | None] = {}
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

    def _replacement(self, href: str, refused: Access, attempts: Attempts) -> Access | None:
        """Return the access by which another read has already replaced an expired one.

        None if no other read has, so that the next attempt of this one does, or if nothing was ever
        served by it: then the credentials may be refused for good, and each refusal counts.
        """
        if self.policy.stop.is_set() or credential_scope(refused) not in self._accepted:
            return None
        access = self._sign(href, None, attempts.seconds_left)
        return None if access == refused or isinstance(access, Failure) else access

    def fetch(
        self,
        href: str,
        start: int,
        stop: int,
        label: str,
        attempts: Attempts,
        version: Version | None = None,
    ) -> tuple[bytearray, Version]:
        """Fetch bytes `start` to `stop` (exclusive) of an object, fewer at its end.

        Args:
            href: unsigned URL.
            start, stop: byte offsets.
            label: name of the object, for messages.
            attempts: of the read that includes this request.
            version: that of the other ranges of the object; None for the first range.

        Returns:
            The bytes, and the version of the object. If the server sends the object compressed,
            it is returned completely, as the range from 0.

        Raises:
            MissingSceneError: the object does not exist.
            ReplacedError: the object is another one than that of `version`.
            ReadError: any other failure after the last attempt.
        """
        refused: Access | None = None

        def request() -> tuple[bytearray, Version] | Failure:
            nonlocal refused
            result, refused = self._ask(href, start, stop, label, attempts, version, refused)
            return result

        result, count = attempts.call(request, label)
        if not isinstance(result, Failure):
            if version is None and href not in self._served:
                self._served.append(href)
            return result
        if result.kind == "replaced":
            raise ReplacedError(f"{label} ({public_href(href)}) was replaced while it was read.")
        if result.status == 403 and version is None and self._is_missing(href, refused, attempts):
            cause = f"{result.cause.partition(';')[0]}, although other objects there are served"
            result = Failure("missing", cause)
        raise read_error(result, f"{label} ({public_href(href)})", count)

    def _ask(
        self,
        href: str,
        start: int,
        stop: int,
        label: str,
        attempts: Attempts,
        version: Version | None,
        refused: Access | None,
    ) -> tuple[tuple[bytearray, Version] | Failure, Access | None]:
        """Make one attempt, in which the request is repeated while its signature has expired.

        Returns:
            The result, and the access that was refused last.
        """
        expired: Failure | None = None
        access = self._sign(href, refused, attempts.seconds_left)
        while not isinstance(access, Failure):
            result = self._noted(self._get(access, start, stop, attempts, version), access)
            if isinstance(result, Failure) and expired and attempts.seconds_left <= 0:
                return expired, refused
            if not isinstance(result, Failure) or result.kind != "refused":
                return result, refused
            refused, expired = access, result
            newer = None if result.retry_after else self._replacement(href, refused, attempts)
            if newer is None:
                return result, refused
            # An expired token is no fault of the archive: all that counts is the deadline.
            log.info("the signature for %s had expired; again with a new one", label)
            access = newer
        return access, refused

    def _noted(self, result: T | Failure, access: Access) -> T | Failure:
        """Return the result of a request, a failure with what it may mean for this access; note
        that the access was accepted, if it was."""
        if not isinstance(result, Failure):
            with self._counting:
                self._accepted[credential_scope(access)] = None
                if len(self._accepted) > ACCEPTED:
                    del self._accepted[next(iter(self._accepted))]
            return result
        if access.advice and (result.kind == "refused" or "web page" in result.cause):
            return replace(result, cause=f"{result.cause}; {access.advice}")
        return result

    def _is_missing(self, href: str, refused: Access | None, attempts: Attempts) -> bool:
        """Return whether a refused object does not exist.

        S3 answers 403 for a missing key where the reader may not list the bucket. So does it for
        refused credentials; then it refuses all other objects with the same signature as well. If
        one is served after the refusal, by the same signature, this had not expired.
        """
        if not {*self._served, *self.witnesses} - {href}:
            return False
        for _ in range(WITNESSES):
            access = self._sign(href, None, attempts.seconds_left)
            if isinstance(access, Failure) or self.policy.stop.is_set():
                return False
            if access != refused:
                again = self._get(access, 0, HEAD_BYTES, attempts, None)
                if not isinstance(again, Failure) or again.status != 403:
                    return False
                refused = access
            if self._serves_others(href, access, attempts):
                return True
            if self._sign(href, None, attempts.seconds_left) == access:
                return False
            # Another read has renewed the signature meanwhile: the same again with the new one.
        return False

    def _serves_others(self, href: str, access: Access, attempts: Attempts) -> bool:
        """Return whether other objects are served by the signature of an access to `href`."""
        scope = credential_scope(access)
        asked = 0
        for other in dict.fromkeys((*reversed(tuple(self._served)), *self.witnesses)):
            if other == href or asked >= WITNESSES or self.policy.stop.is_set():
                continue
            witness = self._sign(other, None, attempts.seconds_left)
            if isinstance(witness, Failure) or credential_scope(witness) != scope:
                continue
            asked += 1
            result = self._get(witness, 0, HEAD_BYTES, attempts, None)
            if not isinstance(result, Failure):
                return True
        return False

    def _get(
        self,
        access: Access,
        start: int,
        stop: int,
        attempts: Attempts,
        version: Version | None,
    ) -> tuple[bytearray, Version] | Failure:
        try:
            return self._request(access, start, stop, attempts, version)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            return of_exception(error)

    def _request(
        self,
        access: Access,
        start: int,
        stop: int,
        attempts: Attempts,
        version: Version | None,
    ) -> tuple[bytearray, Version] | Failure:
        headers = access.headers | {
            "Range": f"bytes={start}-{stop - 1}",
            "Accept-Encoding": "identity",
        }
        auth = None
        signed = stated_secret(access.href) is not None
        if not signed and not any(name.lower() == "authorization" for name in headers):
            auth = self._login(access.href)
        if version is not None and version.strong:
            headers["If-Range"] = version.etag
        with self._counting:
            self.requests += 1
        # On a redirect to another host, requests drops the Authorization header.
        get = partial(
            self._session.get,
            access.href,
            headers=headers,
            auth=auth,
            stream=True,
            timeout=self.policy.timeout,
            **self._environment(access.href),
        )
        # Its timeout is the wait for the next bytes: headers that arrive byte by byte have none.
        with closing(call_with_timeout(get, attempts.seconds_left)) as response:
            status = response.status_code
            if status not in (200, 206):
                if status == 416:
                    return _of_unsatisfied_range(response.headers, version)
                after = retry_after(response.headers.get("Retry-After"))
                return of_status(status, response.reason or "", after)
            if _is_web_page(response.headers.get("Content-Type", "")):
                return Failure("transient", "the server returned a web page instead of data")
            names = encodings(response.headers)
            if names:
                return self._encoded_body(response, start, stop, attempts, version, names)
            length = response.headers.get("Content-Length", "")
            if status == 200 and not (
                start == 0 and length.isdigit() and int(length) <= HEAD_BYTES
            ):
                # With If-Range, the answer for another version is the complete object.
                if version is not None and _of_another_version(response.headers, version):
                    return REPLACED
                return Failure("permanent", "the server does not support range requests")
            return self._body(response, start, stop, attempts, version)

    def _login(self, href: str) -> tuple[str, str] | None:
        """Return user name and password for a host; read once, not for each request."""
        host = urlsplit(href).netloc
        if host not in self._logins:
            self._logins[host] = netrc_login(href)
        return self._logins[host]

    def _environment(self, href: str) -> dict[str, Any]:
        parts = urlsplit(href)
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._environments:
            with requests.Session() as session:
                settings = session.merge_environment_settings(host, {}, True, None, None)
            self._environments[host] = {key: settings[key] for key in ("proxies", "verify")}
        return self._environments[host]

    def _body(
        self,
        response: requests.Response,
        start: int,
        stop: int,
        attempts: Attempts,
        version: Version | None,
    ) -> tuple[bytearray, Version] | Failure:
        if response.status_code == 206:
            answered = _answered_range(response.headers, start, stop)
            if isinstance(answered, Failure):
                return answered
            length, size = answered
        else:
            length = size = int(response.headers["Content-Length"])
        this = Version.of(response.headers, size)
        if version is not None and version.differs(this):
            return REPLACED
        if length < min(stop, size) - start:
            return Failure("transient", "the server returned a shorter range than requested")
        data = self._received(response, length, attempts)
        if isinstance(data, Failure):
            return data
        if len(data) < length:
            cause = f"only {len(data)} of {length} bytes were received"
            return Failure("transient", cause)
        return _checked(data, start, this)

    def _received(
        self, response: requests.Response, length: int, attempts: Attempts, exact: bool = True
    ) -> bytearray | Failure:
        """Return the body of an answer as sent, at most `length` bytes of it; `exact`: it should
        have as many."""
        data, received = bytearray(length if exact else 0), 0
        start_time = time.monotonic()
        while received < length:
            # `read` would wait for the complete piece, even on a slow connection.
            piece = response.raw.read1(min(_PIECE, length - received))
            if not piece:
                break
            data[received : received + len(piece)] = piece
            received += len(piece)
            with self._counting:
                self.received += len(piece)
            slow = time.monotonic() - start_time > self.policy.timeout * (1 + received / 2**20)
            if slow or attempts.seconds_left < 0:
                return Failure("transient", "no answer in time")
        del data[received:]
        return data

    def _encoded_body(
        self,
        response: requests.Response,
        start: int,
        stop: int,
        attempts: Attempts,
        version: Version | None,
        names: list[str],
    ) -> tuple[bytearray, Version] | Failure:
        """Return the decoded body of an answer that the server sends compressed.

        A range is either one of the object, compressed afterwards, or one of the compressed
        object, which can be decoded only if it is complete.
        """
        cause = f"the server sends it with Content-Encoding: {', '.join(names)}"
        length = size = 0
        if response.status_code == 206:
            answered = _answered_range(response.headers, start, stop)
            if isinstance(answered, Failure):
                return answered
            length, size = answered
        elif start != 0 or version is not None:
            return Failure("permanent", f"{cause}, and without range requests")
        body = self._received(response, MAX_ENCODED_BYTES + 1, attempts, exact=False)
        if isinstance(body, Failure):
            return body
        promised = response.headers.get("Content-Length", "")
        if promised.isdigit() and len(body) < min(int(promised), MAX_ENCODED_BYTES):
            return Failure("transient", f"only {len(body)} of {promised} bytes were received")
        data = decoded(bytes(body), names, MAX_ENCODED_BYTES)
        complete = start == 0 and (response.status_code == 200 or len(body) == size)
        if data is None or not (complete or len(data) == length):
            return Failure("permanent", f"{cause}, which cannot be decoded in parts")
        whole = complete and len(data) != length
        this = Version.of(response.headers, len(data) if whole else size)
        if version is not None and version.differs(this):
            return REPLACED
        return _checked(bytearray(data), start, this)


REPLACED = Failure("replaced", "the object was replaced while it was read")


def _answered_range(headers: Mapping[str, str], start: int, stop: int) -> tuple[int, int] | Failure:
    """Return the length of the range in an answer, and the size of the object."""
    content_range = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if content_range is None or int(content_range[1]) != start or int(content_range[2]) >= stop:
        return Failure("transient", "the server returned another range than requested")
    return int(content_range[2]) + 1 - start, int(content_range[3])


def _of_unsatisfied_range(headers: Mapping[str, str], version: Version | None) -> Failure:
    if version is None:
        return Failure("missing", EMPTY)
    match = re.fullmatch(r"bytes \*/(\d+)", headers.get("Content-Range", "").strip())
    if match and int(match[1]) != version.size:
        return REPLACED
    return Failure("transient", "the server does not have the requested range")


def _of_another_version(headers: Mapping[str, str], version: Version) -> bool:
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdigit() else version.size
    return version.differs(Version.of(headers, size))


def _checked(data: bytearray, start: int, version: Version) -> tuple[bytearray, Version] | Failure:
    if start == 0 and data[:64].lstrip()[:1] == b"<":
        return Failure("transient", "the server returned a web page instead of data")
    return data, version


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
    "replaced": "Run again when the archive no longer changes.",
}


def _is_web_page(content_type: str) -> bool:
    return content_type.split(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")
