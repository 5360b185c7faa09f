"""Write the demo weights: an untrained v2 nano student.

They show that the workflow runs, not the skill of TESSERA: their embeddings separate land
covers only because any smooth function of the pixels does.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.v2_student import V2_STUDENT, StudentSizes
from .cog import write_if_different

NAME = "demo_nano_untrained.pt"
SEED = 20210701
NOTE = (
    "UNTRAINED demo weights of tessera-flow, made from a fixed seed: they show that the workflow "
    "runs and carry no knowledge. Use published TESSERA weights for anything else."
)
ARGS: dict[str, Any] = {
    "repr_dim": 128,
    "matryoshka_dims": "16,32,64,128",
    "max_seq_len": 256,
    "dropout": 0.1,
    "latent_dim": 16,
    "num_layers": 6,
    "nhead": 4,
    "dim_feedforward": 512,
    "enable_qk_norm": False,
}
"""Sizes of the larger of two readings of "nano": 1.07 million parameters."""

SIZES = StudentSizes(latent_dim=16, num_layers=6, nhead=4, dim_feedforward=512)

# Gains that are not 1. Standardised values are small compared with the encoding of the day of
# year, but the values of a pixel must outweigh the dates; small gains of residual layers keep
# neighbours in feature space together.
_GAINS = {
    "embedding.0.weight": 3.0,
    "embedding.2.weight": 3.0,
    "out_proj.weight": 0.4,
    "linear2.weight": 0.4,
    "attn_pool.query.weight": 0.3,
}


def demo_state(seed: int = SEED) -> dict[str, Tensor]:
    """Return the tensors of an untrained v2 nano, named as in a published checkpoint.

    Matrices are normal with variance gain^2 / (columns), norm gains are one and biases zero
    except the last, which removes the constant that the mean of a rectified standard normal,
    1 / sqrt(2 pi), adds to every pixel.
    """
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in V2_STUDENT.shapes(SIZES).items():
        if len(shape) == 2:
            gain = next((g for end, g in _GAINS.items() if name.endswith(end)), 1.0)
            state[name] = torch.randn(shape, generator=generator) * (gain / math.sqrt(shape[1]))
        elif name.endswith("weight"):
            state[name] = torch.ones(shape)
        else:
            state[name] = torch.zeros(shape)
    state["dim_reducer.4.bias"] = -state["dim_reducer.4.weight"].sum(1) / math.sqrt(2 * math.pi)
    return state


def write_demo_weights(folder: Path) -> Path:
    """Write the checkpoint `demo_nano_untrained.pt` into `folder`; return its path.

    The file is the same every time; an identical one is not rewritten. Besides `model` and
    `args` it has an entry `note`, which describes it.

    Raises:
        OutputError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"model": demo_state(), "args": ARGS, "note": NOTE}, buffer)
    path = folder / NAME
    write_if_different(path, buffer.getvalue())
    return path
