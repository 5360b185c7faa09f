"""Where a model runs, how precisely, and how its forward passes are divided."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import torch

from ..errors import ConfigError
from ..models.linear import onednn_computes
from ..models.sampling import Group

logger = logging.getLogger(__name__)

DeviceName: TypeAlias = Literal["auto", "cpu", "cuda", "xpu"]
Precision: TypeAlias = Literal["auto", "float32", "bf16"]
Job = TypeVar("Job")

CPU_PASS_STEPS = 2048
"""Most steps (pixels times sequence length) in one forward pass on a CPU, where larger ones
fall out of a core's cache: a nano is 1.6 times as fast as with 37,000."""

BF16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What processors call arithmetic in bfloat16 of their own."""


def resolve_device(device: DeviceName) -> torch.device:
    """The device to run on; `auto` is the GPU where there is one.

    `cuda` covers AMD GPUs under PyTorch for ROCm; `xpu` is an Intel GPU.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    found = {"cuda": torch.cuda.is_available(), "xpu": torch.xpu.is_available()}
    if device == "auto":
        device = next((name for name in ("cuda", "xpu") if found[name]), "cpu")
    if not found.get(device, True):
        raise ConfigError(
            f"device is {device}, but PyTorch finds no {device.upper()} GPU here: set device to "
            "cpu or auto, or install PyTorch for this GPU on a machine that has one."
        )
    return torch.device(device)


def job_device(kind: str, device: DeviceName, on_missing_gpu: str = "fail") -> DeviceName:
    """The device of an inference job that the workflow gave to CPUs or to GPUs.

    Args:
        kind: `cpu` or `gpu`.
        device: `model.device` of the configuration.
        on_missing_gpu: `fail`, or `cpu` to run there instead.

    Raises:
        ConfigError: a GPU job finds no GPU.
    """
    if kind == "cpu":
        return "cpu"
    found = {"cuda": torch.cuda.is_available(), "xpu": torch.xpu.is_available()}
    names: tuple[DeviceName, ...] = ("cuda", "xpu")
    for name in names:
        if found[name] and device in ("auto", name):
            return name
    where = (
        f"{socket.gethostname()} (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')})"
    )
    if on_missing_gpu == "cpu":
        logger.warning("no GPU on %s: running on the CPU (jobs.on_missing_gpu: cpu)", where)
        return "cpu"
    raise ConfigError(
        f"This block is for a GPU, but PyTorch {torch.__version__} finds none on {where}: ask the "
        "cluster for one (profiles/slurm: partition and `gpu` of infer_gpu), install PyTorch for "
        "it (make install TORCH=gpu), or set jobs.cpu_gpu to [1, 0] or jobs.on_missing_gpu to cpu."
    )


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes matrix products in bfloat16 itself, and so faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "xpu":
        return True
    features = torch.cpu.get_capabilities()
    return any(features.get(name) for name in BF16_FEATURES) and onednn_computes(torch.bfloat16)


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """In what the factors of matrix products are; `auto` is bfloat16 on a GPU that has it.

    Raises:
        ConfigError: bfloat16 is asked for, and the device does not have it.
    """
    able = has_bf16(device)
    if precision == "bf16" and not able:
        raise ConfigError(
            f"precision is bf16, but this {'GPU' if device.type != 'cpu' else 'processor'} does "
            "not compute in bfloat16 (a processor needs avx512_bf16 or amx_bf16): set precision to "
            "float32 or auto."
        )
    wanted = precision == "bf16" or (precision == "auto" and device.type != "cpu" and able)
    chosen = torch.bfloat16 if wanted else torch.float32
    logger.info(
        "running on %s, %s%s",
        describe(device),
        precision_name(chosen),
        " (bf16 is there too)" if able and not wanted else "",
    )
    return chosen


def precision_name(dtype: torch.dtype) -> str:
    """`float32` or `bf16`."""
    return "bf16" if dtype == torch.bfloat16 else "float32"


def describe(device: torch.device) -> str:
    """A device in words: kind and name; for a CPU also the number of threads."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "xpu":
        return f"xpu ({torch.xpu.get_device_name(device)})"
    name = torch.cpu.get_capabilities().get("cpu_name", "unknown processor")
    return f"cpu ({name}, {torch.get_num_threads()} threads)"


@dataclass
class PassLimit:
    """How much goes into one forward pass; shrinks where memory does not suffice.

    Attributes:
        pixels: most pixels.
        steps: most pixels times steps, or None.
        shrunk: memory did not suffice once.
    """

    pixels: int
    steps: int | None = None
    shrunk: bool = False

    @classmethod
    def on(cls, device: torch.device, batch_size: int) -> PassLimit:
        """For a device: `batch_size` pixels, on a CPU no more than its cache holds."""
        return cls(batch_size, CPU_PASS_STEPS if device.type == "cpu" else None)

    def cut(self, group: Group) -> Iterator[Group]:
        """Cut a group into passes; a limit that shrinks meanwhile counts from then on."""
        start, steps = 0, group.steps.shape[1]
        while start < len(group.pixels):
            size = self.pixels
            if self.steps is not None:
                size = min(size, max(1, self.steps // max(1, steps)))
            yield group.some(slice(start, start + size))
            start += size

    def run(self, group: Group, do: Callable[[Group], None]) -> None:
        """Do a pass; where memory does not suffice, in halves, and so the later ones.

        Raises:
            ConfigError: memory does not suffice for a single pixel.
        """
        try:
            do(group)
            return
        except torch.OutOfMemoryError:
            pass  # what the pass held is let go of only outside this clause
        size = len(group.pixels)
        if size == 1:
            raise ConfigError(
                "The GPU's memory does not suffice for one pixel of this model: use another "
                "device, or leave the GPU to this job alone."
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = -(-size // 2)
        if half < self.pixels:
            self.pixels, self.shrunk = half, True
            logger.warning("out of memory with %d pixels in a pass: going on with %d", size, half)
        for part in (slice(0, half), slice(half, size)):
            self.run(group.some(part), do)


def for_each(jobs: Iterable[Job], do: Callable[[Job], None], device: torch.device) -> None:
    """Do every job; on a CPU as many at a time as PyTorch has threads, each on one.

    That is faster than threads that share a job and wait for one another after every
    operation, and the result is the same to the last bit for any number of threads.
    """

    def work(job: Job) -> None:
        with torch.inference_mode():  # holds for the calling thread only
            do(job)

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
