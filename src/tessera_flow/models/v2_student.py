"""The TESSERA v2 student: two transformer encoders over time, and a fusion of both.

A pixel's Sentinel-2 and Sentinel-1 sequences are encoded separately, each into one vector
of D = 4 * latent_dim numbers; the two are concatenated and reduced to `repr_dim` numbers
whose leading 16, 32, 64 or all dimensions can be used alone (Matryoshka).

Shapes in the comments: B pixels, T steps, C channels, D width, H heads, E = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

S2_CHANNELS = 10
S1_CHANNELS = 2
LAST_DAY = 366
LAYER_NORM_EPS = 1e-5
RMS_NORM_EPS = torch.finfo(torch.float32).eps
ENCODERS = {"s2_backbone": S2_CHANNELS, "s1_backbone": S1_CHANNELS}


@dataclass(frozen=True)
class StudentSizes:
    """The numbers that make one student different from another.

    Attributes:
        latent_dim: a quarter of the width D.
        num_layers: transformer layers of each encoder.
        nhead: attention heads; divides the width.
        dim_feedforward: inner width of a layer's feed-forward part.
        repr_dim: dimensions of the embedding.
        qk_norm: queries and keys pass an RMSNorm before attention.
        matryoshka_dims: prefixes of the embedding that can be used alone.
    """

    latent_dim: int
    num_layers: int
    nhead: int
    dim_feedforward: int
    repr_dim: int = 128
    qk_norm: bool = False
    matryoshka_dims: tuple[int, ...] = (16, 32, 64, 128)

    @property
    def width(self) -> int:
        """D, the length of a step's vector inside an encoder."""
        return 4 * self.latent_dim

    @property
    def head_width(self) -> int:
        """E, the length of one head's query."""
        return self.width // self.nhead


def day_codes(width: int) -> Tensor:
    """Positional code of every day of year, one row per day from 0 to 366.

    Even columns are sin(d * w_k), odd ones cos(d * w_k), w_k = exp(-2k ln(10000) / width),
    angles in float32 like the published model (float64 differs by up to 2.6e-5). Day 0 is
    the row of an absent sensor.

    Returns:
        (367, width) float32.
    """
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = torch.arange(LAST_DAY + 1, dtype=torch.float32)[:, None] * rates
    return torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(1)


class EncoderLayer(nn.Module):
    """Post-norm transformer layer with ReLU; with or without normalised queries and keys."""

    def __init__(self, sizes: StudentSizes) -> None:
        super().__init__()
        width, head = sizes.width, sizes.head_width
        self.heads, self.head_width = sizes.nhead, head
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(head, eps=RMS_NORM_EPS) if sizes.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(head, eps=RMS_NORM_EPS) if sizes.qk_norm else nn.Identity()
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.expand = nn.Linear(width, sizes.dim_feedforward)
        self.contract = nn.Linear(sizes.dim_feedforward, width)
        self.feedforward_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def attention(self, x: Tensor) -> Tensor:
        """Self-attention over time: (B, T, D) -> (B, T, D)."""
        pixels, steps, width = x.shape
        qkv = self.qkv(x).view(pixels, steps, 3, self.heads, self.head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, E)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        joined: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(pixels, steps, width))
        return joined

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        x = self.attention_norm(x + self.attention(x))
        inner = F.relu(self.expand(x), inplace=True)  # (B, T, F)
        result: Tensor = self.feedforward_norm(x + self.contract(inner))
        return result


class Encoder(nn.Module):
    """One sensor's encoder: a sequence of steps in, one vector per pixel out."""

    codes: Tensor

    def __init__(self, channels: int, sizes: StudentSizes) -> None:
        super().__init__()
        width = sizes.width
        self.channels = channels
        self.embedding = nn.Sequential(
            nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.register_buffer("codes", day_codes(width), persistent=False)
        self.layers = nn.ModuleList(EncoderLayer(sizes) for _ in range(sizes.num_layers))
        self.query = nn.Linear(width, 1)

    def pool(self, x: Tensor) -> Tensor:
        """Softmax attention over time: (B, T, D) -> (B, D)."""
        weights = torch.softmax(self.query(x), dim=1)  # (B, T, 1)
        return torch.bmm(weights.transpose(1, 2), x).squeeze(1)

    def forward(self, values: Tensor, days: Tensor) -> Tensor:
        """Encode sequences of one length.

        Args:
            values: (B, T, C) float32, standardised.
            days: (B, T) int64, day of year 1..366 (0 in the one row of an absent sensor).

        Returns:
            (B, D) float32.
        """
        x = self.embedding(values) + self.codes[days]  # (B, T, D)
        for layer in self.layers:
            x = layer(x)
        return self.pool(x)

    def absent(self) -> Tensor:
        """The vector of a pixel with no valid step: one row of zeros, day 0. (1, D)"""
        device = self.codes.device
        result: Tensor = self(
            torch.zeros((1, 1, self.channels), device=device),
            torch.zeros((1, 1), dtype=torch.int64, device=device),
        )
        return result


class Fusion(nn.Module):
    """Both sensors' vectors side by side, reduced to the embedding."""

    def __init__(self, sizes: StudentSizes) -> None:
        super().__init__()
        width = sizes.width
        self.expand = nn.Linear(2 * width, 4 * width)
        self.norm = nn.LayerNorm(4 * width, eps=LAYER_NORM_EPS)
        self.reduce = nn.Linear(4 * width, sizes.repr_dim)
        self.output_norm = nn.LayerNorm(
            sizes.repr_dim, eps=LAYER_NORM_EPS, elementwise_affine=False
        )

    def forward(self, s2: Tensor, s1: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B, repr_dim)"""
        x = F.relu(self.norm(self.expand(torch.cat([s2, s1], dim=-1))))
        result: Tensor = self.output_norm(self.reduce(x))
        return result


class V2Student(nn.Module):
    """The whole model; its parts `s2`, `s1` and `fusion` may be called one by one.

    A sensor's sequence length does not touch the other sensor's vector, so callers group
    pixels by length for each sensor separately and nothing need be padded.
    """

    family = "v2-student"

    def __init__(self, sizes: StudentSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.s2 = Encoder(S2_CHANNELS, sizes)
        self.s1 = Encoder(S1_CHANNELS, sizes)
        self.fusion = Fusion(sizes)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.s2.codes.device

    def forward(self, s2: Tensor, s2_days: Tensor, s1: Tensor, s1_days: Tensor) -> Tensor:
        """Embed pixels whose sequences have the same lengths.

        Args:
            s2: (B, T2, 10) float32, standardised.
            s2_days: (B, T2) int64.
            s1: (B, T1, 2) float32, standardised.
            s1_days: (B, T1) int64.

        Returns:
            (B, repr_dim) float32.
        """
        result: Tensor = self.fusion(self.s2(s2, s2_days), self.s1(s1, s1_days))
        return result


def checkpoint_shapes(sizes: StudentSizes) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a published checkpoint of these sizes."""
    width, inner, out = sizes.width, sizes.dim_feedforward, sizes.repr_dim
    layer: dict[str, tuple[int, ...]] = {}
    if sizes.qk_norm:
        prefix = "transformer_encoder."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layer |= {f"{part}.weight": (width, width), f"{part}.bias": (width,)}
        layer |= {"q_norm.weight": (sizes.head_width,), "k_norm.weight": (sizes.head_width,)}
    else:
        prefix = "transformer_encoder.layers."
        layer |= {
            "self_attn.in_proj_weight": (3 * width, width),
            "self_attn.in_proj_bias": (3 * width,),
            "self_attn.out_proj.weight": (width, width),
            "self_attn.out_proj.bias": (width,),
        }
    layer |= {"linear1.weight": (inner, width), "linear1.bias": (inner,)}
    layer |= {"linear2.weight": (width, inner), "linear2.bias": (width,)}
    for norm in ("norm1", "norm2"):
        layer |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}

    shapes: dict[str, tuple[int, ...]] = {}
    for encoder, channels in ENCODERS.items():
        shapes |= {
            f"{encoder}.embedding.0.weight": (width, channels),
            f"{encoder}.embedding.0.bias": (width,),
            f"{encoder}.embedding.2.weight": (width, width),
            f"{encoder}.embedding.2.bias": (width,),
        }
        for index in range(sizes.num_layers):
            shapes |= {f"{encoder}.{prefix}{index}.{name}": s for name, s in layer.items()}
        shapes |= {
            f"{encoder}.attn_pool.query.weight": (1, width),
            f"{encoder}.attn_pool.query.bias": (1,),
        }
    return shapes | {
        "dim_reducer.0.weight": (4 * width, 2 * width),
        "dim_reducer.0.bias": (4 * width,),
        "dim_reducer.1.weight": (4 * width,),
        "dim_reducer.1.bias": (4 * width,),
        "dim_reducer.4.weight": (out, 4 * width),
        "dim_reducer.4.bias": (out,),
    }


def _layer_state(state: Mapping[str, Tensor], prefix: str, qk_norm: bool) -> dict[str, Tensor]:
    if qk_norm:
        attention = {
            f"qkv.{kind}": torch.cat([state[f"{prefix}{part}_proj.{kind}"] for part in "qkv"])
            for kind in ("weight", "bias")
        }
        attention["q_norm.weight"] = state[f"{prefix}q_norm.weight"]
        attention["k_norm.weight"] = state[f"{prefix}k_norm.weight"]
        out = f"{prefix}out_proj"
    else:
        attention = {
            f"qkv.{kind}": state[f"{prefix}self_attn.in_proj_{kind}"] for kind in ("weight", "bias")
        }
        out = f"{prefix}self_attn.out_proj"
    same = {
        "attention_out": out,
        "attention_norm": f"{prefix}norm1",
        "expand": f"{prefix}linear1",
        "contract": f"{prefix}linear2",
        "feedforward_norm": f"{prefix}norm2",
    }
    return attention | {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for ours, theirs in same.items()
        for kind in ("weight", "bias")
    }


def from_checkpoint_state(state: Mapping[str, Tensor], sizes: StudentSizes) -> V2Student:
    """Build the model from tensors named as in a published checkpoint.

    Args:
        state: exactly the tensors of `checkpoint_shapes(sizes)`.
        sizes: the sizes of the model.

    Returns:
        The model in float32 on the CPU, in evaluation mode, without gradients.
    """
    prefix = "transformer_encoder." if sizes.qk_norm else "transformer_encoder.layers."
    ours: dict[str, Tensor] = {}
    for name, theirs in (("s2", "s2_backbone"), ("s1", "s1_backbone")):
        for kind in ("weight", "bias"):
            ours[f"{name}.embedding.0.{kind}"] = state[f"{theirs}.embedding.0.{kind}"]
            ours[f"{name}.embedding.2.{kind}"] = state[f"{theirs}.embedding.2.{kind}"]
            ours[f"{name}.query.{kind}"] = state[f"{theirs}.attn_pool.query.{kind}"]
        for index in range(sizes.num_layers):
            layer = _layer_state(state, f"{theirs}.{prefix}{index}.", sizes.qk_norm)
            ours |= {f"{name}.layers.{index}.{key}": value for key, value in layer.items()}
    for part, index in (("expand", 0), ("norm", 1), ("reduce", 4)):
        for kind in ("weight", "bias"):
            ours[f"fusion.{part}.{kind}"] = state[f"dim_reducer.{index}.{kind}"]

    with torch.device("meta"):
        model = V2Student(sizes)
    model = model.to_empty(device="cpu")
    for encoder in (model.s2, model.s1):
        encoder.codes = day_codes(sizes.width)
    model.load_state_dict({key: value.float() for key, value in ours.items()}, strict=True)
    return model.requires_grad_(False).eval()
