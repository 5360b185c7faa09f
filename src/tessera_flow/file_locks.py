"""Locks of files, with a limit on the time to wait for them."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Callable
from typing import IO, Any

_HELD = (errno.EAGAIN, errno.EACCES)
_PAUSE = 0.05


def lock_for(handle: IO[Any], seconds: float, lock: Callable[..., Any] = fcntl.lockf) -> None:
    """Lock an open file, until it is closed.

    Args:
        handle: the file, open for writing.
        seconds: time to wait for a lock that another process holds.
        lock: `fcntl.lockf` or `fcntl.flock`.

    Raises:
        OSError: the lock is still held, or the file system has no locks.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _HELD or time.monotonic() > end:
                raise
        time.sleep(_PAUSE)
