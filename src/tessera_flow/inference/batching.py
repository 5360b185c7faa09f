"""Divide the work on a device into forward passes."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch

from ..errors import ConfigError
from ..models.sampling import Group

logger = logging.getLogger(__name__)

Job = TypeVar("Job")

CPU_PASS_STEPS = 2048
"""Most steps (pixels times sequence length) in one forward pass on a CPU. Larger passes exceed
the cache of a core: a nano is 1.6 times as fast as with 37,000."""


TOKENS_PER_PIXEL = 64
"""Steps of one of the pixels by which the size of a pass on a GPU is given."""


LARGEST_PASS = 65535
"""Most pixels of a pass on a GPU: attention starts a group of threads for each, along an axis on
which CUDA has no more."""


class Work(Protocol):
    """Pixels of a forward pass."""

    def __len__(self) -> int: ...

    def take(self, pixels: slice, /) -> Self:
        """Return a subset of the pixels."""


SomeWork = TypeVar("SomeWork", bound=Work)


class Limit(ABC):
    """The size of a forward pass; reduced when memory runs out.

    Attributes:
        reduced: memory ran out once.
    """

    reduced: bool = False

    @abstractmethod
    def size(self, steps: int) -> int:
        """Return the maximum number of pixels with this number of steps, at least 1."""

    @abstractmethod
    def reduce(self, pixels: int, steps: int) -> bool:
        """Limit passes to this number of pixels with this number of steps.

        Returns:
            Whether larger passes were allowed.
        """

    def run(self, work: SomeWork, function: Callable[[SomeWork], None], steps: int = 1) -> None:
        """Run a pass; if memory runs out, run it in halves, and reduce the limit.

        Args:
            work: its pixels.
            function: runs a pass.
            steps: of each pixel.

        Raises:
            ConfigError: there is not enough memory for one pixel.
        """
        try:
            function(work)
            return
        except torch.OutOfMemoryError:
            pass  # the memory of the pass is released only outside this clause
        size = len(work)
        if size == 1:
            raise ConfigError(
                "The GPU does not have enough memory for one pixel of this model: use another "
                "device, or run no other program on this GPU."
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = -(-size // 2)
        if self.reduce(half, steps):
            self.reduced = True
            logger.warning("out of memory with %d pixels in a pass: continuing with %d", size, half)
        for pixels in (slice(0, half), slice(half, size)):
            self.run(work.take(pixels), function, steps)


@dataclass
class PassLimit(Limit):
    """A limit of pixels and, on a CPU, of steps.

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

    def size(self, steps: int) -> int:
        """Return the maximum number of pixels with this number of steps, at least 1."""
        if self.steps is None:
            return self.pixels
        return min(self.pixels, max(1, self.steps // max(1, steps)))

    def reduce(self, pixels: int, steps: int) -> bool:
        """See `Limit.reduce`."""
        before, self.pixels = self.pixels, min(pixels, self.pixels)
        return self.pixels < before

    def split(self, group: Group) -> Iterator[Group]:
        """Split a group into passes; a limit that is reduced meanwhile applies from then on."""
        start = 0
        while start < len(group):
            size = self.size(group.steps.shape[1])
            yield group.take(slice(start, start + size))
            start += size


@dataclass
class TokenLimit(Limit):
    """A limit of tokens (pixels times steps), so that all passes are equally large.

    Attributes:
        tokens: most tokens.
        reduced: memory ran out once.
    """

    tokens: int
    reduced: bool = False

    def size(self, steps: int) -> int:
        """Return the maximum number of pixels with this number of steps, at least 1."""
        return max(1, min(LARGEST_PASS, self.tokens // steps))

    def reduce(self, pixels: int, steps: int) -> bool:
        """See `Limit.reduce`."""
        before, self.tokens = self.tokens, min(pixels * steps, self.tokens)
        return self.tokens < before


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
