"""Keep float32 products in float32, and sums of others: on NVIDIA GPUs TF32 would round the factors
of the former to ten bits, and parts of long sums of bf16 and fp16 would be added in these."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError

logger = logging.getLogger(__name__)

OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
"""Environment variables by which a container or a cluster switches TF32 on."""


def forbid_tf32(device: torch.device) -> None:
    """Switch TF32 off, also where an environment variable switches it on, and check that it is.

    Raises:
        ConfigError: the device still rounds.
    """
    for name in OVERRIDES:
        if os.environ.get(name, "0") != "0":
            logger.info("%s=%s: set to 0, because products must be float32", name, os.environ[name])
            os.environ[name] = "0"  # NVIDIA's libraries read it when they are first used
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    # By default cuDNN's GRU (v1.0 float) uses it.
    torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda" and rounds_factors(torch.matmul, device):
        raise ConfigError(
            "This GPU rounds the factors of float32 products to TF32, although PyTorch is set "
            f"not to: unset {' and '.join(OVERRIDES)} where the job starts, and run again."
        )


def sum_in_float32() -> None:
    """Let NVIDIA's libraries add products of bf16 and fp16 in float32 throughout."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_fp16_accumulation = False
    matmul.allow_fp16_reduced_precision_reduction = False
    matmul.allow_bf16_reduced_precision_reduction = False


def rounds_factors(product: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> bool:
    """Return whether a product of matrices loses the last bits of its float32 factors."""
    value = 1 + 2.0**-12  # exact in float32 (23 bits), 1 in TF32 (10 bits)
    factors = torch.full((256, 256), value, device=device)
    result = product(factors, torch.eye(256, device=device))
    return bool((result != value).any().item())
