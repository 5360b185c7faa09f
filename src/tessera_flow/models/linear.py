"""The matrix products of the models, with what directly follows them.

Most of an encoder's time is spent here. Plain PyTorch makes a pass over memory for the
product, one for the rectifier and one for the sum with what went round the layer. On a CPU
oneDNN does all three at once, with weights that are laid out for the processor beforehand
and in float32 or bfloat16; that is the call which PyTorch's own compiler emits.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` that can add to its result or rectify it, and be packed for a device."""

    dtype: torch.dtype = torch.float32
    """In what the factors of the product are; sums are float32 in any case."""
    _packed: Tensor | None = None

    def pack(self, dtype: torch.dtype) -> None:
        """Lay the weights out for their device, in `dtype`; they cannot be saved any more.

        Where oneDNN cannot, only the type changes.
        """
        self.dtype = dtype
        weight, bias = self.weight.detach().to(dtype), self.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), False)
        if weight.device.type == "cpu" and onednn_computes(dtype):
            self._packed = _reorder(weight)
            self.weight = nn.Parameter(weight.new_empty((0,)), False)
        else:
            self.weight = nn.Parameter(weight, False)

    def forward(self, x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """x W' + b, rectified if `relu`; then plus `add`. One of the two at most.

        Args:
            x: (..., in_features), any floating-point type.
            add: (..., out_features).
            relu: replace negative values by 0.

        Returns:
            (..., out_features) in `dtype`; with `add` in the wider of both types.
        """
        x = x.to(self.dtype)
        if self._packed is None:
            y = F.linear(x, self.weight, self.bias)
            y = F.relu(y, inplace=True) if relu else y
            return y if add is None else add + y
        if add is None:
            return _product(x, self._packed, self.bias, "relu" if relu else "none")
        if add.dtype == self.dtype:
            return _product_and_sum(x, add, self._packed, self.bias)
        return add + _product(x, self._packed, self.bias, "none")


def _reorder(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return packed


def _product(x: Tensor, packed: Tensor, bias: Tensor | None, then: str) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, then, [], "")
    return result


def _product_and_sum(x: Tensor, add: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, add, packed, bias, "add")
    return result


@cache
def onednn_computes(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has these oneDNN calls, and this processor can do them in `dtype`."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 8, generator=generator).to(dtype) for n in (4, 3))
    b, add = torch.ones(3, dtype=dtype), torch.ones(4, 3, dtype=dtype)
    plain = F.linear(x.float(), w.float(), b.float())
    try:
        packed = _reorder(w)
        found = (
            _product(x, packed, b, "none"),
            _product(x, packed, b, "relu"),
            _product_and_sum(x, add, packed, b),
        )
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    wanted = (plain, F.relu(plain), plain + 1)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    return all(
        torch.allclose(ours.float(), theirs, atol=tolerance, rtol=tolerance)
        for ours, theirs in zip(found, wanted, strict=True)
    )
