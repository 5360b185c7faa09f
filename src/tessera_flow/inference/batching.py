"""Divide the work on a device into forward passes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..errors import ConfigError
from ..models.sampling import Group

logger = logging.getLogger(__name__)

Job = TypeVar("Job")

CPU_PASS_STEPS = 2048
"""Most steps (pixels times sequence length) in one forward pass on a CPU. Larger passes exceed
the cache of a core: a nano is 1.6 times as fast as with 37,000."""


@dataclass
class PassLimit:
    """The size of a forward pass; reduced when memory runs out.

    Attributes:
        pixels: most pixels.
        steps: most pixels times steps, or None.
        reduced: memory ran out once.
    """

    pixels: int
    steps: int | None = None
    reduced: bool = False

    @classmethod
    def on(cls, device: torch.device, batch_size: int) -> PassLimit:
        """Return the limit of a device: `batch_size` pixels, on a CPU as many as fit its cache."""
        return cls(batch_size, CPU_PASS_STEPS if device.type == "cpu" else None)

    def split(self, group: Group) -> Iterator[Group]:
        """Split a group into passes; a limit that is reduced meanwhile applies from then on."""
        start, steps = 0, group.steps.shape[1]
        while start < len(group.pixels):
            size = self.pixels
            if self.steps is not None:
                size = min(size, max(1, self.steps // max(1, steps)))
            yield group.take(slice(start, start + size))
            start += size

    def run(self, group: Group, function: Callable[[Group], None]) -> None:
        """Run a pass; if memory runs out, run it in halves, and reduce the limit.

        Raises:
            ConfigError: there is not enough memory for one pixel.
        """
        try:
            function(group)
            return
        except torch.OutOfMemoryError:
            pass  # the memory of the pass is released only outside this clause
        size = len(group.pixels)
        if size == 1:
            raise ConfigError(
                "The GPU does not have enough memory for one pixel of this model: use another "
                "device, or run no other program on this GPU."
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = -(-size // 2)
        if half < self.pixels:
            self.pixels, self.reduced = half, True
            logger.warning("out of memory with %d pixels in a pass: continuing with %d", size, half)
        for pixels in (slice(0, half), slice(half, size)):
            self.run(group.take(pixels), function)


def for_each(jobs: Iterable[Job], function: Callable[[Job], None], device: torch.device) -> None:
    """Call a function for every job; on a CPU in as many threads as PyTorch has, one job each.

    That is faster than threads that share a job and wait for one another after every
    operation. The result is identical for any number of threads.
    """

    def work(job: Job) -> None:
        with torch.inference_mode():  # applies to the calling thread only
            function(job)

    if device.type != "cpu":
        for job in jobs:
            work(job)
        return
    with ThreadPoolExecutor(
        torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        try:
            for task in [pool.submit(work, job) for job in jobs]:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
