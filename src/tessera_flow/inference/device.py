"""Choose the device and the precision that a model runs in."""

from __future__ import annotations

import logging
import os
import socket
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch

from ..errors import ConfigError
from ..models.linear import onednn_computes
from .gpus import VISIBLE, Build, candidates, explain, list_gpus, own_gpu
from .tf32 import forbid_tf32, sum_in_float32

logger = logging.getLogger(__name__)

DeviceName: TypeAlias = Literal["auto", "cpu", "cuda", "xpu"]
Precision: TypeAlias = Literal["auto", "float32", "bf16", "fp16"]

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of the factors of matrix products by name of the precision."""

BF16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Names of processor features for arithmetic in bfloat16."""


def resolve_device(device: DeviceName) -> torch.device:
    """Return the device to run on; `auto` is the GPU if there is one that works, else the CPU.

    `cuda` covers AMD GPUs under PyTorch for ROCm; `xpu` is an Intel GPU. Float32 is float32 on
    it: see `tf32.forbid_tf32`.

    Raises:
        ConfigError: a GPU is requested and there is none, or it cannot be used.
    """
    if device == "cpu":
        return torch.device("cpu")
    name, problem = _usable_gpu(device)
    if name is None and device == "auto":
        if problem is not None:
            logger.warning("running on the CPU, because the GPU cannot be used. %s", problem)
        return torch.device("cpu")
    if name is None:
        raise ConfigError(
            f"device is {device}, but PyTorch finds no {device.upper()} GPU here that it can use: "
            "set device to cpu or auto, or install PyTorch for this GPU on a machine that has one."
            + ("" if problem is None else f" {problem}")
        )
    resolved = torch.device(name)
    forbid_tf32(resolved)
    sum_in_float32()
    return resolved


def _usable_gpu(device: DeviceName) -> tuple[DeviceName | None, str | None]:
    """Return the GPU that computes, or None and why the one of this machine does not."""
    available = _available_gpus()
    names: list[DeviceName] = ["cuda", "xpu"]
    error = ""
    for name in names:
        if device not in ("auto", name) or name not in available:
            continue
        message = probe(name)
        if message is None:
            return name, None
        error = error or message
        if name == "xpu":
            return None, f"The Intel GPU reports: {message}."
    if device == "xpu":
        return None, None
    visible = os.environ.get(VISIBLE)
    gpus = list_gpus()
    known = {gpu.id: gpu for gpu in gpus}
    named = [known[name] for name in candidates(gpus, visible) if name in known]
    problem = explain(named or gpus, _build(), error)
    if problem is None and error:
        problem = f"The GPU reports: {error}."
    return None, problem


def probe(name: DeviceName) -> str | None:
    """Compute one number on a device; return its error message if it cannot."""
    try:
        torch.ones(1, device=name).add_(1).item()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0].rstrip(".") or type(error).__name__
    return None


def _build() -> Build:
    return Build(torch.__version__, torch.version.cuda, tuple(torch.cuda.get_arch_list()))


def _available_gpus() -> list[DeviceName]:
    gpus: dict[DeviceName, bool] = {
        "cuda": torch.cuda.is_available(),
        "xpu": torch.xpu.is_available(),
    }
    return [name for name, available in gpus.items() if available]


@contextmanager
def job_device(kind: str, device: DeviceName, on_missing_gpu: str = "fail") -> Iterator[DeviceName]:
    """Yield the device of an inference job that the workflow assigned to CPUs or to GPUs.

    Of several GPUs the job has one to itself, until the block ends; see `gpus.own_gpu`.

    Args:
        kind: `cpu` or `gpu`.
        device: `model.device` of the configuration.
        on_missing_gpu: `fail`, or `cpu` to run on the CPU instead.

    Raises:
        ConfigError: a GPU job finds no GPU that it can use.
    """
    if kind == "cpu":
        yield "cpu"
        return
    with own_gpu(list_gpus()):
        yield _job_gpu(device, on_missing_gpu)


def _job_gpu(device: DeviceName, on_missing_gpu: str) -> DeviceName:
    name, problem = _usable_gpu(device)
    if name is not None:
        return name
    machine = f"{socket.gethostname()} ({VISIBLE}={os.environ.get(VISIBLE)})"
    detail = "" if problem is None else f" {problem}"
    if on_missing_gpu == "cpu":
        logger.warning(
            "no usable GPU on %s: running on the CPU (jobs.on_missing_gpu: cpu).%s", machine, detail
        )
        return "cpu"
    if problem is not None:
        raise ConfigError(
            f"This block is for a GPU, but PyTorch cannot use the one on {machine}.{detail} Or set "
            "jobs.cpu_gpu to [1, 0] or jobs.on_missing_gpu to cpu."
        )
    raise ConfigError(
        f"This block is for a GPU, but PyTorch {torch.__version__} finds none on {machine}: "
        "request one from the cluster (profiles/slurm: partition and `gpu` of infer_gpu), install "
        "PyTorch for it (make install TORCH=gpu), or set jobs.cpu_gpu to [1, 0] or "
        "jobs.on_missing_gpu to cpu."
    )


def has_bf16(device: torch.device) -> bool:
    """Return whether a device computes matrix products in bfloat16 natively, and so faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "xpu":
        return True
    features = torch.cpu.get_capabilities()
    return any(features.get(name) for name in BF16_FEATURES) and onednn_computes(torch.bfloat16)


def has_fp16(device: torch.device) -> bool:
    """Return whether a device computes matrix products of fp16 factors with sums in float32.

    NVIDIA GPUs do since capability 7.0 (V100, T4); older ones add in fp16 or are not faster. CPUs
    are left out: those with fast products in fp16 have bfloat16.
    """
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device) >= (7, 0)
    return device.type != "cpu"


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type of the factors of matrix products.

    `auto` is float32 on a CPU; on a GPU bf16 if it has that, else fp16 if it has that.

    Raises:
        ConfigError: the device does not have the precision, or there is no such precision.
    """
    if precision not in typing.get_args(Precision):
        raise ConfigError(f"precision is {precision!r}: set it to auto, float32, bf16 or fp16.")
    available = has_bf16(device)
    if precision == "fp16" and not has_fp16(device):
        raise ConfigError(
            "precision is fp16, but it is for GPUs that add products of fp16 in float32 (NVIDIA: "
            "capability 7.0 or newer): set precision to float32 or auto."
        )
    if precision == "bf16" and not available:
        raise ConfigError(
            f"precision is bf16, but this {'GPU' if device.type != 'cpu' else 'processor'} does "
            "not compute in bfloat16 (a processor needs avx512_bf16 or amx_bf16): set precision to "
            "float32 or auto."
        )
    chosen = precision if precision != "auto" else _fastest(device, available)
    logger.info(
        "running on %s, %s%s",
        describe(device),
        chosen,
        f" ({_bf16_gain()})" if available and chosen == "float32" else "",
    )
    return DTYPES[chosen]


def _bf16_gain() -> str:
    """Return what bf16 would bring on this processor; see docs/performance.md."""
    gain = "with amx, 2.2 to 3.6 times as fast where it was measured, a nano 1.0 to 1.5"
    if not torch.cpu.get_capabilities().get("amx_bf16"):
        gain = "1.2 to 1.9 times as fast where it was measured"
    return f"bf16 is available, {gain}: set precision to bf16 to use it"


def _fastest(device: torch.device, bf16: bool) -> str:
    if device.type == "cpu":
        return "float32"
    return "bf16" if bf16 else "fp16" if has_fp16(device) else "float32"


def precision_name(dtype: torch.dtype) -> str:
    """Return the name of a precision: `float32`, `bf16` or `fp16`."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def describe(device: torch.device) -> str:
    """Return type and name of a device; of a CPU also its name and the number of threads."""
    if device.type != "cpu":
        return device_name(device)
    name = torch.cpu.get_capabilities().get("cpu_name", "unknown processor")
    return f"cpu ({name}, {torch.get_num_threads()} threads)"


def device_name(device: torch.device) -> str:
    """Return what is recorded of a device: `cpu`, or `cuda` or `xpu` with the name of the GPU."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "xpu":
        return f"xpu ({torch.xpu.get_device_name(device)})"
    return "cpu"
