"""The baseline of `benchmarks/inference.py`: the models as one would first write them.

PyTorch's own transformer layers, in float32; every pixel's two sequences padded to their
bins; pixels with the same pair of bins run through the model batch by batch, with
PyTorch's threads inside each operation. That is how the published code runs.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tessera_flow.inference.inputs import SensorSteps, sentinel1_steps, sentinel2_steps
from tessera_flow.models.layers import StackSizes
from tessera_flow.models.philox import Stream
from tessera_flow.models.quantize import quantize
from tessera_flow.models.sampling import BinsV11, Draws, draw_steps, positions, positions_v1_1

BATCH = 1024


class QkLayer(nn.Module):
    """A transformer layer with RMSNorm on queries and keys, post- or pre-norm."""

    def __init__(self, sizes: StackSizes) -> None:
        super().__init__()
        width, self.heads, self.pre = sizes.width, sizes.nhead, sizes.pre_norm
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.q_norm, self.k_norm = (
            nn.RMSNorm(sizes.head_width, eps=torch.finfo(torch.float32).eps) for _ in range(2)
        )
        self.linear1 = nn.Linear(width, sizes.dim_feedforward)
        self.linear2 = nn.Linear(sizes.dim_feedforward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.linear2(torch.relu(self.linear1(self.norm2(x))))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.linear2(torch.relu(self.linear1(x))))


class Softmax(nn.Module):
    """v2's pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1)

    def states(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return (torch.softmax(self.query(self.states(x)), dim=1) * x).sum(1)


class Gru(Softmax):
    """v1.0's pooling."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.temporal_context = nn.GRU(width, width, batch_first=True)

    def states(self, x: Tensor) -> Tensor:
        return self.temporal_context(x)[0]


class Cell(nn.Module):
    """The recurrent cell of v1.0 QAT and v1.1, step by step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for gate in "rzh":
            setattr(self, f"W_i{gate}", nn.Linear(width, width, bias=False))
            setattr(self, f"W_h{gate}", nn.Linear(width, width, bias=False))
            setattr(self, f"b_{gate}", nn.Parameter(torch.zeros(width)))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        r = torch.sigmoid(self.W_ir(x) + self.W_hr(h) + self.b_r)
        z = torch.sigmoid(self.W_iz(x) + self.W_hz(h) + self.b_z)
        n = torch.tanh(self.W_ih(x) + self.W_hh(r * h) + self.b_h)
        return (1 - z) * h + z * n


class Gated(Softmax):
    """The pooling of v1.0 QAT and v1.1."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.temporal_context = nn.Module()
        self.temporal_context.gru_cell = Cell(width)
        self.layer_norm = nn.LayerNorm(width)

    def states(self, x: Tensor) -> Tensor:
        h, states = torch.zeros_like(x[:, 0]), []
        for step in range(x.shape[1]):
            h = self.temporal_context.gru_cell(x[:, step], h)
            states.append(h)
        return self.layer_norm(torch.stack(states, dim=1))


class Backbone(nn.Module):
    """One sensor's encoder."""

    def __init__(self, channels: int, sizes: StackSizes, pool: type[Softmax]) -> None:
        super().__init__()
        width = sizes.width
        self.embedding = nn.Sequential(
            nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width)
        )
        if sizes.qk_norm:
            layers: nn.Module = nn.Sequential(*(QkLayer(sizes) for _ in range(sizes.num_layers)))
            if sizes.pre_norm:
                inner, layers = layers, nn.Module()
                layers.layers = inner
        else:
            layer = nn.TransformerEncoderLayer(
                width, sizes.nhead, sizes.dim_feedforward, batch_first=True
            )
            layers = nn.TransformerEncoder(layer, sizes.num_layers, enable_nested_tensor=False)
        self.transformer_encoder = layers
        self.attn_pool = pool(width)
        self.rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))

    def forward(self, x: Tensor) -> Tensor:
        angles = x[..., -1:] * self.rates
        codes = torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(-2)
        x = self.embedding(x[..., :-1]) + codes
        stack = self.transformer_encoder
        if not isinstance(stack, nn.TransformerEncoder):
            stack = getattr(stack, "layers", stack)
        return self.attn_pool(stack(x))


class Plain(nn.Module):
    """A model of any family, with the names of the published checkpoints."""

    def __init__(self, family: str, sizes: Any) -> None:
        super().__init__()
        pool = {"v1.0": Gru, "v1.0-qat": Gated, "v1.1": Gated}.get(family, Softmax)
        self.s2_backbone = Backbone(10, sizes.s2, pool)
        self.s1_backbone = Backbone(2, sizes.s1, pool)
        width, dim = sizes.s2.width, sizes.repr_dim
        self.teacher = family == "v2-teacher"
        if self.teacher:
            self.fusion_modality_embed = nn.Parameter(torch.zeros(2, width))
            self.fusion_transformer = nn.Module()
            self.fusion_transformer.layers = nn.Sequential(
                *(QkLayer(sizes.fusion) for _ in range(sizes.fusion.num_layers))
            )
        if family in ("v1.0", "v1.0-qat"):
            self.dim_reducer = nn.Sequential(nn.Linear(2 * width, dim))
        else:
            self.dim_reducer = nn.Sequential(
                nn.Linear(2 * width, 4 * width),
                nn.LayerNorm(4 * width),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(4 * width, dim),
            )
        self.out = nn.LayerNorm(dim, elementwise_affine=False) if family[:2] == "v2" else None

    def forward(self, s2: Tensor, s1: Tensor) -> Tensor:
        s2, s1 = self.s2_backbone(s2), self.s1_backbone(s1)
        if self.teacher:
            tokens = torch.stack([s2, s1], dim=1) + self.fusion_modality_embed
            tokens = self.fusion_transformer.layers(tokens)
            s2, s1 = tokens[:, 0], tokens[:, 1]
        x = self.dim_reducer(torch.cat([s2, s1], dim=-1))
        return x if self.out is None else self.out(x)


def padded(sensor: SensorSteps, pixels: np.ndarray, select: Any, length: int) -> np.ndarray:
    """(N, length, C + 1) float32, standardised values and days."""
    out = np.zeros((len(pixels), length, sensor.raw.shape[2] + 1), np.float32)
    valid = sensor.valid[pixels]
    counts = valid.sum(1)
    valid_first = np.argsort(~valid, axis=1, kind="stable")
    for n in np.unique(counts[counts > 0]):
        same = np.flatnonzero(counts == n)
        steps = valid_first[same][:, select(int(n), length)]
        raw = sensor.raw[steps, pixels[same][:, None]].astype(np.float32)
        out[same, :, :-1] = (raw - sensor.mean[steps]) / sensor.divisor[steps]
        out[same, :, -1] = sensor.days[steps]
    return out


def embed(tile: Any, model: Plain, like: Any, batch: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Codes (P, K) and scales (P,) of a tile's pixels.

    Args:
        tile: the tile.
        model: the baseline model.
        like: our model, for the family's statistics, bins and way of quantising.
        batch: pixels in a forward pass.
    """
    family, dim = like.family, like.sizes.dims[-1]
    rows = slice(0, tile.shape[0])
    s2 = sentinel2_steps(tile, rows, like.statistics)
    s1 = sentinel1_steps(tile, rows, like.statistics, family.rule.empty_orbit_day)
    count = len(s2.valid)
    result = np.zeros((count, dim), np.float32)
    selected = family.rule.embeddable(s2.valid, s1.valid, partial(tile.has_value, rows))
    selected &= s2.valid.any(1)
    if isinstance(family.rule, Draws):
        result = _drawn(tile, model, (s2, s1), selected, dim, batch)
    else:
        select = positions_v1_1 if isinstance(family.rule, BinsV11) else positions
        lengths = []
        for sensor in (s2, s1):
            n = sensor.valid.sum(1)
            bins = np.minimum(-(-n // 8) * 8, 256)
            lengths.append(np.maximum(bins, family.rule.absent_length))
        for pair in sorted(set(zip(*(array[selected].tolist() for array in lengths), strict=True))):
            pixels = np.flatnonzero(selected & (lengths[0] == pair[0]) & (lengths[1] == pair[1]))
            for start in range(0, len(pixels), batch):
                index = pixels[start : start + batch]
                x = [
                    torch.from_numpy(padded(sensor, index, select, length))
                    for sensor, length in zip((s2, s1), pair, strict=True)
                ]
                with torch.inference_mode():
                    result[index] = model(*x)[:, :dim].numpy()
    codes, scales = quantize(result, family.quantizer)
    return codes, scales


def _drawn(
    tile: Any,
    model: Plain,
    sensors: tuple[SensorSteps, SensorSteps],
    selected: np.ndarray,
    dim: int,
    batch: int,
) -> np.ndarray:
    result = np.zeros((len(selected), dim), np.float32)
    pixels = np.flatnonzero(selected)
    for start in range(0, len(pixels), batch):
        index = pixels[start : start + batch]
        origin = np.divmod(index, tile.shape[1])
        x = []
        for number, sensor in enumerate(sensors):
            steps = draw_steps(sensor.valid[index], 40, Stream(0, *origin, sensor=number))
            raw = sensor.raw[steps, index[:, None]].astype(np.float32)
            values = (raw - sensor.mean[steps]) / sensor.divisor[steps]
            days = sensor.days[steps].astype(np.float32)[..., None]
            x.append(torch.from_numpy(np.concatenate([values, days], axis=-1)))
        with torch.inference_mode():
            result[index] = model(*x)[:, :dim].numpy()
    return result
