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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ReadError, TesseraFlowError, TileError

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

NO_FILE = "it is a device, pipe or socket"

MAX_TABLE = 2**33
"""Bytes of a Parquet table that is read into memory at once."""

MAX_SMALL_TABLE = 2**30
"""The same of a table that needs 100 times the bytes of its file, or more.

Data hardly ever do. A value that repeats is in the file once: a text of 1 MB in each of 3000 rows
is a file of 9 kB that takes 3 GB when it is read. Texts are therefore first read as dictionaries of
their different values, which do not repeat, and counted before they are decoded.
"""

MAX_LIST_VALUES = 2**28
"""Values that the lists in a group of rows may have: the lists of one row are not divided."""

MAX_DOCUMENT = 2**30
"""Bytes of a document that is read into memory at once: GeoJSON, JSON, text tables."""

BLOCK_ROOT = "zarr.json"
"""Name in the zip file of a block file of the metadata of its root group."""

MADE_FROM = "made_from"
"""Attribute of a block file with the hash of each step before a file."""

_INCOMPLETE_BLOCK = (zipfile.BadZipFile, ValueError, LookupError, TypeError, AttributeError)
"""Errors under `damage_named` of a file that is not a complete block file."""

_RATIO = 100
_BATCH = 1000
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_TEXT = "BYTE_ARRAY"

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


def memory_limit(path: Path) -> int:
    """Return how many bytes of memory the table in a file may need."""
    return min(MAX_TABLE, max(MAX_SMALL_TABLE, _RATIO * os.stat(path).st_size))


def memory_fault(path: Path, columns: Sequence[str] | None = None) -> str | None:
    """Return why a table is too large to be read; None if it is not.

    Args:
        path: the Parquet file, or a folder of such files, each of which is checked.
        columns: those that are read, by name; None: all.

    Raises:
        pa.ArrowException, OSError: it cannot be read.
    """
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*.parquet") if p.is_file())
    for file in files:
        size, limit = needed_bytes(file, columns), memory_limit(file)
        if size > limit:
            return (
                f"{file} needs at least {size / 1e9:.1f} GB of memory, more than the limit of "
                f"{limit / 1e9:.1f} GB"
            )
    return None


def needed_bytes(path: Path, columns: Sequence[str] | None = None) -> int:
    """Return the memory that a table needs when it is read, without reading it at once.

    Above `memory_limit`, counting stops early, so that the table needs at least as much.

    Args:
        path: the Parquet file.
        columns: those that are read, by name; None: all.

    Raises:
        pa.ArrowException, OSError: it cannot be read.
    """
    import pyarrow.parquet as pq

    limit = memory_limit(path)
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        size, most = 0, 0
        texts: dict[str, None] = {}
        for index in range(metadata.num_columns):
            column = metadata.schema.column(index)
            if columns is not None and column.path.partition(".")[0] not in columns:
                continue
            chunks = [metadata.row_group(n).column(index) for n in range(metadata.num_row_groups)]
            number = sum(chunk.num_values for chunk in chunks)
            stated = sum(chunk.total_uncompressed_size for chunk in chunks)
            if column.physical_type == _TEXT:
                texts[column.path] = None
                # No value is longer than its chunk.
                most += sum(c.num_values * c.total_uncompressed_size for c in chunks)
                size += max(stated, 4 * number)
            else:
                width = _WIDTHS.get(column.physical_type) or column.length
                size += max(stated, width * number)
    if size > limit or size + most <= limit:
        return size
    with open_texts(path) as file:
        size = 0
        for batch in file.iter_batches(_BATCH, columns=None if columns is None else [*columns]):
            size += decoded_bytes(batch)
            if size > limit:
                break
    return size


def open_texts(path: Path) -> ParquetFile:
    """Open a Parquet file, to be read in batches whose texts are dictionaries.

    Raises:
        pa.ArrowException, OSError: it cannot be read.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.metadata.schema
        columns = [schema.column(n) for n in range(file.metadata.num_columns)]
        texts = [column.path for column in columns if column.physical_type == _TEXT]
    return pq.ParquetFile(path, read_dictionary=texts)


def list_values(file: ParquetFile) -> int:
    """Return the largest number of values in lists of a group of rows."""
    metadata, most = file.metadata, 0
    nested = [
        n for n in range(metadata.num_columns) if metadata.schema.column(n).max_repetition_level
    ]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        most = max(most, sum(group.column(n).num_values for n in nested))
    return most


def decoded_bytes(batch: RecordBatch, each: int = 0) -> int:
    """Return the memory that the values of a batch of `open_texts` take without dictionaries, and
    `each` bytes more for every value."""
    leaves = [leaf for column in batch.columns for leaf in _leaves(column)]
    return sum(_bytes(leaf) + each * (len(leaf) - leaf.null_count) for leaf in leaves)


def _leaves(values: Any) -> Iterator[Any]:
    import pyarrow as pa

    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    kind = values.type
    if pa.types.is_struct(kind):
        for child in values.flatten():
            yield from _leaves(child)
    elif pa.types.is_map(kind):
        first, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
        for part in (values.keys, values.items):
            yield from _leaves(part.slice(first, end - first))
    elif pa.types.is_nested(kind):  # lists
        yield from _leaves(values.flatten())
    else:
        yield values


def _bytes(values: Any) -> int:
    import pyarrow as pa

    if not isinstance(values, pa.DictionaryArray):
        return int(values.nbytes)
    return 4 * len(values) + _length_of_texts(values)


def _length_of_texts(values: Any) -> int:
    """Return the bytes of all texts of a dictionary array. (Arrow's functions for this take longer
    than reading the items of an archive.)"""
    import numpy as np

    words, indices = values.dictionary, values.indices
    if not len(words) or not len(indices):
        return 0
    width = np.int64 if str(words.type).startswith("large_") else np.int32
    ends = np.frombuffer(words.buffers()[1], width)[words.offset : words.offset + len(words) + 1]
    chosen = np.frombuffer(indices.buffers()[1], np.int32)[indices.offset :][: len(indices)]
    # A null has any number.
    return int(np.diff(ends).take(chosen, mode="clip").sum(dtype=np.int64))


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
