"""Classification of failed reads, which decides whether they are retried.

GDAL reports a refused or broken request as a decode error. Therefore `http_range.py` fetches
the bytes, so that the status is known, and GDAL decodes only complete data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import requests
import urllib3

from ..errors import ReadError

Kind = Literal["refused", "transient", "missing", "permanent", "replaced"]

REFUSED = (401, 403)
MISSING = (404, 410)
TRANSIENT = (408, 425, 429)

_INVALID_URL = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
)


class MissingSceneError(ReadError):
    """The archive answers, but the object is missing or corrupt. Retries do not help; a
    duplicate of the acquisition does.

    Attributes:
        reason: asset, URL and cause, for the record.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ReplacedError(ReadError):
    """The object was replaced while it was read: its ranges are of different versions, so it is
    read again from the start."""


@dataclass(frozen=True)
class Failure:
    """Reason why a request failed.

    Attributes:
        kind: `refused` (sign again and retry), `transient` (wait and retry), `missing` (the
            object does not exist), `replaced` (it is another object than before) or `permanent`
            (do not retry).
        cause: a description without URLs.
        retry_after: seconds to wait, as the service requests.
        status: HTTP status of the archive's answer, 0 if there is none.
    """

    kind: Kind
    cause: str
    retry_after: float | None = None
    status: int = 0


def of_status(status: int, reason: str, retry_after: float | None) -> Failure:
    """Return the failure for an HTTP status."""
    cause = f"HTTP {status} {reason}".strip()
    if status in REFUSED:
        return Failure("refused", cause, retry_after, status)
    if status in MISSING:
        return Failure("missing", cause)
    if status >= 500 or status in TRANSIENT:
        return Failure("transient", cause, retry_after)
    return Failure("permanent", cause)


def of_exception(error: BaseException) -> Failure:
    """Return the failure for an exception of `requests`.

    Its text may contain the signed URL, so the cause is the text of the innermost system error
    or the name of the exception.
    """
    response = getattr(error, "response", None)
    if isinstance(error, requests.TooManyRedirects):
        return Failure("permanent", "the archive redirects endlessly")
    if isinstance(error, requests.exceptions.SSLError):
        return Failure("permanent", "the server's certificate is not accepted")
    if response is not None:  # of the signing service
        failure = of_status(response.status_code, response.reason or "", None)
        kind: Kind = "refused" if failure.kind == "refused" else "transient"
        return Failure(kind, f"{failure.cause} from the signing service")
    if isinstance(error, _INVALID_URL):
        return Failure("permanent", f"the URL is invalid ({type(error).__name__})")
    inner: BaseException | None = error
    seen: list[BaseException] = []
    while inner is not None and inner not in seen:
        seen.append(inner)
        if isinstance(inner, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError):
            return Failure("transient", "no answer in time")
        if isinstance(inner, OSError) and inner.errno is not None and inner.errno > 0:
            return Failure("transient", os.strerror(inner.errno).lower())
        reasons = [a for a in (*inner.args, getattr(inner, "reason", None))
                   if isinstance(a, BaseException)]  # fmt: skip
        inner = next((r for r in reasons if r not in seen), inner.__cause__ or inner.__context__)
    return Failure("transient", f"the connection was interrupted ({type(seen[-1]).__name__})")
