"""Read and write the chunks of block files directly, at the cost of their codecs and checksums.

zarr copies a chunk several times, and compares it with the value of missing chunks.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import FileIO
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.codecs.numcodecs import PackBits
from zarr.storage import ZipStore

from ..block_file import Allocate
from ..errors import TileError

_LOCAL_HEADER = struct.Struct("<26x2H")  # lengths of the name and of the extra field
_READ_SIZE = 2**18  # the checksum follows while the bytes are in the cache of the processor
_BLOSC_HEAD = struct.Struct("<2xBxI8x")  # flags, decompressed size
_NOT_COMPRESSED = 2  # flag of Blosc: the bytes follow its header as they are
_CHECKSUM = struct.Struct("<I")


def encode_chunk(
    array: zarr.Array[Any], start: tuple[int, ...], values: NDArray[Any]
) -> tuple[str, bytes] | None:
    """Return the name of a chunk in the file of its array, and its bytes as zarr stores them.

    Args:
        array: an array that `create_array` created without a checksum, in any store.
        start: place of the first value of the chunk along the first axes; 0 along others.
        values: all values of the chunk that are in the array.

    Returns:
        Name and bytes; None if all values are those of missing chunks, which are not stored.

    Raises:
        ValueError: the values are not those of one chunk, or the array has other codecs.
    """
    start += (0,) * (array.ndim - len(start))
    sizes = tuple(min(c, s - n) for n, c, s in zip(start, array.chunks, array.shape, strict=True))
    codecs: tuple[Any, ...] = getattr(array.metadata, "codecs", ())
    if (
        [type(codec) for codec in codecs] != [BytesCodec, BloscCodec]
        or any(n % c for n, c in zip(start, array.chunks, strict=True))
        or (values.shape, values.dtype) != (sizes, array.dtype)
    ):
        raise ValueError(f"{values.dtype} {values.shape} at {start} is no chunk of {array}")
    if _is_missing(values, array.fill_value):
        return None
    if values.shape != array.chunks:
        chunk = np.full(array.chunks, array.fill_value, array.dtype)
        chunk[tuple(slice(size) for size in values.shape)] = values
        values = chunk
    index = tuple(n // c for n, c in zip(start, array.chunks, strict=True))
    key = f"{array.store_path.path}/{array.metadata.encode_chunk_key(index)}"
    return key, codecs[1]._blosc_codec.encode(np.ascontiguousarray(values))


def _is_missing(values: NDArray[Any], fill_value: Any) -> bool:
    """Return whether all values are those of a chunk that is not stored."""
    for part in (values[:1], values):  # most chunks differ in their first row
        equal = np.isnan(part) if np.isnan(fill_value) else part == fill_value
        if not equal.all():
            return False
    return True


def read_array(array: zarr.Array[Any], allocate: Allocate = np.empty) -> NDArray[Any]:
    """Read an array of an open block file.

    Chunks that divide the first axis only, as of patches, are decompressed where they belong.

    Args:
        array: an array of a file that `open_block_file` opened.
        allocate: returns the array for a shape and a type.

    Raises:
        TileError: a chunk is damaged.
    """
    out: NDArray[Any] = allocate(array.shape, array.dtype)
    store = array.store_path.store
    codecs = [type(codec) for codec in getattr(array.metadata, "codecs", ())]
    bits, checksum = codecs[:1] == [PackBits], codecs[-1:] == [Crc32cCodec]
    if (
        not isinstance(store, ZipStore)
        or codecs != [PackBits] * bits + [BytesCodec, BloscCodec] + [Crc32cCodec] * checksum
        or not array.dtype.isnative
        or array.chunks[1:] != array.shape[1:]
        or not out.flags.c_contiguous
    ):
        out[...] = np.asarray(array[...])
        return out
    entries = {}
    for number, start in enumerate(range(0, array.shape[0], array.chunks[0])):
        key = array.metadata.encode_chunk_key((number,) + (0,) * (array.ndim - 1))
        try:
            entries[start] = store._zf.getinfo(f"{array.store_path.path}/{key}")
        except KeyError:
            out[start : start + array.chunks[0]] = array.fill_value
    scratch = _Scratch()
    read = _read_bits if bits else _read_values
    with store.path.open("rb", buffering=0) as file:
        for start, entry in entries.items():
            target = out[start : start + array.chunks[0]]
            if not read(file, entry, target, array.chunks[0], checksum, scratch):
                raise TileError(
                    f"{store.path} is damaged ({entry.filename}): delete it and run again."
                )
    return out


class _Scratch:
    """Memory for compressed chunks, used again for each of an array.

    Most arrays need none. Where NumPy uses large pages, the first byte costs a page of 2 MB.
    """

    def __init__(self) -> None:
        self._memory: NDArray[np.uint8] = np.empty(0, np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        """Return memory of this size, not initialised."""
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]


def _read_values(
    file: FileIO,
    entry: zipfile.ZipInfo,
    out: NDArray[Any],
    steps: int,
    checksum: bool,
    scratch: _Scratch,
) -> bool:
    """Read a chunk of values into its place.

    Args:
        file: the zip file.
        entry: the chunk, an entry stored without the compression of zip.
        out: its place; shorter than `steps` if it is the last chunk, which is stored complete.
        steps: length of a chunk.
        checksum: the chunk ends with its CRC-32C; otherwise that of the zip file is checked.
        scratch: memory for the entry.

    Returns:
        Whether its checksum and its size are right.
    """
    size = steps * (out[:1].nbytes if len(out) else 0)
    return _read_chunk(file, entry, out.reshape(-1).view(np.uint8), size, checksum, scratch)


def _read_bits(
    file: FileIO,
    entry: zipfile.ZipInfo,
    out: NDArray[Any],
    steps: int,
    checksum: bool,
    scratch: _Scratch,
) -> bool:
    """Read a chunk of booleans that are stored as bits, after the number of bits of padding;
    arguments and result as of `_read_values`."""
    values = steps * (out[:1].size if len(out) else 0)
    packed = np.empty(1 + -(-values // 8), np.uint8)
    if not _read_chunk(file, entry, packed, len(packed), checksum, scratch):
        return False
    out.reshape(-1).view(np.uint8)[:] = np.unpackbits(packed[1:], count=out.size)
    return int(packed[0]) == -values % 8


def _read_chunk(
    file: FileIO,
    entry: zipfile.ZipInfo,
    target: NDArray[np.uint8],
    size: int,
    checksum: bool,
    scratch: _Scratch,
) -> bool:
    """Read the first bytes of a chunk into `target`.

    Args:
        file, entry, checksum, scratch: as of `_read_values`.
        target: memory for the bytes.
        size: number of bytes of the chunk.

    Returns:
        Whether its checksum and its size are right.
    """
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or entry.compress_type != zipfile.ZIP_STORED:
        return False
    file.seek(sum(_LOCAL_HEADER.unpack(header)), os.SEEK_CUR)
    length = entry.file_size - (_CHECKSUM.size if checksum else 0)
    add = google_crc32c.extend if checksum else _extend_crc32
    if length < _BLOSC_HEAD.size:
        return False
    head = np.empty(_BLOSC_HEAD.size, np.uint8)
    found = _read_into(file, head, add, 0)
    if found is None:
        return False
    flags, stated = _BLOSC_HEAD.unpack_from(head.data)
    if stated != size:
        return False
    plain = flags & _NOT_COMPRESSED and length == _BLOSC_HEAD.size + size
    if plain:
        places = [target, np.empty(size - len(target), np.uint8)]
    else:
        compressed = scratch.of(length)
        compressed[: len(head)] = head
        places = [compressed[len(head) :]]
    for place in places:
        found = None if found is None else _read_into(file, place, add, found)
    if checksum:
        stored = file.read(_CHECKSUM.size)
        if found is None or stored != _CHECKSUM.pack(found):
            return False
    elif found != entry.CRC:
        return False
    if plain:
        return True
    if len(target) == size:
        blosc.decompress(compressed.data, target.data)
    else:
        target[:] = np.frombuffer(blosc.decompress(compressed.data), np.uint8)[: len(target)]
    return True


def _extend_crc32(value: int, data: NDArray[np.uint8]) -> int:
    return zlib.crc32(data.data, value)


def _read_into(
    file: FileIO, place: NDArray[np.uint8], add: Callable[[int, Any], int], value: int
) -> int | None:
    """Fill a place from a file; return its checksum, which continues `value`, or None at the end of
    the file."""
    read = 0
    while read < len(place):
        count = file.readinto(place[read : read + _READ_SIZE].data)
        if not count:
            return None
        value = add(value, place[read : read + count])
        read += count
    return value
