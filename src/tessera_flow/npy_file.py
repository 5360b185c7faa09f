"""Open .npy files, and write them window by window, in constant memory."""

from __future__ import annotations

import os
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray


def open_array(path: Path) -> NDArray[Any]:
    """Map the array of a .npy file into memory, read-only; its header is checked.

    An .npz archive or an array without axes is returned as numpy returns it, not as a map.

    Raises:
        OSError: the file cannot be read.
        ValueError, EOFError: it is no such file, is truncated, or has Python objects.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, OverflowError,
            TypeError, AttributeError) as error:  # fmt: skip
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error
    return array


def put(path: Path, slices: tuple[slice, slice], values: Any) -> None:
    """Write one window of an array of two or more axes.

    The file is mapped again for each window: written pages of a map count as memory of the process
    until it is unmapped.
    """
    view = open_memmap(path, mode="r+")
    view[slices] = values
    del view


def allocate(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Create a .npy file of zeros and reserve its space on disk.

    A full disk is then an OSError here; a page that cannot be written later would be a fatal
    signal (SIGBUS).
    """
    view = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    del view
    with path.open("r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
