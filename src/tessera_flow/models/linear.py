"""Matrix products of the models, combined with the ReLU or the addition that follows.

Most of the time of an encoder is spent here. Plain PyTorch passes over memory once for the
product, once for the ReLU and once for the residual sum. On a CPU oneDNN combines them in one
call, in float32 or bfloat16, with weights reordered for the processor beforehand; PyTorch's
compiler emits the same call. On a GPU cuBLASLt adds the bias and applies the ReLU as it writes the
product.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` with optional ReLU or addition, which can be packed for a device."""

    dtype: torch.dtype = torch.float32
    """Type of the factors of the product; sums are always float32."""
    _packed: Tensor | None = None

    def reset_parameters(self) -> None:
        """Draw random weights, except on the device `meta`: those get their values from a
        checkpoint, and drawing them took a third of the time of loading one."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def pack(self, dtype: torch.dtype) -> None:
        """Reorder the weights for their device, in `dtype`; afterwards they cannot be saved.

        Without oneDNN only the type changes.
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
        """Return x W' + b, with ReLU if `relu`, or plus `add`; not both.

        Args:
            x: (..., in_features), any floating-point type.
            add: (..., out_features).
            relu: replace negative values by 0.

        Returns:
            (..., out_features) in `dtype`; with `add` in the wider of the two types.
        """
        x = x.to(self.dtype)
        if self._packed is None:
            if relu and self.bias is not None and x.device.type != "cpu":
                return product_and_relu(x, self.weight, self.bias)
            y = F.linear(x, self.weight, self.bias)
            y = F.relu(y, inplace=True) if relu else y
            return y if add is None else add + y
        if add is None:
            return _product(x, self._packed, self.bias, "relu" if relu else "none")
        if add.dtype == self.dtype:
            return _product_and_sum(x, add, self._packed, self.bias)
        return add + _product(x, self._packed, self.bias, "none")


def product_and_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return relu(x W' + b), on a GPU in one pass over memory: (..., in) -> (..., out)."""
    result: Tensor = torch._addmm_activation(bias, x.flatten(0, -2), weight.t())
    return result.view(*x.shape[:-1], len(bias))


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
    """Return whether this PyTorch has these oneDNN calls, and this processor supports `dtype`."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 8, generator=generator).to(dtype) for n in (4, 3))
    b, add = torch.ones(3, dtype=dtype), torch.ones(4, 3, dtype=dtype)
    plain = F.linear(x.float(), w.float(), b.float())
    try:
        packed = _reorder(w)
        results = (
            _product(x, packed, b, "none"),
            _product(x, packed, b, "relu"),
            _product_and_sum(x, add, packed, b),
        )
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    expected = (plain, F.relu(plain), plain + 1)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    return all(
        torch.allclose(result.float(), exact, atol=tolerance, rtol=tolerance)
        for result, exact in zip(results, expected, strict=True)
    )
