"""A folder that is made once, also when pytest-xdist runs several workers."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TIMEOUT = 900
"""Seconds until a worker no longer waits for another one that makes the folder."""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder `name` of this run of tests, made by the first worker that asks for it.

    Args:
        factory: the fixture `tmp_path_factory`.
        name: of the folder, which does not exist when `make` is called.
        make: makes it. If it fails, the next worker tries again.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    place = root / f"once-{name}"
    place.mkdir(exist_ok=True)
    folder, done = place / name, place / "done"
    with (place / "lock").open("w") as lock:
        _wait_for(lock.fileno(), name)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            make(folder)
            done.touch()
    return folder


def _wait_for(lock: int, name: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another worker has not made {name} in {TIMEOUT} s") from None
            time.sleep(0.2)
