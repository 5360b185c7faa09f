"""The v2 teacher against numbers recorded from the published code."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tessera_flow.draws import Stream
from tessera_flow.inference import InferenceOptions, embed_tile
from tessera_flow.models.family import Model
from tessera_flow.models.parts import StackSizes
from tessera_flow.models.v2_teacher import V2_TEACHER, TeacherSizes, TokenFusion
from tessera_flow.sequences import sentinel1_steps, sentinel2_steps

from ..support.golden import (
    GOLDEN,
    TILES,
    TOLERANCE,
    assert_inputs,
    embedded,
    inputs,
    packed,
    plain,
    recorded,
    tile,
)
from .test_v1 import key_list

ALL = InferenceOptions(dtype="float32", min_s2=0, min_s1=0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def teacher() -> Model:
    return plain("v2_teacher_tiny")


def golden(name: str) -> Any:
    return np.load(GOLDEN / f"v2/teacher__{name}.npz")


def test_every_part_equals_the_reference() -> None:
    model, data = teacher(), golden("unit")
    fusion = model.fusion
    assert isinstance(fusion, TokenFusion)
    found: dict[str, np.ndarray] = {}
    for name, encoder in (("s2_backbone", model.s2), ("s1_backbone", model.s1)):
        recorded(encoder, found, f"{name}.pooled")
        for index, layer in enumerate(encoder.layers):
            recorded(layer, found, f"{name}.layer{index}")
    recorded(fusion.layers[-1], found, "fusion_out")
    recorded(fusion.reducer.expand, found, "dim_reducer.0")
    recorded(fusion.reducer.norm, found, "dim_reducer.1")
    recorded(fusion.reducer.reduce, found, "dim_reducer.4")
    recorded(fusion.reducer.output_norm, found, "dim_reducer.5")
    found["out"] = model(*inputs(data["s2_x"]), *inputs(data["s1_x"])).numpy()
    for sensor in ("s2", "s1"):
        x = data[f"{sensor}_x"]
        encoder, days = getattr(model, sensor), inputs(x)[1]
        found[f"{sensor}_backbone.embedding"] = embedded(encoder, x)
        found[f"{sensor}_backbone.doy_encoding"] = model.s2.codes[days].numpy()
    found["dim_reducer.2"] = found["dim_reducer.3"] = np.maximum(found["dim_reducer.1"], 0)
    expected = {key for key in data.files if key not in ("s2_x", "s1_x")}
    assert set(found) == {key for key in expected if not key.startswith("out_T1")}
    for key, value in found.items():
        np.testing.assert_allclose(value, data[key], atol=TOLERANCE, rtol=0, err_msg=key)


def test_an_absent_sensor_is_one_row_of_zeros() -> None:
    model, data = teacher(), golden("unit")
    s2, s1 = model.s2(*inputs(data["s2_x"])), model.s1(*inputs(data["s1_x"]))
    for key, out in (
        ("out_T1_zeros_s2", model.fusion(model.s2.absent().expand(4, -1), s1)),
        ("out_T1_zeros_s1", model.fusion(s2, model.s1.absent().expand(4, -1))),
    ):
        np.testing.assert_allclose(out.numpy(), data[key], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", TILES)
def test_embeddings_equal_the_reference(name: str) -> None:
    expected, found = golden(name), embed_tile(tile(name), packed("v2_teacher_tiny"), ALL).values
    nothing = expected["both_zero"]
    assert found.shape == expected["emb"].shape
    np.testing.assert_allclose(found[~nothing], expected["emb"][~nothing], atol=TOLERANCE, rtol=0)
    # The reference has zeros there, which no one can tell from an embedding.
    assert np.isnan(found[nothing]).all() and (expected["emb"][nothing] == 0).all()


@pytest.mark.parametrize("name", ["main", "one"])
def test_inputs_and_bins_equal_the_reference(name: str) -> None:
    expected, arrays, model = golden(name), tile(name), teacher()
    rows = slice(0, arrays.shape[0])
    for key, sensor in (
        ("s2", sentinel2_steps(arrays, rows, model.statistics)),
        ("s1", sentinel1_steps(arrays, rows, model.statistics)),
    ):
        x, bins = expected[f"{key}_x"], expected[f"bin_{key}"].reshape(-1)
        none = np.zeros(bins.size, np.int64)
        groups = model.family.rule.groups(sensor.valid, Stream(0, none, none))
        seen = assert_inputs(sensor, groups, x, bins)
        assert np.array_equal(seen, bins > 0)


def test_the_order_of_time_steps_does_not_matter() -> None:
    model, data = teacher(), golden("unit")
    wanted = model(*inputs(data["s2_x"]), *inputs(data["s1_x"])).numpy()
    order = np.random.default_rng(1).permutation(24)
    turned = model(*inputs(data["s2_x"][:, order]), *inputs(data["s1_x"])).numpy()
    assert np.abs(turned - wanted).max() < 1e-5


def test_two_swapped_bands_are_noticed() -> None:
    arrays, expected = tile("main"), golden("main")
    order = [0, 1, 2, 4, 3, 5, 6, 7, 8, 9]  # B08 and B8A: the two most alike
    swapped = dataclasses.replace(arrays, bands=arrays.bands[..., order])
    found = embed_tile(swapped, teacher(), ALL).values
    difference = np.abs(found - expected["emb"])[~expected["both_zero"]]
    assert difference.max() > 100 * TOLERANCE


def test_swapped_sensors_of_the_fusion_are_noticed() -> None:
    model, data = teacher(), golden("unit")
    fusion = model.fusion
    assert isinstance(fusion, TokenFusion)
    fusion.modality.data = fusion.modality.flip(0)
    out = model(*inputs(data["s2_x"]), *inputs(data["s1_x"])).numpy()
    assert np.abs(out - data["out"]).max() > 100 * TOLERANCE


def test_names_and_shapes_are_those_of_the_published_sizes() -> None:
    text = (GOLDEN / "keys_v2.txt").read_text().split("# v2 teacher ")[1]
    shapes, totals = key_list(text)
    encoder = StackSizes(4096, 4, 4, 16384, qk_norm=True, pre_norm=True)
    fusion = StackSizes(4096, 2, 4, 8192, qk_norm=True, pre_norm=True)
    assert V2_TEACHER.shapes(TeacherSizes(1024, encoder, encoder, fusion)) == shapes
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 2_064_266_242
    assert "2,064,266,242" in totals
