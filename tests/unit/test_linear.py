"""Packed matrix products equal plain ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from benchmarks import inference, roofline

from tessera_flow.models import linear
from tessera_flow.models.linear import Linear, onednn_computes, product_and_relu

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 0.02}


@pytest.fixture(params=[True, False], ids=["onednn", "without onednn"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    if not request.param:
        monkeypatch.setattr(linear, "onednn_computes", lambda dtype: False)
    elif not onednn_computes(torch.float32):
        pytest.skip("this PyTorch has no oneDNN")
    yield request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_packed_product_equals_the_plain_product(
    dtype: torch.dtype, bias: bool, onednn: bool
) -> None:
    if onednn and not onednn_computes(dtype):
        pytest.skip(f"this processor does not compute in {dtype}")
    torch.manual_seed(0)
    layer = Linear(24, 40, bias=bias)
    x, add = torch.randn(5, 7, 24), torch.randn(5, 7, 40)
    expected = F.linear(x, layer.weight, layer.bias)
    layer.pack(dtype)
    assert (layer.weight.numel() == 0) == onednn
    for result, exact, result_type in (
        (layer(x), expected, dtype),
        (layer(x, relu=True), expected.clamp(min=0), dtype),
        (layer(x, add=add), expected + add, torch.float32),
        (layer(x, add=add.to(dtype)), expected + add, dtype),
    ):
        assert result.dtype == result_type
        error = (result.float() - exact).abs() / exact.abs().clamp(min=1)
        assert error.max() < TOLERANCE[dtype]


@torch.inference_mode()
def test_unpacked_layer_equals_torch() -> None:
    torch.manual_seed(0)
    layer, x = Linear(6, 3), torch.randn(4, 6)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_nothing_is_packed_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(weight: torch.Tensor) -> torch.Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")

    onednn_computes.cache_clear()
    monkeypatch.setattr(linear, "_reorder", missing)
    assert not onednn_computes(torch.float32)
    onednn_computes.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 24), (5, 7, 24), (1, 1, 24)])
def test_product_and_relu_of_a_gpu(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(s).to(dtype) for s in (shape, (40, 24), (40,)))
    result = product_and_relu(x, weight, bias)
    expected = F.relu(F.linear(x.float(), weight.float(), bias.float()))
    assert result.dtype == dtype and result.shape == expected.shape and (result == 0).any()
    torch.testing.assert_close(
        result.float(), expected, atol=TOLERANCE[dtype] * 4, rtol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("name", ["v2-nano", "v2-medium", "v1.0", "v1.1"])
def test_operations_of_the_computed_limits(name: str) -> None:
    """The kernels of the passes on a GPU do the operations that the shapes of the model require."""
    model = roofline.create(name, torch.bfloat16)
    length = model.family.rule.size or roofline.STEPS
    passes = roofline.passes_of(model)
    for encoder, encoding in zip((model.s2, model.s1), passes, strict=False):
        counted = sum(kernel.operations for kernel in encoding.kernels) / encoding.pixels
        expected = inference.encoder_operations(encoder, length, length)
        assert counted == pytest.approx(expected, rel=3e-4)
        assert 0.98 * 4096 * 64 < encoding.pixels * length <= 4096 * 64


def test_the_page_has_the_computed_limits() -> None:
    page = (Path(__file__).parents[2] / "docs/performance.md").read_text(encoding="utf-8")
    for line in roofline.report(["v2-nano", "v1.1"], compiled=False).splitlines():
        assert line in page
