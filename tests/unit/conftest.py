"""Fixtures of the unit tests."""

from __future__ import annotations

import gc


def pytest_collectstart() -> None:
    """Collect no garbage while modules are imported and tests collected: there is hardly any."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect it again, but not among what is needed until the end."""
    gc.freeze()
    gc.enable()
