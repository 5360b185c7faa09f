"""Check the answers to range requests: which version of an object they are of, and encodings."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..archives.signing import Access

_NOT_ENCODED = ("", "identity", "aws-chunked")
"""Values of Content-Encoding of a body that is the object itself. `aws-chunked` is how it was
uploaded; S3 repeats it for every download."""

_PATH_STYLE = ("s3.", "s3-", "storage.googleapis.com", "storage.cloud.google.com")


@dataclass(frozen=True)
class Version:
    """Which version of an object an answer is of; empty values are not stated.

    Attributes:
        size: size of the object in bytes.
        etag: its ETag, without the mark of a weak one.
        modified: its Last-Modified.
        strong: whether the ETag stands for the exact bytes.
    """

    size: int
    etag: str = ""
    modified: str = ""
    strong: bool = False

    @classmethod
    def of(cls, headers: Mapping[str, str], size: int) -> Version:
        """Return the version that the headers of an answer state."""
        etag = headers.get("ETag", "").strip()
        weak = etag[:2] in ("W/", "w/")
        opaque = etag[2:] if weak else etag
        strong = bool(etag) and not weak and opaque.startswith('"')
        return cls(size, opaque, headers.get("Last-Modified", "").strip(), strong)

    def differs(self, other: Version) -> bool:
        """Return whether two answers are of different versions, by what both of them state."""
        if self.size != other.size:
            return True
        pairs = ((self.etag, other.etag), (self.modified, other.modified))
        return any(first and second and first != second for first, second in pairs)


def encodings(headers: Mapping[str, str]) -> list[str]:
    """Return the encodings of a body, in the order in which they were applied."""
    names = headers.get("Content-Encoding", "").lower().split(",")
    return [name.strip() for name in names if name.strip() not in _NOT_ENCODED]


def decoded(body: bytes, names: list[str], limit: int) -> bytes | None:
    """Return a decoded body; None if it is incomplete, larger than `limit`, or of an encoding that
    Python cannot decode."""
    for name in reversed(names):
        result = _decompressed(body, name, limit)
        if result is None:
            return None
        body = result
    return body


def _decompressed(body: bytes, name: str, limit: int) -> bytes | None:
    windows = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}.get(name, ())
    for bits in windows:
        engine = zlib.decompressobj(bits)
        try:
            result = engine.decompress(body, limit + 1)
        except zlib.error:
            continue
        if engine.eof and not engine.unused_data and len(result) <= limit:
            return result
    return None


def credential_scope(access: Access) -> tuple[str, ...]:
    """Return a key of the objects that the same credentials open: host, bucket or container,
    signature, and headers."""
    parts = urlsplit(access.href)
    host = parts.netloc.lower()
    container = ""
    if host.startswith(_PATH_STYLE) or host.endswith(".blob.core.windows.net"):
        container = parts.path.lstrip("/").partition("/")[0]
    return (parts.scheme, host, container, parts.query, repr(sorted(access.headers.items())))
