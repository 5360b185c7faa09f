"""Which blocks CPUs embed and which GPUs do: taking turns, so that the choice repeats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

GPU_FILES = ("/dev/nvidiactl", "/dev/kfd")
"""Device files of NVIDIA's and AMD's drivers: looking for them costs nothing, importing PyTorch
for its answer seconds."""


def machine_has_gpu() -> bool:
    """Whether this machine has a GPU's driver, without asking PyTorch."""
    return any(Path(name).exists() for name in GPU_FILES)


def shares(cpu_gpu: Sequence[int] | str, device: str) -> tuple[int, int]:
    """The shares of (CPUs, GPUs) that `jobs.cpu_gpu` and `model.device` mean here."""
    if not isinstance(cpu_gpu, str):
        return cpu_gpu[0], cpu_gpu[1]
    gpu = machine_has_gpu() if device == "auto" else device != "cpu"
    return (0, 1) if gpu else (1, 0)


def gpu_blocks(blocks: Sequence[str], cpu: int, gpu: int) -> list[str]:
    """The blocks that GPUs embed.

    Of any run of `cpu + gpu` blocks in a row GPUs get exactly `gpu`, spread evenly.

    Args:
        blocks: names in the order of the grid.
        cpu, gpu: shares, not both 0.
    """
    whole = cpu + gpu
    return [
        name
        for number, name in enumerate(blocks)
        if (number + 1) * gpu // whole > number * gpu // whole
    ]


def pattern(names: Sequence[str]) -> str:
    """A regular expression that matches exactly these names; nothing if there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"
