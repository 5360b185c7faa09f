"""Refuse to read what is not a file of a sensible size: devices, pipes, endless or giant files.
Name the damage of block files, for readers with and without the library that reads arrays."""

from __future__ import annotations

import errno
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import ReadError, TesseraFlowError, TileError

NO_FILE = "it is a device, pipe or socket"

MAX_TABLE = 2**33
"""Bytes of a Parquet table that is read into memory at once."""

MAX_DOCUMENT = 2**30
"""Bytes of a document that is read into memory at once: GeoJSON, JSON, text tables."""

BLOCK_ROOT = "zarr.json"
"""Name in the zip file of a block file of the metadata of its root group."""

MADE_FROM = "made_from"
"""Attribute of a block file with the hash of each step before a file."""

_INCOMPLETE_BLOCK = (zipfile.BadZipFile, ValueError, LookupError, TypeError, AttributeError)
"""Errors under `damage_named` of a file that is not a complete block file."""

_DAMAGE = (
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
_OF_CONTENT = (None, errno.EINVAL)
"""Codes of an `OSError` by which a decompressor reports damage, or a seek to a position that the
file states, before its start."""


def without_links(path: str, flags: int) -> int:
    """Open a file to write to, but not through a link, for `open(..., opener=...)`.

    In a folder that others can write to, a link would lead to a file of this user.

    Raises:
        OSError: it is a link, or cannot be opened.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def table_bytes(metadata: Any) -> int:
    """Return the memory in bytes that a Parquet table needs at least, by its metadata.

    Values that repeat take hardly any space in the file, so rows and columns count as well.
    """
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    stated = sum(group.total_byte_size for group in groups)
    return int(max(stated, 4 * metadata.num_rows * metadata.num_columns))


def is_special(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a device, pipe or socket, whose reading might never end.

    Raises:
        OSError: it does not exist or cannot be looked at.
    """
    mode = os.stat(path).st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_input(
    path: str | os.PathLike[str], error: type[TesseraFlowError], limit: int | None = None
) -> None:
    """Refuse a device, pipe or socket, and a file that is too large to be read into memory.

    A path that does not exist is left to the function that opens it.

    Args:
        path: of the input.
        error: class of the error to raise.
        limit: largest size in bytes; None if the file is not read into memory.

    Raises:
        TesseraFlowError: of the class `error`.
    """
    try:
        if is_special(path):
            raise error(f"{path} cannot be read: {NO_FILE}. Name a file.")
        size = os.stat(path).st_size
    except (OSError, ValueError):
        return
    if limit is not None and size > limit and not os.path.isdir(path):
        raise error(
            f"{path} has {size / 1e9:.1f} GB, more than the limit of {limit / 1e9:.1f} GB for a "
            "file that is read into memory: check that it is the right file, or divide it."
        )


@contextmanager
def damage_named() -> Iterator[None]:
    """Raise damage of every kind that `zipfile` reports as `BadZipFile`.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        yield
    except _DAMAGE as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error
    except OSError as error:
        if error.errno not in _OF_CONTENT:
            raise
        raise zipfile.BadZipFile(str(error)) from error


@contextmanager
def opening_block(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name what is wrong with a block file that is opened.

    Raises:
        TileError: the file is missing or is not a complete block file.
        ReadError: the file cannot be read.
    """
    try:
        with damage_named():
            yield
    except FileNotFoundError as error:
        raise TileError(f"{path} does not exist: run the step that makes it again.") from error
    except OSError as error:
        raise ReadError(
            f"{path} cannot be read ({error.strerror}): check the file system and the permissions "
            "of the file, and run again."
        ) from error
    except _INCOMPLETE_BLOCK as error:
        raise TileError(
            f"{path} is not a complete block file ({error}): delete it and run again."
        ) from error
