from typing import Any

import numpy as np
import pytest
from torch import nn

from tessera_flow.models.family import Model
from tessera_flow.models.parts import day_codes
from tessera_flow.models.v2_student import V2_STUDENT, StudentSizes

from ..support.golden import GOLDEN, TOLERANCE, embedded, inputs, plain, recorded

VARIANTS = ("noqk", "qk")


def student(variant: str) -> Model:
    return plain(f"v2_student_{variant}")


def unit(variant: str) -> Any:
    return np.load(GOLDEN / f"v2/student_{variant}__unit.npz")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_equals_the_reference(variant: str) -> None:
    model, golden = student(variant), unit(variant)
    found: dict[str, np.ndarray] = {}
    for name, encoder in (("s2_backbone", model.s2), ("s1_backbone", model.s1)):
        recorded(encoder, found, f"{name}.pooled")
        for index, layer in enumerate(encoder.layers):
            recorded(layer, found, f"{name}.layer{index}")
    recorded(model.fusion.expand, found, "dim_reducer.0")
    recorded(model.fusion.norm, found, "dim_reducer.1")
    recorded(model.fusion.reduce, found, "dim_reducer.4")
    recorded(model.fusion.output_norm, found, "dim_reducer.5")
    found["out"] = model(*inputs(golden["s2_x"]), *inputs(golden["s1_x"])).numpy()
    for sensor in ("s2", "s1"):
        x = golden[f"{sensor}_x"]
        encoder, days = getattr(model, sensor), inputs(x)[1]
        found[f"{sensor}_backbone.embedding"] = embedded(encoder, x)
        found[f"{sensor}_backbone.doy_encoding"] = model.s2.codes[days].numpy()
    found["dim_reducer.2"] = found["dim_reducer.3"] = np.maximum(found["dim_reducer.1"], 0)

    expected = {key for key in golden.files if key not in ("s2_x", "s1_x")}
    assert set(found) == {key for key in expected if not key.startswith("out_T1")}
    for key, value in found.items():
        np.testing.assert_allclose(value, golden[key], atol=TOLERANCE, rtol=0, err_msg=key)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_absent_sensor_is_one_row_of_zeros(variant: str) -> None:
    model, golden = student(variant), unit(variant)
    s2 = model.s2(*inputs(golden["s2_x"]))
    s1 = model.s1(*inputs(golden["s1_x"]))
    for key, out in (
        ("out_T1_zeros_s2", model.fusion(model.s2.absent().expand(4, -1), s1)),
        ("out_T1_zeros_s1", model.fusion(s2, model.s1.absent().expand(4, -1))),
    ):
        np.testing.assert_allclose(out.numpy(), golden[key], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_time_steps_does_not_matter(variant: str) -> None:
    model, golden = student(variant), unit(variant)
    order = np.random.default_rng(1).permutation(24)
    out = model(*inputs(golden["s2_x"][:, order]), *inputs(golden["s1_x"]))
    np.testing.assert_allclose(out.numpy(), golden["out"], atol=TOLERANCE, rtol=0)


def test_the_norm_of_queries_and_keys_is_not_idle() -> None:
    model, golden = student("qk"), unit("qk")
    for layer in model.s2.layers:
        layer.q_norm = nn.Identity()
    out = model(*inputs(golden["s2_x"]), *inputs(golden["s1_x"]))
    assert np.abs(out.numpy() - golden["out"]).max() > 1e-2


def test_day_codes_follow_the_formula() -> None:
    codes = day_codes(32).numpy()
    assert codes.shape == (367, 32)
    angles = np.arange(367)[:, None] * np.exp(-np.arange(0, 32, 2) * np.log(10000.0) / 32)
    np.testing.assert_allclose(codes[:, 0::2], np.sin(angles), atol=3e-5)
    np.testing.assert_allclose(codes[:, 1::2], np.cos(angles), atol=3e-5)


def real_sizes() -> list[tuple[StudentSizes, dict[str, tuple[int, ...]], int]]:
    """The key lists at real sizes: sizes, shapes by name, number of elements."""
    lists = []
    for part in (GOLDEN / "keys_v2.txt").read_text().split("# v2 student ")[1:]:
        head, counts, *rows = part.splitlines()
        words = head.replace(",", " ").split()
        number = {key: int(words[words.index(key) + 1]) for key in ("latent", "ffn", "nhead")}
        sizes = StudentSizes(
            number["latent"],
            int(words[words.index("layers") - 1]),
            number["nhead"],
            number["ffn"],
            qk_norm="enable_qk_norm=True" in head,
        )
        shapes = {}
        for row in rows:
            if not row.strip() or row.startswith("#"):
                break
            key, shape, _ = row.split("\t")
            shapes[key] = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
        lists.append((sizes, shapes, int(counts.split("elements ")[1].replace(",", ""))))
    return lists


def test_names_and_shapes_are_those_of_the_published_sizes() -> None:
    lists = real_sizes()
    assert len(lists) >= 4
    for sizes, shapes, elements in lists:
        assert V2_STUDENT.shapes(sizes) == shapes, sizes
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == elements
