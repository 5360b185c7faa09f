"""The v2 teacher against numbers recorded from the published code."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from tessera_flow.inference.embed import InferenceOptions, embed_tile
from tessera_flow.inference.inputs import sentinel1_steps, sentinel2_steps
from tessera_flow.models.family import Model
from tessera_flow.models.layers import StackSizes
from tessera_flow.models.philox import Stream
from tessera_flow.models.v2_teacher import V2_TEACHER, TeacherSizes, TokenFusion

from ..support.golden import (
    GOLDEN,
    TILES,
    TOLERANCE,
    assert_absent_sensor_is_zeros,
    assert_inputs,
    assert_modules_of_v2,
    assert_order_of_steps_does_not_matter,
    inputs,
    packed,
    plain,
    tile,
)
from .test_v1 import key_list

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = InferenceOptions(dtype="float32", min_s2=0, min_s1=0)


def teacher() -> Model:
    return plain("v2_teacher_tiny")


def golden(name: str) -> Any:
    return np.load(GOLDEN / f"v2/teacher__{name}.npz")


def test_every_module_equals_the_reference() -> None:
    model = teacher()
    fusion = model.fusion
    assert isinstance(fusion, TokenFusion)
    modules = {
        "fusion_out": fusion.layers[-1],
        "dim_reducer.0": fusion.reducer.expand,
        "dim_reducer.1": fusion.reducer.norm,
        "dim_reducer.4": fusion.reducer.reduce,
        "dim_reducer.5": fusion.reducer.output_norm,
    }
    assert_modules_of_v2(model, golden("unit"), modules)


def test_absent_sensor_is_one_row_of_zeros() -> None:
    assert_absent_sensor_is_zeros(teacher(), golden("unit"))


@pytest.mark.parametrize("name", TILES)
def test_embeddings_equal_the_reference(name: str) -> None:
    expected, result = golden(name), embed_tile(tile(name), packed("v2_teacher_tiny"), ALL).values
    undefined = expected["both_zero"]
    assert result.shape == expected["emb"].shape
    np.testing.assert_allclose(
        result[~undefined], expected["emb"][~undefined], atol=TOLERANCE, rtol=0
    )
    # The reference has zeros there, which look like an embedding.
    assert np.isnan(result[undefined]).all() and (expected["emb"][undefined] == 0).all()


@pytest.mark.parametrize("name", ["main", "one"])
def test_inputs_and_bins_equal_the_reference(name: str) -> None:
    expected, arrays, model = golden(name), tile(name), teacher()
    rows = slice(0, arrays.shape[0])
    for key, sensor in (
        ("s2", sentinel2_steps(arrays, rows, model.statistics)),
        ("s1", sentinel1_steps(arrays, rows, model.statistics)),
    ):
        x, bins = expected[f"{key}_x"], expected[f"bin_{key}"].reshape(-1)
        origin = np.zeros(bins.size, np.int64)
        groups = model.family.rule.groups(sensor.valid, Stream(0, origin, origin))
        seen = assert_inputs(sensor, groups, x, bins)
        assert np.array_equal(seen, bins > 0)


def test_order_of_steps_does_not_matter() -> None:
    assert_order_of_steps_does_not_matter(teacher(), golden("unit"))


def test_swapped_bands_change_the_embedding() -> None:
    arrays, expected = tile("main"), golden("main")
    order = [0, 1, 2, 4, 3, 5, 6, 7, 8, 9]  # B08 and B8A: the most similar bands
    swapped = dataclasses.replace(arrays, bands=arrays.bands[..., order])
    result = embed_tile(swapped, teacher(), ALL).values
    difference = np.abs(result - expected["emb"])[~expected["both_zero"]]
    assert difference.max() > 100 * TOLERANCE


def test_swapped_sensors_of_the_fusion_change_the_embedding() -> None:
    model, data = teacher(), golden("unit")
    fusion = model.fusion
    assert isinstance(fusion, TokenFusion)
    fusion.modality.data = fusion.modality.flip(0)
    out = model(*inputs(data["s2_x"]), *inputs(data["s1_x"])).numpy()
    assert np.abs(out - data["out"]).max() > 100 * TOLERANCE


def test_names_and_shapes_equal_the_published_ones() -> None:
    text = (GOLDEN / "keys_v2.txt").read_text().split("# v2 teacher ")[1]
    shapes, totals = key_list(text)
    encoder = StackSizes(4096, 4, 4, 16384, qk_norm=True, pre_norm=True)
    fusion = StackSizes(4096, 2, 4, 8192, qk_norm=True, pre_norm=True)
    assert V2_TEACHER.shapes(TeacherSizes(1024, encoder, encoder, fusion)) == shapes
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 2_064_266_242
    assert "2,064,266,242" in totals
