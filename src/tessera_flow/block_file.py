"""Read and write block files: named arrays of one block, the files between two steps.

A block file is a Zarr v3 group in a single zip file (`zarr.storage.ZipStore`): one inode
on a cluster's file system, chunked and compressed, written as a stream, and readable
chunk by chunk with plain zarr. It has its final name only when complete.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.codecs.numcodecs import PackBits
from zarr.core import sync as zarr_threads
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import ZarrUserWarning
from zarr.storage import ZipStore

from .atomic import atomic_output
from .errors import TileError
from .input_files import BLOCK_ROOT, MADE_FROM, damage_named, opening_block

CHUNK = 500
"""Edge in pixels of a stored chunk of an image; a 2000 px block is 16 chunks."""


FORMAT = 2
"""Version of the arrays and attributes of block files. Increase it when an older file would be
misunderstood: 1 had its record of missing scenes under another name."""

_made_from: ContextVar[Mapping[str, str] | None] = ContextVar("made_from", default=None)

WORTH_COMPRESSING = 0.9
"""Largest share of its size to which `create_series` compresses a chunk; others are stored as they
are, because they are read three times as fast."""

Allocate: TypeAlias = Callable[[tuple[int, ...], Any], NDArray[Any]]
"""Returns an array of a shape and a type, like `numpy.empty`."""

_EXIT_SECONDS = 60.0

# About `PackBits`: other implementations of Zarr may not read it. These files are for this one.
warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr", ZarrUserWarning)


def _stop_zarr() -> None:
    """Wait at the end of the process until zarr's event loop has ended.

    zarr waits 0.2 s for it, and on a busy machine then closes a running loop: a traceback after a
    job that has succeeded.
    """
    loop, thread = zarr_threads.loop[0], zarr_threads.iothread[0]
    if loop is not None and thread is not None and not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_EXIT_SECONDS)


# Functions registered later run first: zarr's own was registered when zarr was imported.
atexit.register(_stop_zarr)


class _ReadStore(ZipStore):
    """A zip store that reports damage of every kind as `BadZipFile`."""

    def _sync_open(self) -> None:
        with damage_named():
            super()._sync_open()

    def _get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        with damage_named():
            return super()._get(key, prototype, byte_range)


@contextmanager
def made_from(record: Mapping[str, str]) -> Iterator[None]:
    """Write `record` to the attributes of the block files that the body creates."""
    token = _made_from.set(record)
    try:
        yield
    finally:
        _made_from.reset(token)


def current_record() -> dict[str, str]:
    """Return the record that `made_from` writes to files here; empty outside of it."""
    return dict(_made_from.get() or {})


class _WriteOnceStore(ZipStore):
    """A zip store that stays closed once closed, and that contains no time stamps.

    When a chunk cannot be written, zarr's threads may still write others, for which `ZipStore`
    would open the file again, empty. Time stamps would make files of the same content differ. The
    metadata of the root group are written last, so that its attributes can change until then: an
    entry of a zip file cannot be replaced.
    """

    _finished = False
    _root: Buffer | None = None

    async def set(self, key: str, value: Buffer) -> None:
        if key == BLOCK_ROOT:
            self._root = value
        else:
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if key != BLOCK_ROOT:
            await super().set_if_not_exists(key, value)
        elif self._root is None:
            self._root = value

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == BLOCK_ROOT:
            return self._root
        return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        return self._root is not None if key == BLOCK_ROOT else await super().exists(key)

    def write_root(self) -> None:
        if self._root is not None:
            self._set(BLOCK_ROOT, self._root)

    def _set(self, key: str, value: Buffer) -> None:
        self.write(key, value.to_bytes())

    def write(self, key: str, value: bytes | memoryview) -> None:
        if not self._is_open:
            self._sync_open()
        with self._lock:
            self._zf.writestr(zipfile.ZipInfo(key), value, self.compression)

    def _sync_open(self) -> None:
        if self._finished:
            raise ValueError(f"{self.path} is closed")
        super()._sync_open()

    def close(self) -> None:
        self._finished = True
        if self._is_open:
            super().close()


@contextmanager
def create_block_file(
    path: str | os.PathLike[str], attributes: Mapping[str, Any]
) -> Iterator[zarr.Group]:
    """Yield an empty zarr group that becomes the file `path` when the body succeeds.

    Args:
        path: the file to make; an existing one is replaced at the end.
        attributes: JSON-able attributes of the group; more can be set until the body ends.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_output(path) as part:
        store = _WriteOnceStore(part, mode="w", compression=zipfile.ZIP_STORED)
        try:
            written = {"format": FORMAT, **attributes}
            if (record := _made_from.get()) is not None:
                written[MADE_FROM] = dict(record)
            yield zarr.create_group(store, attributes=written, zarr_format=3)
            store.write_root()
        finally:
            store.close()


@contextmanager
def open_block_file(path: str | os.PathLike[str]) -> Iterator[zarr.Group]:
    """Yield the zarr group in the file `path`, for reading.

    Raises:
        TileError: the file is missing, is not a complete block file, or was written by another
            version.
        ReadError: the file cannot be read.
    """
    with opening_block(path):
        store = _ReadStore(Path(path), mode="r")
        group = zarr.open_group(store, mode="r")
    try:
        if group.attrs.get("format") != FORMAT:
            raise TileError(
                f"{path} was written by another version of tessera-flow: delete it and run again."
            )
        yield group
    except zipfile.BadZipFile as error:
        raise TileError(f"{path} is damaged ({error}): delete it and run again.") from error
    finally:
        store.close()


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: Any,
    fill_value: Any = 0,
    *,
    codec: type[BloscCodec] = BloscCodec,
    checksum: bool = False,
) -> zarr.Array[Any]:
    """Create a compressed array (Blosc: lz4 with byte shuffle, fast both ways).

    Chunks are clipped to the shape; an axis of length 0 is legal. Chunks that hold only
    `fill_value` are not stored. Booleans are stored as bits.
    """
    dtype = np.dtype(dtype)
    bits = dtype == np.bool_
    shuffle: Any = "noshuffle" if bits else "shuffle" if dtype.itemsize > 1 else "bitshuffle"
    return group.create_array(
        name,
        shape=shape,
        chunks=tuple(max(1, min(c, s)) for c, s in zip(chunks, shape, strict=True)),
        dtype=dtype,
        fill_value=fill_value,
        filters=[PackBits()] if bits else None,
        compressors=[
            codec(cname="lz4", clevel=5, shuffle=shuffle),
            *([Crc32cCodec()] if checksum else []),
        ],
    )


class _WorthCompressing(BloscCodec):
    """`blosc` that stores a chunk as it is where compression does not make it smaller enough."""

    def _encode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        compressed = super()._encode_sync(chunk_bytes, chunk_spec)
        if compressed is None or len(compressed) <= WORTH_COMPRESSING * len(chunk_bytes):
            return compressed
        plain = blosc.compress(chunk_bytes.as_numpy_array(), b"lz4", 0, blosc.NOSHUFFLE)
        return chunk_spec.prototype.buffer.from_bytes(plain)

    async def _encode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encode_sync, chunk_bytes, chunk_spec)


def create_series(
    group: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any
) -> zarr.Array[Any]:
    """Create an array that `inference.block_chunks.read_array` reads with the least processor time.

    As `create_array`, but each chunk has a CRC-32C, which processors compute several times as fast
    as the CRC-32 of a zip file, and is stored without compression if that saves little. Chunks
    along the first axis are shortened so that the last one is full or almost full; see
    `chunk_slices`.
    """
    number = -(-shape[0] // chunks[0])
    chunks = (-(-shape[0] // max(1, number)), *chunks[1:])
    return create_array(group, name, shape, chunks, dtype, codec=_WorthCompressing, checksum=True)


def chunk_slices(array: zarr.Array[Any]) -> Iterator[slice]:
    """Yield the indices of the first axis that are in one chunk."""
    size = array.chunks[0]
    for start in range(0, array.shape[0], size):
        yield slice(start, min(start + size, array.shape[0]))


def write_encoded(group: zarr.Group, key: str, encoded: bytes | memoryview) -> None:
    """Write a chunk that `inference.block_chunks.encode_chunk` returned.

    Args:
        group: root group of a file that `create_block_file` creates, with the chunk's array.
        key: name of the chunk.
        encoded: its bytes.
    """
    store = group.store_path.store
    assert isinstance(store, _WriteOnceStore)
    store.write(key, encoded)


def get_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return the array `name` of an open block file.

    Raises:
        TileError: the file has no such array.
    """
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise TileError(f"{group.store} has no array {name}: delete the file and run again.")
    return array
