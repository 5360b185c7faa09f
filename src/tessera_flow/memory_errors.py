"""Recognise a lack of memory in the errors of libraries: it is no damaged file."""

from __future__ import annotations

import re

_WORDS = re.compile(
    r"out of memory|not enough memory|cannot allocate|can't allocate|failed to allocate|"
    r"could ?n[o']t allocate|memory allocation|bad_alloc|no space for ", re.I,
)  # fmt: skip


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, is a lack of memory of this process."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, MemoryError) or type(inner).__name__ == "CPLE_OutOfMemoryError":
            return True
        if _WORDS.search(str(inner)):
            return True
        inner = inner.__cause__ or inner.__context__
    return False
