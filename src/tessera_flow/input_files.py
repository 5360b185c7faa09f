"""Refuse to read what is not a file of a sensible size: devices, pipes, endless or giant files."""

from __future__ import annotations

import os
import stat
from typing import Any

from .errors import TesseraFlowError

NO_FILE = "it is a device, pipe or socket"

MAX_TABLE = 2**33
"""Bytes of a Parquet table that is read into memory as a whole."""

MAX_DOCUMENT = 2**30
"""Bytes of a document that is read into memory as a whole: GeoJSON, JSON, text tables."""


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
