"""Finished patches of an unfinished block, kept through a kill.

Beside the file that a job will make lies a file of its progress, `<name>.<host>.<process>.
<random>.progress`: a line of JSON that says what the patches were made from, then one
record per patch, each with its length and checksum, and on disk before the next patch is
begun. A job that finds such files of the same making uses their whole records and goes on
with the rest; what was cut off in the middle of a record is computed again. Every writer
has a file of its own, so that a job that was taken for dead and another in its place never
write into one file.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import struct
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..atomic import HOST, output_error
from ..errors import TileError

logger = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
_HEAD = struct.Struct("<Q32s")  # length and SHA-256 of the body that follows
_FORMAT = "tessera-flow progress 1"


class Progress:
    """The finished patches of one block.

    Attributes:
        found: names of the patches that earlier jobs finished.
    """

    def __init__(self, output: str | os.PathLike[str], making: Mapping[str, Any]) -> None:
        """Find what earlier jobs left.

        Args:
            output: the file that the job will make.
            making: JSON-able; all that decides what a patch becomes.
        """
        self._output = Path(output)
        header = {"format": _FORMAT, "making": dict(making)}
        self._header = json.dumps(header, sort_keys=True).encode() + b"\n"
        # Files stay open: another job that finishes the block removes them.
        self._open = ExitStack()
        self._own: BinaryIO | None = None
        self._places: dict[str, tuple[BinaryIO, int]] = {}
        for path in self._files():
            try:
                handle = self._open.enter_context(path.open("rb"))
                for name, place in self._records(handle, path):
                    self._places[name] = (handle, place)
            except OSError as error:
                logger.warning("cannot read %s (%s): not used", path, error.strerror)
        self.found = frozenset(self._places)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files; they stay."""
        self._open.close()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def add(self, name: str, arrays: Arrays) -> None:
        """Keep a finished patch; it is on disk when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{"name": np.array(name), **arrays})
        body = buffer.getvalue()
        try:
            own = self._own or self._create()
            place = own.seek(0, os.SEEK_END)
            own.write(_HEAD.pack(len(body), hashlib.sha256(body).digest()))
            own.write(body)
            own.flush()
            os.fsync(own.fileno())
        except OSError as error:
            raise output_error(self._output, error) from error
        self._places[name] = (own, place)

    def read(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of a finished patch.

        Raises:
            KeyError: the patch is not finished.
            TileError: its record changed on disk.
        """
        handle, place = self._places[name]
        handle.seek(place)
        body = _body(handle)
        if body is None:
            raise TileError(
                f"The finished patch {name} of {self._output} changed on disk: delete the files "
                f"{self._output.name}.*.progress beside it and run again."
            )
        with np.load(io.BytesIO(body), allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files if key != "name"}

    def remove(self) -> None:
        """Remove the files, of all jobs: the block is finished. Another job that still works
        on it has its own open."""
        for path in self._files():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("cannot remove %s (%s): it is of no more use", path, error.strerror)

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
        self._own = self._open.enter_context(path.open("x+b"))
        self._own.write(self._header)
        return self._own

    def _records(self, handle: BinaryIO, path: Path) -> Iterator[tuple[str, int]]:
        """Names and places of a file's whole records, if it is of the same making."""
        if handle.readline() != self._header:
            logger.info("%s is of another configuration: not used", path.name)
            return
        while True:
            place = handle.tell()
            body = _body(handle)
            if body is None:
                return
            with np.load(io.BytesIO(body), allow_pickle=False) as stored:
                yield str(stored["name"]), place


def _body(handle: BinaryIO) -> bytes | None:
    """The record that begins here; None if there is no whole one."""
    head = handle.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, digest = _HEAD.unpack(head)
    body = handle.read(length) if length < 2**40 else b""
    return body if len(body) == length and hashlib.sha256(body).digest() == digest else None
