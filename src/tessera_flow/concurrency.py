"""Ordered map with bounded look-ahead, background writer, calls and locks with a time limit."""

from __future__ import annotations

import errno
import fcntl
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Generic, ParamSpec, TypeVar

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

_HELD = (errno.EAGAIN, errno.EACCES)
_PAUSE = 0.05


def ordered_map(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    limit: int | None = None,
    stop: threading.Event | None = None,
) -> Generator[R, None, None]:
    """Yield `function(item)` for each item, in the order of the items.

    Items are taken one by one, so memory does not grow with their number. A generator whose
    caller can fail between two results must be closed (`contextlib.closing`).

    Args:
        function: called in the threads.
        items: iterated in the calling thread.
        threads: calls that run at a time; 0: in the calling thread, when a result is requested.
        limit: results that exist at a time, with those still being computed and the one that
            the caller is using; default: `threads`.
        stop: set when a call fails or the caller stops iterating, so that running calls can
            end early. They are waited for; calls not started are cancelled.

    Raises:
        Exception: that of the first call, in the order of the items, that failed.
    """
    if threads == 0:
        yield from map(function, items)
        return
    limit = threads if limit is None else limit
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= limit:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            if stop is not None:
                stop.set()
            raise
        finally:
            for future in waiting:
                future.cancel()


class BackgroundWriter(Generic[P]):
    """Calls a function in a background thread, one call at a time, in order.

    No queue: a second call waits for the first, so that at most one set of arguments is kept
    in memory. On exit the last call is waited for.

    Args:
        function: writes its arguments.
        enabled: if false, calls run in the calling thread.
    """

    def __init__(self, function: Callable[P, None], enabled: bool = True) -> None:
        self._function = function
        self._pool = ThreadPoolExecutor(1) if enabled else None
        self._running: Future[None] | None = None

    def __enter__(self) -> BackgroundWriter[P]:
        return self

    def write(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Start a call when the previous one has ended.

        Raises:
            Exception: that of the previous call; this one is not started.
        """
        if self._pool is None:
            self._function(*args, **kwargs)
            return
        self._wait()
        self._running = self._pool.submit(self._function, *args, **kwargs)

    def _wait(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def __exit__(self, *error: object) -> None:
        """Wait for the last call; raise its exception unless the block failed itself."""
        if self._pool is not None:
            self._pool.shutdown()
            if error[0] is None:
                self._wait()


def call_with_timeout(call: Callable[[], R], seconds: float) -> R:
    """Return the result of a call that has no time limit of its own.

    After a timeout the call continues in a daemon thread; its result is dropped.

    Raises:
        TimeoutError: it takes longer than `seconds`.
    """
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised in the calling thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout=max(seconds, 0.0))


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
