"""Keep the finished patches of an unfinished block, so that a killed job can resume.

Next to its output, a job writes a progress file, `<name>.<host>.<process>.<random>.progress`:
a line of JSON with the inputs of the patches, then one record per patch with length and
CRC-32C: a line of JSON that describes what follows, the bytes of its chunks as the output will
have them, and those of other arrays. A record is on disk before the next patch starts, except next
to a GPU (see below). A job that finds such files of the same inputs uses their complete records and
computes the remaining patches; an incomplete record is computed again. Each job writes its own
file, so that two jobs never write to one file, even if one was wrongly taken for dead.

Next to a GPU, patches that are finished within an interval are kept in memory and saved together,
so that a block that is soon finished writes no progress file. A job that is stopped saves them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import struct
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ..atomic import HOST, output_error
from ..errors import OutputError, TileError, ToleranceError

logger = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
_HEAD = struct.Struct("<QQI")  # lengths of the line and of the body, and its CRC-32C
_FORMAT = "tessera-flow progress 5"

WAITING_BYTES = 600 * 10**6
"""Most memory of patches that are not saved: a block of 16 patches of 500 px with int8 codes."""


class Finished(NamedTuple):
    """What is kept of a finished patch.

    Attributes:
        chunks: encoded chunks of the output by name; see `block_chunks.encode_chunk`.
        arrays: what the output has only of the complete block.
    """

    chunks: Mapping[str, bytes | memoryview]
    arrays: Arrays


class Progress:
    """The finished patches of one block.

    Attributes:
        finished: names of the patches that earlier jobs finished.
    """

    def __init__(
        self, output: str | os.PathLike[str], inputs: Mapping[str, Any], interval: float = 0
    ) -> None:
        """Read the progress files of earlier jobs.

        Args:
            output: the output file of the job.
            inputs: JSON-able; everything that determines the arrays of a patch.
            interval: seconds; patches that are added sooner after the last save are kept in
                memory, if `WAITING_BYTES` allow it.
        """
        self._interval = interval
        self._saved = time.monotonic()
        self._waiting: dict[str, Finished] = {}
        self._output = Path(output)
        header = {"format": _FORMAT, "inputs": dict(inputs)}
        self._header = json.dumps(header, sort_keys=True).encode() + b"\n"
        # Files are kept open: another job that finishes the block removes them.
        self._open = ExitStack()
        self._file: BinaryIO | None = None
        self._records: dict[str, tuple[BinaryIO, int]] = {}
        for path in self._files():
            try:
                handle = self._open.enter_context(path.open("rb"))
                for name, offset in self._read_names(handle, path):
                    self._records[name] = (handle, offset)
            except OSError as error:
                logger.warning("cannot read %s (%s): not used", path, error.strerror)
        self.finished = frozenset(self._records)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Save the patches in memory if the job ends early, unless nobody can use them, and close
        the files without removing them. Errors are logged: another one says why the job ends."""
        try:
            if kind is not None and not issubclass(kind, ToleranceError):
                self.save()
        except OutputError as error:
            logger.warning("finished patches that are not kept: %d (%s)", len(self._waiting), error)
        try:
            self._open.close()
        except OSError as error:
            logger.warning("cannot close a progress file (%s)", error.strerror)

    def __contains__(self, name: str) -> bool:
        return name in self._records or name in self._waiting

    def add(self, name: str, patch: Finished) -> None:
        """Add a finished patch; without an interval it is on disk when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        self._waiting[name] = patch
        waiting = sum(_size(patch) for patch in self._waiting.values())
        if time.monotonic() - self._saved >= self._interval or waiting > WAITING_BYTES:
            self.save()

    def save(self) -> None:
        """Save the patches that are in memory only; they are on disk when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        while self._waiting:
            name = next(iter(self._waiting))
            self._write(name, self._waiting[name])
            del self._waiting[name]
        self._saved = time.monotonic()

    def _write(self, name: str, patch: Finished) -> None:
        chunks = [(key, len(chunk)) for key, chunk in patch.chunks.items()]
        arrays = [(key, array.dtype.str, array.shape) for key, array in patch.arrays.items()]
        line = json.dumps({"name": name, "chunks": chunks, "arrays": arrays}).encode() + b"\n"
        parts = [np.frombuffer(part, np.uint8) for part in (line, *patch.chunks.values())]
        parts += [_bytes(array) for array in patch.arrays.values()]
        checksum = 0
        for part in parts:
            checksum = google_crc32c.extend(checksum, part)
        try:
            file = self._file or self._create()
            offset = file.seek(0, os.SEEK_END)
            file.write(_HEAD.pack(len(line), sum(map(len, parts)), checksum))
            for part in parts:
                file.write(part.data)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise output_error(self._output, error) from error
        self._records[name] = (file, offset)

    def read(self, name: str) -> Finished:
        """Return what was saved of a finished patch.

        Raises:
            KeyError: the patch is not finished.
            TileError: its record changed on disk.
        """
        if name in self._waiting:
            return self._waiting[name]
        handle, offset = self._records[name]
        handle.seek(offset)
        body = _read_body(handle)
        if body is None:
            raise TileError(
                f"The finished patch {name} of {self._output} changed on disk: delete the files "
                f"{self._output.name}.*.progress next to it and run again."
            )
        line, contents = body
        described = json.loads(line)
        chunks, arrays, start = {}, {}, 0
        for key, size in described["chunks"]:
            chunks[key] = contents[start : start + size].data
            start += size
        for key, dtype, shape in described["arrays"]:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            # A copy: a view would keep the memory of the chunks.
            arrays[key] = contents[start : start + size].copy().view(dtype).reshape(shape)
            start += size
        return Finished(chunks, arrays)

    def remove(self) -> None:
        """Remove the progress files of all jobs, when the block is finished. Another job that still
        works on the block keeps its files open."""
        for path in self._files():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning(
                    "cannot remove %s (%s), which is no longer needed", path, error.strerror
                )

    def _files(self) -> list[Path]:
        pattern = rf"{re.escape(self._output.name)}\.[A-Za-z0-9-]+\.\d+\.[0-9a-f]{{12}}\.progress"
        if not self._output.parent.is_dir():
            return []
        return sorted(
            path for path in self._output.parent.iterdir() if re.fullmatch(pattern, path.name)
        )

    def _create(self) -> BinaryIO:
        writer = f"{HOST}.{os.getpid()}.{uuid.uuid4().hex[:12]}"
        path = self._output.with_name(f"{self._output.name}.{writer}.progress")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open.enter_context(path.open("x+b"))
        self._file.write(self._header)
        return self._file

    def _read_names(self, handle: BinaryIO, path: Path) -> Iterator[tuple[str, int]]:
        """Yield name and offset of each complete record of a file with the same inputs."""
        if handle.readline() != self._header:
            logger.info("%s has other inputs: not used", path.name)
            return
        while True:
            offset = handle.tell()
            body = _read_body(handle)
            if body is None:
                return
            yield str(json.loads(body[0])["name"]), offset


def _read_body(handle: BinaryIO) -> tuple[bytes, NDArray[np.uint8]] | None:
    """Return line and bytes of the record that starts here; None if it is incomplete or damaged."""
    head = handle.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    line, length, checksum = _HEAD.unpack(head)
    if not line <= length <= os.fstat(handle.fileno()).st_size:
        return None
    body = np.empty(length, np.uint8)
    complete = handle.readinto(body.data) == length  # type: ignore[attr-defined]
    if not complete or google_crc32c.value(body) != checksum:
        return None
    return body[:line].tobytes(), body[line:]


def _size(patch: Finished) -> int:
    chunks, arrays = patch
    return sum(map(len, chunks.values())) + sum(array.nbytes for array in arrays.values())


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
