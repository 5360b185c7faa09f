"""The recorded numbers of the published code, and what compares a model with them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tessera_flow.models.checkpoint import load_model
from tessera_flow.models.family import Model
from tessera_flow.models.parts import Encoder
from tessera_flow.observations import Group
from tessera_flow.sequences import SensorSteps
from tessera_flow.tiles import TileArrays, read_tile_folder

GOLDEN = Path(__file__).parents[1] / "golden"
TILES = ("main", "long", "one", "none")
TOLERANCE = 5e-5


def checkpoint(name: str) -> Path:
    return GOLDEN / f"checkpoints/{name}.pt"


def plain(name: str, source: str | None = None) -> Model:
    """The model as it is loaded."""
    return load_model(checkpoint(name), statistics=source)


def packed(name: str, source: str | None = None, dtype: torch.dtype = torch.float32) -> Model:
    """The model as it is run."""
    return plain(name, source).pack(dtype)


def tile(name: str) -> TileArrays:
    return read_tile_folder(GOLDEN / "tiles" / name)


def inputs(x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Recorded inputs (..., C + 1) as the encoders take them: values and days."""
    return torch.from_numpy(x[..., :-1]), torch.from_numpy(x[..., -1]).long()


def recorded(module: nn.Module, store: dict[str, np.ndarray], name: str) -> None:
    """Keep what a part puts out."""

    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        store[name] = output.numpy().copy()

    module.register_forward_hook(keep)


def embedded(encoder: Encoder, x: np.ndarray) -> np.ndarray:
    """What an encoder makes of the channels alone, before the day is added."""
    values: torch.Tensor = encoder.embed_values(inputs(x)[0], relu=True)
    result: np.ndarray = encoder.embed_steps(values).numpy()
    return result


def sequences(
    sensor: SensorSteps, pixels: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Standardised values and days."""
    gathered = sensor.on(torch.device("cpu")).sequences(
        torch.from_numpy(pixels), torch.from_numpy(steps)
    )
    return gathered[0].numpy(), gathered[1].numpy()


def assert_inputs(
    sensor: SensorSteps, groups: Iterable[Group], x: np.ndarray, bins: np.ndarray
) -> np.ndarray:
    """Sequences, with their copies, are the recorded inputs x (P, 256, C + 1) of bins (P,).

    Returns (P,) bool, which pixels have a sequence.
    """
    seen = np.zeros(bins.size, bool)
    for group in groups:
        steps = group.sequences()
        values, days = sequences(sensor, group.pixels, steps)
        wanted = x[group.pixels, : steps.shape[1]]
        assert (bins[group.pixels] == steps.shape[1]).all()
        assert np.array_equal(days, wanted[..., -1])
        error = np.abs(values - wanted[..., :-1]) / np.maximum(1, np.abs(wanted[..., :-1]))
        assert error.max() <= 2e-6
        assert not seen[group.pixels].any()
        seen[group.pixels] = True
    return seen
