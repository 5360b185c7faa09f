"""Modules that the model families share: layers, pooling, encoders, the reducer.

Every family encodes the Sentinel-2 and Sentinel-1 sequences of a pixel separately, each into
one vector, and fuses the two. The families differ in the order of norms in a layer, in the
pooling of steps, and in the fusion.

Each module with parameters has a function `names_of_...` or method `names` that maps them to
the tensors of a published checkpoint (several tensors are concatenated, row by row, in order).

A sequence may contain a step several times (steps that fill a bin, or were drawn twice).
Repeated steps are equal in every layer, so each is computed once: the encoder receives the U
distinct steps, and for each of the T steps of the sequence its index among them. Attention and
pooling weight a step by its number of occurrences: the logarithm of that number is added to
its score. Sequences of several lengths are encoded together with steps at their end that occur
0 times.

Shapes in the comments: B pixels, T steps, U distinct steps, C channels, D width, H heads,
E = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear

S2_CHANNELS = 10
S1_CHANNELS = 2
LAST_DAY = 366
LAYER_NORM_EPS = 1e-5
RMS_NORM_EPS = torch.finfo(torch.float32).eps

Names: TypeAlias = dict[str, tuple[str, ...]]
"""Names of the parameters here, each with the names of its tensors in the checkpoint."""


@dataclass(frozen=True)
class StackSizes:
    """The sizes of a stack of transformer layers.

    Attributes:
        width: D, the length of a step's vector.
        num_layers: number of layers.
        nhead: H, attention heads; a divisor of the width.
        dim_feedforward: inner width of the feed-forward block of a layer.
        qk_norm: queries and keys pass an RMSNorm before attention.
        pre_norm: norms precede attention and feed-forward instead of following them.
    """

    width: int
    num_layers: int
    nhead: int
    dim_feedforward: int
    qk_norm: bool = False
    pre_norm: bool = False

    @property
    def head_width(self) -> int:
        """E, the length of one head's query."""
        return self.width // self.nhead


def names_of_same(ours: str, theirs: str, *kinds: str) -> Names:
    """Return the names of parameters that are one tensor each; default: `weight` and `bias`."""
    return {f"{ours}.{kind}": (f"{theirs}.{kind}",) for kind in kinds or ("weight", "bias")}


def day_codes(width: int) -> Tensor:
    """Return the positional code of every day of year, one row per day from 0 to 366.

    Even columns are sin(d * w_k), odd ones cos(d * w_k), w_k = exp(-2k ln(10000) / width),
    angles in float32 like the published model (float64 differs by up to 2.6e-5). Day 0 is
    used for an absent sensor.

    Returns:
        (367, width) float32, on the CPU: `arange` on the meta device, which is used to read the
        shapes of a model, imports PyTorch's compiler (1.6 s, 100 MB).
    """
    columns = torch.arange(0, width, 2, dtype=torch.float32, device="cpu")
    rates = torch.exp(columns * (-math.log(10000.0) / width))
    angles = torch.arange(LAST_DAY + 1, dtype=torch.float32, device="cpu")[:, None] * rates
    return torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(1)


@dataclass(frozen=True)
class RepeatedSteps:
    """How often each of U steps occurs in a sequence of T steps.

    Attributes:
        inverse: (T,) for all pixels or (B, T) for each, int64: index into the distinct steps
            of each step of the sequence; None if the steps are the sequence, the last ones of
            which may not occur.
        log_counts: (1 or B, U) float32, logarithm of the number of occurrences of each step.
    """

    inverse: Tensor | None
    log_counts: Tensor

    @classmethod
    def of(cls, inverse: Tensor, distinct: int) -> RepeatedSteps:
        """Count the occurrences of each of the U = `distinct` steps, at least 1 each."""
        rows = inverse.reshape(-1, inverse.shape[-1])
        counts = torch.zeros((len(rows), distinct), device=inverse.device)
        counts.scatter_add_(1, rows, torch.ones_like(rows, dtype=counts.dtype))
        return cls(inverse, counts.log())

    @classmethod
    def first(cls, lengths: Tensor, steps: int) -> RepeatedSteps:
        """Return that of each pixel only the first of `steps` steps occur: lengths (B,) int64."""
        absent = torch.arange(steps, device=lengths.device) >= lengths[:, None]
        zeros = torch.zeros(absent.shape, device=lengths.device)
        return cls(None, zeros.masked_fill_(absent, -math.inf))

    def in_sequence(self, scores: Tensor) -> Tensor:
        """Return the scores of the T steps, -inf for those that do not occur: (B, T, 1)."""
        return scores + self.log_counts[..., None] if self.inverse is None else scores

    def expand(self, x: Tensor) -> Tensor:
        """Return the sequence of T steps from the distinct steps: (B, U, D) -> (B, T, D)."""
        if self.inverse is None:
            return x
        if self.inverse.ndim == 1:
            return x[:, self.inverse]
        return x.gather(1, self.inverse[..., None].expand(-1, -1, x.shape[2]))


class EncoderLayer(nn.Module):
    """Transformer layer with ReLU; post- or pre-norm, with or without QK norm."""

    def __init__(self, sizes: StackSizes) -> None:
        super().__init__()
        width, head = sizes.width, sizes.head_width
        self.heads, self.head_width = sizes.nhead, head
        self.pre_norm, self.qk_norm = sizes.pre_norm, sizes.qk_norm
        self.qkv = Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(head, eps=RMS_NORM_EPS) if sizes.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(head, eps=RMS_NORM_EPS) if sizes.qk_norm else nn.Identity()
        self.attention_out = Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.expand = Linear(width, sizes.dim_feedforward)
        self.contract = Linear(sizes.dim_feedforward, width)
        self.feedforward_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def mix(self, x: Tensor, repeated: RepeatedSteps | None) -> Tensor:
        """Apply attention; return the heads side by side: (B, U, D) -> (B, U, D)."""
        pixels, steps, width = x.shape
        qkv = self.qkv(x).view(pixels, steps, 3, self.heads, self.head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, U, E)
        if self.qk_norm:
            q, k = (norm(t.float()).to(v.dtype) for norm, t in ((self.q_norm, q), (self.k_norm, k)))
        bias = None if repeated is None else repeated.log_counts[:, None, None].to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return mixed.transpose(1, 2).reshape(pixels, steps, width)

    def forward(self, x: Tensor, repeated: RepeatedSteps | None = None) -> Tensor:
        """(B, U, D) -> (B, U, D)"""
        if self.pre_norm:
            x = self.attention_out(self.mix(self.attention_norm(x), repeated), add=x)
            inner = self.expand(self.feedforward_norm(x), relu=True)  # (B, U, F)
            result: Tensor = self.contract(inner, add=x)
            return result
        x = self.attention_norm(self.attention_out(self.mix(x, repeated), add=x))
        result = self.feedforward_norm(self.contract(self.expand(x, relu=True), add=x))
        return result


def names_of_layer(ours: str, theirs: str, qk_norm: bool) -> Names:
    """Return the names of a layer: without QK norm those of `nn.TransformerEncoderLayer`; with QK
    norm q, k and v are separate tensors."""
    if qk_norm:
        names: Names = {
            f"{ours}.qkv.{kind}": tuple(f"{theirs}.{part}_proj.{kind}" for part in "qkv")
            for kind in ("weight", "bias")
        }
        names |= names_of_same(f"{ours}.attention_out", f"{theirs}.out_proj")
        names |= names_of_same(f"{ours}.q_norm", f"{theirs}.q_norm", "weight")
        names |= names_of_same(f"{ours}.k_norm", f"{theirs}.k_norm", "weight")
    else:
        names = {
            f"{ours}.qkv.{kind}": (f"{theirs}.self_attn.in_proj_{kind}",)
            for kind in ("weight", "bias")
        }
        names |= names_of_same(f"{ours}.attention_out", f"{theirs}.self_attn.out_proj")
    for part, name in (
        ("expand", "linear1"),
        ("contract", "linear2"),
        ("attention_norm", "norm1"),
        ("feedforward_norm", "norm2"),
    ):
        names |= names_of_same(f"{ours}.{part}", f"{theirs}.{name}")
    return names


def weighted_sum(scores: Tensor, x: Tensor) -> Tensor:
    """Sum the steps, weighted by a softmax of scores: (B, T, 1), (B, T, D) -> (B, D)."""
    return torch.bmm(torch.softmax(scores, dim=1).transpose(1, 2), x).squeeze(1)


class AttentionPool(nn.Module):
    """v2: mean of the steps, weighted by a softmax of their scores.

    Attributes:
        recurrent: it works step by step.
    """

    recurrent = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1)

    def forward(self, x: Tensor, repeated: RepeatedSteps | None = None) -> Tensor:
        """(B, U, D) -> (B, D); a single step is returned unchanged."""
        scores = self.query(x)  # (B, U, 1)
        if repeated is not None:
            scores = scores + repeated.log_counts[..., None]
        return weighted_sum(scores, x)

    @staticmethod
    def names(ours: str, theirs: str) -> Names:
        """Return the checkpoint's names of the parameters."""
        return names_of_same(f"{ours}.query", f"{theirs}.query")


class GruPool(AttentionPool):
    """v1.0 float: scores are computed from the states of torch's GRU over the steps.

    The order of the steps matters, and every repeated step is processed.
    """

    recurrent = True

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor, repeated: RepeatedSteps | None = None) -> Tensor:
        """(B, U, D) -> (B, D); the initial state is 0."""
        if repeated is not None:
            x = repeated.expand(x)
        scores = self.query(self.gru(x)[0])
        return weighted_sum(scores if repeated is None else repeated.in_sequence(scores), x)

    @staticmethod
    def names(ours: str, theirs: str) -> Names:
        """Return the checkpoint's names of the parameters."""
        kinds = [f"{kind}_{gate}_l0" for kind in ("weight", "bias") for gate in ("ih", "hh")]
        return AttentionPool.names(ours, theirs) | names_of_same(
            f"{ours}.gru", f"{theirs}.temporal_context", *kinds
        )


class GatedPool(AttentionPool):
    """v1.0 QAT and v1.1: scores are computed from the normalised states of a custom GRU cell.

    The order of the steps matters, and every repeated step is processed. Unlike in torch's GRU,
    the reset gate is applied before the matrix product, and z weights the new state, where
    torch's z weights the old one.

        r = sigmoid(W_ir x + W_hr h + b_r)
        z = sigmoid(W_iz x + W_hz h + b_z)
        n = tanh(W_ih x + W_hh (r * h) + b_h)
        h' = (1 - z) * h + z * n
    """

    recurrent = True
    compiled: Callable[[Tensor, Tensor], Tensor] | None = None
    """`cell`, compiled."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.input = Linear(width, 3 * width)  # W_ir, W_iz, W_ih and b_r, b_z, b_h
        self.gates = Linear(width, 2 * width, bias=False)  # W_hr, W_hz
        self.candidate = Linear(width, width, bias=False)  # W_hh
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, repeated: RepeatedSteps | None = None) -> Tensor:
        """(B, U, D) -> (B, D); the initial state is 0."""
        from_input = self.input(x)  # (B, U, 3D), all steps at once
        if repeated is not None:
            from_input, x = repeated.expand(from_input), repeated.expand(x)
        scores = self.query(self.norm(self.states(from_input)))
        return weighted_sum(scores if repeated is None else repeated.in_sequence(scores), x)

    def states(self, from_input: Tensor) -> Tensor:
        """Return the states of the cell, float32: (B, T, 3D) -> (B, T, D)."""
        pixels, steps, width = from_input.shape[0], from_input.shape[1], from_input.shape[2] // 3
        if self.compiled is not None:
            h = from_input.new_zeros((pixels, width), dtype=torch.float32)
            every = [h := self.compiled(from_input[:, step], h) for step in range(steps)]
            return torch.stack(every, dim=1)
        states = from_input.new_empty((steps, pixels, width), dtype=torch.float32)
        h = states.new_zeros((pixels, width))
        for step in range(steps):
            projected = from_input[:, step].float()  # (B, 3D)
            gates = (projected[:, : 2 * width] + self.gates(h)).sigmoid_()
            r, z = gates[:, :width], gates[:, width:]
            n = (projected[:, 2 * width :] + self.candidate(r * h)).tanh_()
            h = torch.lerp(h, n, z, out=states[step])
        return states.transpose(0, 1)

    def cell(self, projected: Tensor, h: Tensor) -> Tensor:
        """Return the next state: (B, 3D), (B, D) float32 -> (B, D) float32."""
        width = h.shape[1]
        projected = projected.float()
        gates = torch.sigmoid(projected[:, : 2 * width] + self.gates(h))
        r, z = gates[:, :width], gates[:, width:]
        n = torch.tanh(projected[:, 2 * width :] + self.candidate(r * h))
        return torch.lerp(h, n, z)

    @staticmethod
    def names(ours: str, theirs: str) -> Names:
        """Return the checkpoint's names of the parameters."""
        cell = f"{theirs}.temporal_context.gru_cell"
        return {
            **AttentionPool.names(ours, theirs),
            f"{ours}.input.weight": tuple(f"{cell}.W_i{gate}.weight" for gate in "rzh"),
            f"{ours}.input.bias": tuple(f"{cell}.b_{gate}" for gate in "rzh"),
            f"{ours}.gates.weight": tuple(f"{cell}.W_h{gate}.weight" for gate in "rz"),
            f"{ours}.candidate.weight": (f"{cell}.W_hh.weight",),
            **names_of_same(f"{ours}.norm", f"{theirs}.layer_norm"),
        }


class Encoder(nn.Module):
    """Encoder of one sensor: maps a sequence of steps to one vector per pixel.

    `pack` prepares it for a device and a precision. In bf16 and fp16 the factors of the matrix
    products and the activations between post-norm layers are of that type; sums, norms, softmax,
    recurrent states, pooling and the residual stream of pre-norm layers are float32.
    """

    codes: Tensor
    compiled: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None
    """`body` with `log_counts`, compiled."""

    def __init__(self, channels: int, sizes: StackSizes, pool: type[AttentionPool]) -> None:
        super().__init__()
        width = sizes.width
        self.channels = channels
        self.embed_values = Linear(channels, width)
        self.embed_steps = Linear(width, width)
        self.register_buffer("codes", day_codes(width), persistent=False)
        self.layers = nn.ModuleList(EncoderLayer(sizes) for _ in range(sizes.num_layers))
        self.pool = pool(width)
        self.stream = torch.float32

    def pack(self, dtype: torch.dtype) -> None:
        """Lay the weights out for their device, with matrix products in `dtype`."""
        for module in self.modules():
            if isinstance(module, Linear):
                # Input values keep their precision; their matrix product is small.
                module.pack(torch.float32 if module is self.embed_values else dtype)
        if any(layer.pre_norm for layer in self.layers):
            return
        self.stream = dtype
        if self.codes.device.type != "cpu":  # norms require the type of their input there
            for module in self.layers.modules():
                if isinstance(module, nn.LayerNorm):
                    module.to(dtype)

    def forward(
        self,
        values: Tensor,
        days: Tensor,
        inverse: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Encode sequences of one length, each with the same number of distinct steps.

        Args:
            values: (B, U, C) float32, standardised values of the distinct steps.
            days: (B, U) int64, day of year 1..366 (0 for an absent sensor).
            inverse: see `RepeatedSteps`; None if each step occurs once, in this order.
            lengths: (B,) int64, at least 1; the sequence of a pixel is its first steps. None: all.

        Returns:
            (B, D) float32.
        """
        repeated = None
        if inverse is not None:
            repeated = RepeatedSteps.of(inverse, values.shape[1])
        elif lengths is not None:
            repeated = RepeatedSteps.first(lengths, values.shape[1])
        if self.compiled is not None and inverse is None:
            x = self.compiled(values, days, None if repeated is None else repeated.log_counts)
        else:
            x = self.body(values, days, repeated)
        if not self.pool.recurrent:
            return x
        result: Tensor = self.pool(x, repeated)
        return result

    def body(self, values: Tensor, days: Tensor, repeated: RepeatedSteps | None) -> Tensor:
        """Return what precedes a recurrent pool, (B, U, D), else everything, (B, D); float32."""
        codes = self.codes[days].to(self.stream)
        x: Tensor = self.embed_steps(self.embed_values(values, relu=True), add=codes)  # (B, U, D)
        for layer in self.layers:
            x = layer(x, repeated)
        x = x.float()
        if self.pool.recurrent:
            return x
        result: Tensor = self.pool(x, repeated)
        return result

    def absent(self, length: int = 1) -> Tensor:
        """Return the vector of a pixel without valid steps: rows of zeros, day 0. (1, D)"""
        device = self.codes.device
        result: Tensor = self(
            torch.zeros((1, length, self.channels), device=device),
            torch.zeros((1, length), dtype=torch.int64, device=device),
        )
        return result


def names_of_encoder(
    ours: str,
    theirs: str,
    sizes: StackSizes,
    pool: type[AttentionPool],
    layers: str = "transformer_encoder.layers",
) -> Names:
    """Return the names of an encoder; `layers` is the checkpoint's name of its list of layers."""
    names = names_of_same(f"{ours}.embed_values", f"{theirs}.embedding.0")
    names |= names_of_same(f"{ours}.embed_steps", f"{theirs}.embedding.2")
    for index in range(sizes.num_layers):
        names |= names_of_layer(
            f"{ours}.layers.{index}", f"{theirs}.{layers}.{index}", sizes.qk_norm
        )
    return names | pool.names(f"{ours}.pool", f"{theirs}.attn_pool")


class Reducer(nn.Module):
    """Reduces the vectors of both sensors to the embedding by two linear maps."""

    def __init__(self, width: int, repr_dim: int, output_norm: bool) -> None:
        super().__init__()
        self.expand = nn.Linear(2 * width, 4 * width)
        self.norm = nn.LayerNorm(4 * width, eps=LAYER_NORM_EPS)
        self.reduce = nn.Linear(4 * width, repr_dim)
        self.output_norm: nn.Module = nn.Identity()
        if output_norm:
            self.output_norm = nn.LayerNorm(repr_dim, LAYER_NORM_EPS, elementwise_affine=False)

    def forward(self, s2: Tensor, s1: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B, repr_dim)"""
        x = F.relu(self.norm(self.expand(torch.cat([s2, s1], dim=-1))))
        result: Tensor = self.output_norm(self.reduce(x))
        return result


def names_of_reducer(ours: str) -> Names:
    """Return the names of the reducer: `dim_reducer`, whose dropout has no tensors."""
    names: Names = {}
    for part, index in (("expand", 0), ("norm", 1), ("reduce", 4)):
        names |= names_of_same(f"{ours}.{part}", f"dim_reducer.{index}")
    return names
