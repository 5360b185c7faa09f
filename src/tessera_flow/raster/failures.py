"""What a failed read means, and so what is done about it.

GDAL reports a refused or broken request as a decode error, so the bytes are fetched here
(`ranges.py`) and the status is known; GDAL decodes only what has arrived whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import requests
import urllib3

from ..errors import ReadError

Kind = Literal["refused", "transient", "missing", "permanent"]

REFUSED = (401, 403)
MISSING = (404, 410)
TRANSIENT = (408, 425, 429)

_NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
)


class MissingSceneError(ReadError):
    """The archive answers, but this object is not there or is broken: trying again is no use,
    and another copy of the acquisition is.

    Attributes:
        reason: asset, address and cause, for the record.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Failure:
    """Why one request gave no bytes.

    Attributes:
        kind: `refused` (sign again), `transient` (wait, try again), `missing` (the object is
            not there) or `permanent` (no use).
        cause: in words, free of addresses.
        retry_after: seconds the service asks to wait.
    """

    kind: Kind
    cause: str
    retry_after: float | None = None


def of_status(status: int, reason: str, retry_after: float | None) -> Failure:
    """The failure that an HTTP status means."""
    cause = f"HTTP {status} {reason}".strip()
    if status in REFUSED:
        return Failure("refused", cause, retry_after)
    if status in MISSING:
        return Failure("missing", cause)
    if status >= 500 or status in TRANSIENT:
        return Failure("transient", cause, retry_after)
    return Failure("permanent", cause)


def of_exception(error: BaseException) -> Failure:
    """The failure that an exception of `requests` means. Its text may hold the signed address,
    so only the innermost system error's words are used, or the exception's name."""
    response = getattr(error, "response", None)
    if isinstance(error, requests.TooManyRedirects):
        return Failure("permanent", "the archive redirects without end")
    if isinstance(error, requests.exceptions.SSLError):
        return Failure("permanent", "the server's certificate is not accepted")
    if response is not None:  # of the service that signs
        failure = of_status(response.status_code, response.reason or "", None)
        kind: Kind = "refused" if failure.kind == "refused" else "transient"
        return Failure(kind, f"{failure.cause} from the signing service")
    if isinstance(error, _NO_ADDRESS):
        return Failure("permanent", f"the address cannot be used ({type(error).__name__})")
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
    return Failure("transient", f"the connection broke ({type(seen[-1]).__name__})")
