"""Present a remote object to GDAL as a file whose bytes are fetched on demand."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from ..errors import ReadError
from .http_range import HEAD_BYTES, RangeClient
from .retry import Attempts

MERGE_GAP = 4096
"""Ranges with a smaller gap are requested together (blocks of a COG are 8 bytes apart)."""


class RemoteFile:
    """A remote object as a file for GDAL. Bytes are fetched on demand, once.

    Attributes:
        failure: the error that ended reading, if any. GDAL then sees the end of the file,
            because an exception cannot pass through it.
    """

    def __init__(
        self, client: RangeClient, href: str, label: str, attempts: Attempts | None = None
    ) -> None:
        self.failure: ReadError | None = None
        self._client = client
        self._href = href
        self._label = label
        self._attempts = attempts or Attempts(client.policy)
        self._starts: list[int] = []
        self._pieces: list[bytearray] = []
        self._loaded: set[int] = set()
        head, self._version = client.fetch(href, 0, HEAD_BYTES, label, self._attempts)
        self.size = self._version.size
        self._store(0, head)

    def load(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch the ranges (start, stop), adjacent ones together.

        Raises:
            ReadError: see `RangeClient.fetch`; an earlier request failed.
        """
        if self.failure is not None:
            raise self.failure
        clipped = ((start, min(stop, self.size)) for start, stop in ranges)
        absent = (part for part in clipped if part[0] < part[1] and not self._has(*part))
        for start, stop in _merged(absent):
            self._fetch(start, stop)
            self._loaded.add(start)

    def forget(self, keep: Iterable[tuple[int, int]]) -> None:
        """Drop what `load` fetched, apart from pieces with a byte of the ranges `keep`."""
        ranges = list(keep)
        for index in reversed(range(len(self._starts))):
            start = self._starts[index]
            stop = start + len(self._pieces[index])
            used = any(first < stop and last > start for first, last in ranges)
            if start in self._loaded and not used:
                self._loaded.remove(start)
                del self._starts[index], self._pieces[index]

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
        data, _ = self._client.fetch(
            self._href, start, stop, self._label, self._attempts, self._version
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
