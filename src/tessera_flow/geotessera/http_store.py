"""Read a Zarr store from an HTTP server, with the requests of `raster.http_range`.

An object that the server says does not exist is absent, as in any Zarr store: its chunk has the
fill value. That the metadata of the store are still served is checked for each of these objects.
Everything else that goes wrong (no connection, time-outs, server errors, refused credentials, an
object that disappears while it is read) is retried and then an error, never absent data.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from ..archives.signing import Access
from ..errors import ReadError
from ..raster.failures import MissingSceneError, ReplacedError
from ..raster.http_range import EMPTY, HEAD_BYTES, RangeClient
from ..raster.responses import Version
from ..raster.retry import Attempts, RetryPolicy
from .metadata import METADATA

CONNECTIONS = 16
_REMEDY = "Run again when the store no longer changes."
_KEPT_ENDS = 256
"""Ends of objects that are kept: the indexes of shards, which every read of a shard needs."""


class HttpStore(Store):
    """A read-only Zarr store at a URL; it cannot list its keys.

    Attributes:
        client: makes the requests and counts them.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        super().__init__(read_only=True)
        self._path, mark, query = url.partition("?")
        self._query = mark + query
        self._policy = replace(policy, stop=threading.Event())  # its own, which `close` sets
        self.client = RangeClient(_access, self._policy, CONNECTIONS)
        self._pool = ThreadPoolExecutor(CONNECTIONS)
        self._lock = threading.Lock()
        self._versions: dict[str, Version | None] = {}  # None: absent
        self._ends: dict[tuple[str, int], bytes] = {}
        self._metadata: bytes | None = None  # read twice; the server may send them compressed

    def close(self) -> None:
        """Stop retries and close the connections."""
        self._policy.stop.set()
        self._pool.shutdown(cancel_futures=True)
        self.client.close()
        super().close()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __str__(self) -> str:
        return self._path

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of an object, None if it does not exist.

        Raises:
            ReadError: it cannot be read.
        """
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._pool, self.read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return the bytes of several ranges; see `get`."""
        return list(
            await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))
        )

    async def exists(self, key: str) -> bool:
        """Return whether an object exists."""
        loop = asyncio.get_running_loop()
        part = RangeByteRequest(0, 1)
        return await loop.run_in_executor(self._pool, self.read, key, part) is not None

    def read(self, key: str, part: ByteRequest | None = None) -> bytes | None:
        """Return a range of an object, None if the object does not exist; thread-safe.

        Raises:
            ReadError: it cannot be read, or was replaced or removed since its first range was
                read; or it does not exist, and neither do the metadata of the store.
        """
        if isinstance(part, SuffixByteRequest) and (key, part.suffix) in self._ends:
            return self._ends[key, part.suffix]
        attempts = Attempts(self._policy)
        if isinstance(part, RangeByteRequest):
            return self._fetch(key, part.start, part.end, attempts)
        if isinstance(part, OffsetByteRequest | SuffixByteRequest):
            size = self._size(key, attempts)
            if size is None:
                return None
            start = part.offset if isinstance(part, OffsetByteRequest) else size - part.suffix
            data = self._fetch(key, max(0, start), size, attempts)
            if data is not None and isinstance(part, SuffixByteRequest):
                with self._lock:
                    if len(self._ends) >= _KEPT_ENDS:
                        self._ends.pop(next(iter(self._ends)))
                    self._ends[key, part.suffix] = data
            return data
        if key == METADATA and self._metadata is not None:
            return self._metadata
        data = self._fetch(key, 0, HEAD_BYTES, attempts, complete=True)
        size = self._size(key, attempts)
        if data is not None and size is not None and len(data) != size:
            rest = self._fetch(key, len(data), size, attempts)
            data = None if rest is None else data + rest
        if key == METADATA:
            self._metadata = data
        return data

    def _size(self, key: str, attempts: Attempts) -> int | None:
        if key not in self._versions:
            self._fetch(key, 0, 1, attempts)
        version = self._versions[key]
        return None if version is None else version.size

    def _fetch(
        self, key: str, start: int, stop: int, attempts: Attempts, complete: bool = False
    ) -> bytes | None:
        """Return a range of an object, None if it is absent; if `complete` is true, all of an
        object that the server sends compressed."""
        version = self._versions.get(key)
        if key in self._versions and version is None:
            return None
        if version is not None and start >= version.size:
            return b""
        href = f"{self._path.rstrip('/')}/{key}{self._query}"
        try:
            data, served = self.client.fetch(href, start, stop, key, attempts, version)
        except ReplacedError as error:
            raise ReadError(f"{error} {_REMEDY}") from None
        except MissingSceneError as error:
            if EMPTY in error.reason:
                raise
            if version is not None:
                raise ReadError(
                    f"{error.reason}; it was removed while it was read. {_REMEDY}"
                ) from None
            self._check_metadata(key, attempts)
            self._versions[key] = None
            return None
        self._versions[key] = served
        # A compressed answer is returned completely, whatever was requested.
        return bytes(data[: stop - start]) if start == 0 and not complete else bytes(data)

    def _check_metadata(self, key: str, attempts: Attempts) -> None:
        """Check that the metadata, which were read before, are still served unchanged: where they
        are not, as of a disk that is no longer mounted, other objects are not absent."""
        version = self._versions.get(METADATA)
        if version is None:
            return
        href = f"{self._path.rstrip('/')}/{METADATA}{self._query}"
        try:
            _, served = self.client.fetch(href, 0, 1, METADATA, attempts)
        except ReadError as error:
            raise ReadError(
                f"The server answers that {key} does not exist, but does not serve the metadata of "
                f"the store any more, either: {error}"
            ) from None
        if version.differs(served):
            raise ReadError(f"{METADATA} was replaced while the store was read. {_REMEDY}")

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse to write."""
        raise NotImplementedError("the store is read-only")

    async def delete(self, key: str) -> None:
        """Refuse to delete."""
        raise NotImplementedError("the store is read-only")

    def list(self) -> AsyncIterator[str]:
        """Refuse to list: HTTP has no way to."""
        raise NotImplementedError("an HTTP server does not list its objects")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refuse to list, as `list`."""
        return self.list()

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Refuse to list, as `list`."""
        return self.list()


def _access(href: str, fresh: bool = False) -> Access:
    return Access(href)
