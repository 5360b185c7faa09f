"""Fixtures of the unit tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

real_fsync = os.fsync


def pytest_collectstart() -> None:
    """Collect no garbage while modules are imported and tests collected: there is hardly any."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect it again, but not among what is needed until the end."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_disks() -> Iterator[None]:
    """Leave it to the system when files get to the disk: no test of this folder cuts the power.

    Each of thousands of small files would wait milliseconds for it. `test_atomic.py` uses the real
    call.
    """

    def check_handle(handle: int) -> None:
        os.fstat(handle)

    os.fsync = check_handle
    yield
    os.fsync = real_fsync
