"""Numbers recorded from the published code, and comparisons of a model with them."""

import copy
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tessera_flow.inference.inputs import SensorSteps
from tessera_flow.inference.tile import TileArrays
from tessera_flow.models.checkpoint import load_model
from tessera_flow.models.family import Model
from tessera_flow.models.layers import Encoder
from tessera_flow.models.sampling import Group
from tessera_flow.tile_folders.format import read_tile_folder

GOLDEN = Path(__file__).parents[1] / "golden"
TILES = ("main", "long", "one", "none")
TOLERANCE = 5e-5


def checkpoint(name: str) -> Path:
    return GOLDEN / f"checkpoints/{name}.pt"


@cache
def _loaded(name: str, source: str | None) -> Model:
    return load_model(checkpoint(name), statistics=source)


def plain(name: str, source: str | None = None) -> Model:
    """Return a model that is not packed, to change."""
    return copy.deepcopy(_loaded(name, source))


def packed(name: str, source: str | None = None, dtype: torch.dtype = torch.float32) -> Model:
    """Return a packed model, to change."""
    return plain(name, source).pack(dtype)


def tile(name: str) -> TileArrays:
    return read_tile_folder(GOLDEN / "tiles" / name)


def inputs(x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Split recorded inputs (..., C + 1) into the inputs of an encoder: values and days."""
    return torch.from_numpy(x[..., :-1]), torch.from_numpy(x[..., -1]).long()


def record_output(module: nn.Module, store: dict[str, np.ndarray], name: str) -> None:
    """Store the output of a module."""

    def store_output(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        store[name] = output.numpy().copy()

    module.register_forward_hook(store_output)


def embedded(encoder: Encoder, x: np.ndarray) -> np.ndarray:
    """Return an encoder's embedding of the channels, before the day is added."""
    values: torch.Tensor = encoder.embed_values(inputs(x)[0], relu=True)
    result: np.ndarray = encoder.embed_steps(values).numpy()
    return result


def sequences(
    sensor: SensorSteps, pixels: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised values and days."""
    gathered = sensor.on(torch.device("cpu")).sequences(
        torch.from_numpy(pixels), torch.from_numpy(steps)
    )
    return gathered[0].numpy(), gathered[1].numpy()


def assert_inputs(
    sensor: SensorSteps, groups: Iterable[Group], x: np.ndarray, bins: np.ndarray
) -> np.ndarray:
    """Check that sequences equal the recorded inputs x (P, 256, C + 1) of bins (P,).

    Returns (P,) bool: the pixels with a sequence.
    """
    seen = np.zeros(bins.size, bool)
    for group in groups:
        steps = group.sequences()
        values, days = sequences(sensor, group.pixels, steps)
        expected = x[group.pixels, : steps.shape[1]]
        assert (bins[group.pixels] == steps.shape[1]).all()
        assert np.array_equal(days, expected[..., -1])
        error = np.abs(values - expected[..., :-1]) / np.maximum(1, np.abs(expected[..., :-1]))
        assert error.max() <= 2e-6
        assert not seen[group.pixels].any()
        seen[group.pixels] = True
    return seen


def assert_modules_of_v2(model: Model, data: Any, modules: Mapping[str, nn.Module]) -> None:
    """Check the output of every module of a v2 model.

    Args:
        model: a model that is not packed.
        data: the recorded inputs and outputs.
        modules: the modules after the encoders, by their recorded names.
    """
    outputs: dict[str, np.ndarray] = {}
    for name, encoder in (("s2_backbone", model.s2), ("s1_backbone", model.s1)):
        record_output(encoder, outputs, f"{name}.pooled")
        for index, layer in enumerate(encoder.layers):
            record_output(layer, outputs, f"{name}.layer{index}")
    for name, module in modules.items():
        record_output(module, outputs, name)
    outputs["out"] = model(*inputs(data["s2_x"]), *inputs(data["s1_x"])).numpy()
    for sensor in ("s2", "s1"):
        x = data[f"{sensor}_x"]
        encoder, days = getattr(model, sensor), inputs(x)[1]
        outputs[f"{sensor}_backbone.embedding"] = embedded(encoder, x)
        outputs[f"{sensor}_backbone.doy_encoding"] = model.s2.codes[days].numpy()
    outputs["dim_reducer.2"] = outputs["dim_reducer.3"] = np.maximum(outputs["dim_reducer.1"], 0)
    expected = {key for key in data.files if key not in ("s2_x", "s1_x")}
    assert set(outputs) == {key for key in expected if not key.startswith("out_T1")}
    for key, value in outputs.items():
        np.testing.assert_allclose(value, data[key], atol=TOLERANCE, rtol=0, err_msg=key)


def assert_absent_sensor_is_zeros(model: Model, data: Any) -> None:
    """Check that an absent sensor of a v2 model equals one recorded row of zeros."""
    s2, s1 = model.s2(*inputs(data["s2_x"])), model.s1(*inputs(data["s1_x"]))
    for key, out in (
        ("out_T1_zeros_s2", model.fusion(model.s2.absent().expand(4, -1), s1)),
        ("out_T1_zeros_s1", model.fusion(s2, model.s1.absent().expand(4, -1))),
    ):
        np.testing.assert_allclose(out.numpy(), data[key], atol=TOLERANCE, rtol=0)


def assert_order_of_steps_does_not_matter(model: Model, data: Any) -> None:
    """Check that a v2 model does not depend on the order of the steps."""
    order = np.random.default_rng(1).permutation(24)
    permuted = model(*inputs(data["s2_x"][:, order]), *inputs(data["s1_x"])).numpy()
    np.testing.assert_allclose(permuted, data["out"], atol=TOLERANCE, rtol=0)
