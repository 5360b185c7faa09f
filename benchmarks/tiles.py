"""Tiles and untrained weights for benchmarks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tessera_flow.models.checkpoint import FAMILIES
from tessera_flow.models.family import Family
from tessera_flow.models.layers import StackSizes
from tessera_flow.models.v1 import V1Sizes
from tessera_flow.models.v2_student import StudentSizes
from tessera_flow.models.v2_teacher import TeacherSizes

MODELS: dict[str, tuple[str, Any]] = {
    "v2-nano": ("v2-student", StudentSizes(16, 6, 4, 512)),
    "v2-small": ("v2-student", StudentSizes(64, 4, 4, 1024)),
    "v2-medium": ("v2-student", StudentSizes(128, 3, 4, 1920)),
    "v2-large": ("v2-student", StudentSizes(160, 4, 4, 2560)),
    "v1.0": (
        "v1.0",
        V1Sizes(128, StackSizes(512, 8, 8, 4096), StackSizes(512, 8, 8, 4096), 128, 128),
    ),
    "v1.0-qat": (
        "v1.0-qat",
        V1Sizes(128, StackSizes(512, 4, 4, 4096), StackSizes(512, 4, 4, 4096), 128, 128),
    ),
    "v1.1": (
        "v1.1",
        V1Sizes(192, StackSizes(768, 4, 4, 2048), StackSizes(768, 4, 4, 2048), 192, 128),
    ),
    "v2-teacher": (
        "v2-teacher",
        TeacherSizes(
            1024,
            StackSizes(4096, 4, 4, 16384, True, True),
            StackSizes(4096, 4, 4, 16384, True, True),
            StackSizes(4096, 2, 4, 8192, True, True),
            1024,
        ),
    ),
}
"""Family and sizes of the published models (nano and medium: one of the readings that the
published numbers of parameters allow)."""

WEIGHTS_ENTRY = {"v2-student": "model", "v2-teacher": "encoder_state_dict"}


def write_checkpoint(name: str, folder: Path, seed: int = 0) -> Path:
    """Write an untrained checkpoint of a published size and layout, unless it exists."""
    path = folder / f"{name}.pt"
    if path.exists():
        return path
    key, sizes = MODELS[name]
    family: Family = FAMILIES[key]
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for tensor, shape in family.shapes(sizes).items():
        if len(shape) == 2:
            state[tensor] = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        else:
            state[tensor] = torch.full(shape, 1.0 if tensor.endswith("weight") else 0.0)
    settings = {"nhead": sizes.s2.nhead, "dim_feedforward": sizes.s2.dim_feedforward}
    settings |= {"num_layers": sizes.s2.num_layers, "latent_dim": sizes.latent_dim}
    if key == "v2-student":
        settings |= {"matryoshka_dims": "16,32,64,128"}  # type: ignore[dict-item]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({WEIGHTS_ENTRY.get(key, "model_state"): state, "args": settings}, path)
    return path


def write_tile(folder: Path, height: int, width: int, seed: int = 0) -> Path:
    """A tile of a year: 70 Sentinel-2 dates under clouds that come in fields, 40 to 60 % of
    them clear at a pixel; 60 Sentinel-1 dates in two directions, with a few gaps."""
    path = folder / f"tile_{height}x{width}"
    if (path / "done").exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    dates = 70
    cover = smooth_fields(rng, dates, height, width) + rng.normal(0, 0.5, (dates, 1, 1))
    clear = cover < np.median(cover)
    season = np.sin(np.arange(dates) / dates * np.pi)[:, None, None, None]
    ground = 1500 + 800 * smooth_fields(rng, 10, height, width).transpose(1, 2, 0)
    bands = ground * (0.7 + 0.6 * season) + rng.normal(0, 60, (dates, height, width, 10))
    bands[~clear] += 4000
    arrays = {
        "bands": np.clip(bands, 1, 12000).astype(np.uint16),
        "masks": clear.astype(np.uint8),
        "doys": np.linspace(2, 362, dates).astype(np.int64),
    }
    for number, name in enumerate(("sar_ascending", "sar_descending")):
        days = np.linspace(3 + 4 * number, 358 + 4 * number, 30).astype(np.int64)
        echo = 5200 + 500 * smooth_fields(rng, 2, height, width).transpose(1, 2, 0)
        echo = echo + rng.normal(0, 300, (30, height, width, 2)) - [0, 1500]
        echo[rng.random((30, height, width)) < 0.01] = 0
        arrays |= {name: echo.astype(np.int16), f"{name}_doy": days}
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    (path / "done").touch()
    return path


def smooth_fields(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """(count, height, width) smooth fields of mean 0 and deviation of about 1."""
    coarse = rng.normal(0, 1, (count, height // 8 + 3, width // 8 + 3))
    fields = np.kron(coarse, np.ones((1, 8, 8)))
    for axis in (1, 2):
        fields = np.cumsum(fields, axis=axis)
        ahead, behind = (
            np.take(fields, np.arange(8, fields.shape[axis]), axis=axis),
            np.take(fields, np.arange(fields.shape[axis] - 8), axis=axis),
        )
        fields = (ahead - behind) / 8
    return fields[:, :height, :width] * 1.5
