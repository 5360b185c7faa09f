"""Write .npy files window by window, in constant memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap


def put(path: Path, slices: tuple[slice, slice], values: Any) -> None:
    """Write one window. The map is made anew each time: written pages of a map count as
    this process's memory until it is unmapped."""
    view = open_memmap(path, mode="r+")
    view[slices] = values
    del view


def allocate(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Make a .npy file of zeros with its space on disk reserved: a full disk is an OSError
    here, where a page that cannot be written later would be a fatal signal (SIGBUS)."""
    view = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    del view
    with path.open("r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
