"""Divide the blocks between CPUs and GPUs: in turn, so that the division is repeatable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

GPU_FILES = ("/dev/nvidiactl", "/dev/kfd")
"""Device files of NVIDIA's and AMD's drivers. Checking them is free; importing PyTorch takes
seconds."""


def machine_has_gpu() -> bool:
    """Return whether this machine has the driver of a GPU, without importing PyTorch."""
    return any(Path(name).exists() for name in GPU_FILES)


def shares(cpu_gpu: Sequence[int] | str, device: str) -> tuple[int, int]:
    """Return the shares of (CPUs, GPUs) for `jobs.cpu_gpu` and `model.device` on this machine."""
    if not isinstance(cpu_gpu, str):
        return cpu_gpu[0], cpu_gpu[1]
    gpu = machine_has_gpu() if device == "auto" else device != "cpu"
    return (0, 1) if gpu else (1, 0)


def gpu_blocks(blocks: Sequence[str], cpu: int, gpu: int) -> list[str]:
    """Return the blocks that GPUs embed.

    Of any `cpu + gpu` consecutive blocks exactly `gpu` are for GPUs, evenly spread.

    Args:
        blocks: names in the order of the grid.
        cpu, gpu: shares, not both 0.
    """
    total = cpu + gpu
    return [
        name
        for number, name in enumerate(blocks)
        if (number + 1) * gpu // total > number * gpu // total
    ]


def pattern(names: Sequence[str]) -> str:
    """Return a regular expression that matches exactly these names; nothing if there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"
