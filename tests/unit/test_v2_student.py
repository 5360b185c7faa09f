from typing import Any

import numpy as np
import pytest
from torch import nn

from tessera_flow.models.family import Model
from tessera_flow.models.layers import day_codes
from tessera_flow.models.v2_student import V2_STUDENT, StudentSizes

from ..support.golden import (
    GOLDEN,
    assert_absent_sensor_is_zeros,
    assert_modules_of_v2,
    assert_order_of_steps_does_not_matter,
    inputs,
    plain,
)

VARIANTS = ("noqk", "qk")


def student(variant: str) -> Model:
    return plain(f"v2_student_{variant}")


def unit(variant: str) -> Any:
    return np.load(GOLDEN / f"v2/student_{variant}__unit.npz")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_module_equals_the_reference(variant: str) -> None:
    model = student(variant)
    modules = {
        "dim_reducer.0": model.fusion.expand,
        "dim_reducer.1": model.fusion.norm,
        "dim_reducer.4": model.fusion.reduce,
        "dim_reducer.5": model.fusion.output_norm,
    }
    assert_modules_of_v2(model, unit(variant), modules)


@pytest.mark.parametrize("variant", VARIANTS)
def test_absent_sensor_is_one_row_of_zeros(variant: str) -> None:
    assert_absent_sensor_is_zeros(student(variant), unit(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_steps_does_not_matter(variant: str) -> None:
    assert_order_of_steps_does_not_matter(student(variant), unit(variant))


def test_qk_norm_changes_the_output() -> None:
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
    """Return the recorded key lists: sizes, shapes by name, number of elements."""
    lists = []
    for section in (GOLDEN / "keys_v2.txt").read_text().split("# v2 student ")[1:]:
        head, counts, *rows = section.splitlines()
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


def test_names_and_shapes_equal_the_published_ones() -> None:
    lists = real_sizes()
    assert len(lists) >= 4
    for sizes, shapes, elements in lists:
        assert V2_STUDENT.shapes(sizes) == shapes, sizes
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == elements
