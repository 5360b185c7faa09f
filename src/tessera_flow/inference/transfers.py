"""Copies between this machine's memory and a device that let neither of them wait.

A copy is asynchronous only if the memory of the machine is pinned. PyTorch keeps pinned memory
that is no longer referenced and uses it again once the copies from it have ended. On a CPU
tensors are copied at once, memory is ordinary, and events and streams do nothing, so the code
that uses this class is the same everywhere.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class Event:
    """The end of what was started on a device, with the memory that is in use until then."""

    event: Any
    memory: list[Tensor]

    def wait(self) -> None:
        """Wait for it, and let the memory be used again."""
        if self.event is not None:
            self.event.synchronize()
        self.memory.clear()


class Transfers:
    """Copies of one device, with a stream of their own for copies to it.

    Attributes:
        device: the device.
        copies: number of copies so far.
        blocking: copies for which the calling thread had to wait: from or to memory that is not
            pinned.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.copies = 0
        self.blocking = 0
        self._in_use: list[Tensor] = []
        self._module: Any = None if device.type == "cpu" else torch.get_device_module(device)
        self._ahead = None if self._module is None else self._module.Stream(device)

    def free_bytes(self) -> int:
        """Return the memory of the device that is free or kept by PyTorch; of a CPU no limit."""
        if self._module is None:
            return sys.maxsize
        kept = self._module.memory_reserved(self.device) - self._module.memory_allocated(
            self.device
        )
        return int(self._module.mem_get_info(self.device)[0] + kept)

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array, not initialised, in pinned memory if the device is not the CPU."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        memory = torch.empty(size, dtype=torch.uint8, pin_memory=self._module is not None)
        result: NDArray[Any] = memory.numpy().view(dtype).reshape(shape)
        return result

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Run what is started inside beside what the device computes."""
        if self._module is None:
            yield
            return
        with self._module.stream(self._ahead):
            yield

    def event(self) -> Event:
        """Return the end of all that was started on the current stream so far."""
        memory, self._in_use = self._in_use, []
        if self._module is None:
            return Event(None, memory)
        # Waiting for an event of CUDA occupies a core, unless it is a blocking one.
        event = self._module.Event(**({"blocking": True} if self.device.type == "cuda" else {}))
        event.record(self._module.current_stream(self.device))
        return Event(event, memory)

    def follow(self, event: Event) -> None:
        """Let the device start what follows only after an event; the calling thread continues."""
        if event.event is not None:
            self._module.current_stream(self.device).wait_event(event.event)

    def wait_for_all(self) -> None:
        """Wait until all that was started has ended.

        Memory of one stream must not be used again while another one still works with it; PyTorch
        does not know of this use.
        """
        if self._module is not None:
            self._module.synchronize(self.device)
        self._in_use.clear()

    def upload(self, *arrays: NDArray[Any]) -> Tensor:
        """Return a tensor on the device: the arrays, concatenated along their first axis.

        Rows of a stack of images are copied image by image. An array that is not contiguous
        otherwise, not in the byte order of this machine or not pinned is first copied to pinned
        memory. PyTorch's operations do not know uint16: it becomes int16
        with the same bits.
        """
        first = arrays[0]
        dtype = first.dtype.newbyteorder("=")
        if dtype == np.uint16:
            dtype = np.dtype(np.int16)
        shape = (sum(len(array) for array in arrays), *first.shape[1:])
        result = torch.empty(shape, dtype=torch_type(dtype), device=self.device)
        start = 0
        for array in arrays:
            target = result[start : start + len(array)]
            start += len(array)
            if not array.size:
                continue
            if not array.flags.c_contiguous and self._is_direct(array[0]):
                for image, part in zip(array, target, strict=True):
                    self._copy(torch.from_numpy(image.view(dtype)), part)
            else:
                self._copy(self._staged(array, dtype), target)
        return result

    def download(self, tensor: Tensor) -> NDArray[Any]:
        """Start a copy from the device; the array is valid after `wait` of the next event."""
        array = self.allocate(tuple(tensor.shape), numpy_type(tensor.dtype))
        self._copy(tensor, torch.from_numpy(array))
        return array

    def _is_direct(self, array: NDArray[Any]) -> bool:
        """Return whether an array can be copied to the device without a copy in between."""
        if not (array.dtype.isnative and array.flags.c_contiguous and array.flags.writeable):
            return False
        memory = torch.from_numpy(array.view(np.uint8).reshape(-1))
        return self._module is None or memory.is_pinned()

    def _staged(self, array: NDArray[Any], dtype: np.dtype[Any]) -> Tensor:
        if self._is_direct(array):
            return torch.from_numpy(array.view(dtype))
        staged = self.allocate(array.shape, array.dtype.newbyteorder("="))
        np.copyto(staged, array)
        return torch.from_numpy(staged.view(dtype))

    def _copy(self, source: Tensor, target: Tensor) -> None:
        self.copies += 1
        self._in_use += source, target
        host = source if source.device.type == "cpu" else target
        if self._module is not None and not host.is_pinned():
            self.blocking += 1
        target.copy_(source, non_blocking=True)


def torch_type(dtype: np.dtype[Any]) -> torch.dtype:
    """Return PyTorch's type of the same numbers."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def numpy_type(dtype: torch.dtype) -> np.dtype[Any]:
    """Return NumPy's type of the same numbers."""
    return torch.empty(0, dtype=dtype).numpy().dtype
