"""Give memory that GDAL frees back to the system."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
"""Parameter of glibc's `mallopt`, see malloc.h."""

LARGE_BYTES = 128 * 2**10
"""Glibc's first threshold, which it raises to the size of the largest block freed so far."""


def release_large_blocks() -> bool:
    """Make this process return a block of memory of `LARGE_BYTES` or more as soon as it is freed.

    Glibc reuses freed blocks of up to 32 MB instead. Between the small blocks that GDAL's threads
    keep, little of that memory fits the next tile, so the process grows with the tiles it writes.

    Returns:
        Whether the C library has this setting (glibc).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES))
