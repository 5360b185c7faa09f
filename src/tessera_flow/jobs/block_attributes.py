"""Read the attributes of a block file, without the libraries that read its arrays."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ..concurrency import ordered_map
from ..errors import TileError
from ..input_files import BLOCK_ROOT, opening_block

_THREADS = 16
"""Block files that are read at a time: file systems of clusters take long for the first byte."""


def read_attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the attributes of a block file.

    Raises:
        TileError: the file is missing or is not a complete block file.
        ReadError: the file cannot be read.
    """
    with opening_block(path), zipfile.ZipFile(path) as archive:
        attributes = json.loads(archive.read(BLOCK_ROOT)).get("attributes", {})
        if not isinstance(attributes, dict):
            raise ValueError("its attributes are not an object")
    return attributes


def attributes_of_existing(paths: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield those of some block files that exist, with their attributes; None: it is damaged.

    Raises:
        ReadError: a file cannot be read.
    """
    with closing(ordered_map(_read, paths, _THREADS)) as results:
        yield from (result for result in results if result is not None)


def _read(path: str) -> tuple[str, dict[str, Any] | None] | None:
    if not Path(path).exists():
        return None
    try:
        return path, read_attributes(path)
    except TileError:
        return path, None
