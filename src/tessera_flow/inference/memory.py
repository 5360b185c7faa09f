"""Turn the end of a device's memory into a message, wherever it happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import ConfigError

_TEXTS = (
    "out of memory",
    "ALLOC_FAILED",
    "ERROR_OUT_OF_MEMORY",
    "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
    "not enough memory: you tried to allocate",
)
"""What CUDA, its libraries, Intel's runtime and PyTorch on a CPU report."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory has run out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


@contextmanager
def memory_message() -> Iterator[None]:
    """Replace an error of memory by a message; passes and rows that can be halved were before.

    Raises:
        ConfigError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"There is not enough memory for this model and patch ({first[:200]}): run no other "
            "program on this GPU, set a smaller grid.patch_size or model.batch_size, or use "
            "another device. Finished patches are kept."
        ) from error
