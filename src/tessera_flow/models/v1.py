"""TESSERA v1.0 (float and QAT) and v1.1: post-norm encoders pooled with a recurrent cell.

Unlike in v2 the order of time steps matters.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import quantize, statistics
from .family import Checkpoint, Family, Heads, Model
from .layers import (
    S1_CHANNELS,
    S2_CHANNELS,
    AttentionPool,
    Encoder,
    GatedPool,
    GruPool,
    Names,
    Reducer,
    StackSizes,
    names_of_encoder,
    names_of_reducer,
    names_of_same,
)
from .sampling import BinsV11, Draws

STORED_V1_1 = 128
"""Stored dimensions of v1.1, of 192."""

EMPTY_ORBIT_DAY = 180
TRAINING_ONLY = ("projector.", "segmented_matryoshka_projector.")


@dataclass(frozen=True)
class V1Sizes:
    """The sizes of a v1.x model.

    Attributes:
        latent_dim: a quarter of the width D.
        s2, s1: of the two encoders.
        repr_dim: dimensions of the model's output.
        stored: number of stored dimensions.
    """

    latent_dim: int
    s2: StackSizes
    s1: StackSizes
    repr_dim: int
    stored: int

    @property
    def dims(self) -> tuple[int, ...]:
        """A single number: v1.x is not Matryoshka."""
        return (self.stored,)


class LinearFusion(nn.Module):
    """v1.0: one linear map of the concatenated vectors of both sensors."""

    def __init__(self, width: int, repr_dim: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(2 * width, repr_dim)

    def forward(self, s2: Tensor, s1: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B, repr_dim)"""
        result: Tensor = self.reduce(torch.cat([s2, s1], dim=-1))
        return result


class V10(Model):
    """v1.0 float."""

    sizes: V1Sizes
    pool: type[AttentionPool] = GruPool

    def __init__(self, sizes: V1Sizes) -> None:
        super().__init__(
            sizes,
            Encoder(S2_CHANNELS, sizes.s2, self.pool),
            Encoder(S1_CHANNELS, sizes.s1, self.pool),
            LinearFusion(sizes.s2.width, sizes.repr_dim),
        )


class V10Qat(V10):
    """v1.0 QAT: trained for 8-bit embeddings, with a custom recurrent cell."""

    pool = GatedPool


class V11(Model):
    """v1.1."""

    sizes: V1Sizes

    def __init__(self, sizes: V1Sizes) -> None:
        super().__init__(
            sizes,
            Encoder(S2_CHANNELS, sizes.s2, GatedPool),
            Encoder(S1_CHANNELS, sizes.s1, GatedPool),
            Reducer(sizes.s2.width, sizes.repr_dim, output_norm=False),
        )


def _encoder_names(sizes: V1Sizes, pool: type[AttentionPool]) -> Names:
    return {
        **names_of_encoder("s2", "s2_backbone", sizes.s2, pool),
        **names_of_encoder("s1", "s1_backbone", sizes.s1, pool),
    }


def _names_v1_0(sizes: V1Sizes) -> Names:
    return _encoder_names(sizes, GruPool) | names_of_same("fusion.reduce", "dim_reducer.0")


def _names_qat(sizes: V1Sizes) -> Names:
    return _encoder_names(sizes, GatedPool) | names_of_same("fusion.reduce", "dim_reducer.0")


def _names_v1_1(sizes: V1Sizes) -> Names:
    return _encoder_names(sizes, GatedPool) | names_of_reducer("fusion")


def _has_custom_cell(names: Collection[str]) -> bool:
    return any(".attn_pool.temporal_context.gru_cell." in name for name in names)


def _recognises_v1_0(names: Collection[str]) -> bool:
    return any(name.endswith(".attn_pool.temporal_context.weight_ih_l0") for name in names)


def _recognises_qat(names: Collection[str]) -> bool:
    # v1.0 QAT and v1.1 have the same cell; only v1.1 reduces with two linear maps.
    return _has_custom_cell(names) and "dim_reducer.4.weight" not in names


def _recognises_v1_1(names: Collection[str]) -> bool:
    return _has_custom_cell(names) and "dim_reducer.4.weight" in names


def _read(
    checkpoint: Checkpoint, heads: Heads | None, title: str, usual: int, reducer: str
) -> tuple[int, StackSizes, StackSizes, int]:
    """Return latent_dim, s2, s1 and repr_dim from the settings, else from the tensors."""
    stated, length = checkpoint.stated, checkpoint.length
    latent = stated("latent_dim") or length("s2_backbone.embedding.0.weight") // 4
    repr_dim = stated("representation_dim", "repr_dim") or length(f"{reducer}.weight")
    heads = heads or checkpoint.heads(title, usual, None)

    def stack(sensor: str, nhead: int) -> StackSizes:
        layers = f"{sensor}_backbone.transformer_encoder.layers."
        return StackSizes(
            width=4 * latent,
            num_layers=stated(f"{sensor}_num_layers", "num_layers") or checkpoint.count(layers),
            nhead=nhead,
            dim_feedforward=stated(f"{sensor}_dim_feedforward", "dim_feedforward")
            or length(f"{layers}0.linear1.weight"),
        )

    return latent, stack("s2", heads[0]), stack("s1", heads[1]), repr_dim


def _sizes_v1_0(checkpoint: Checkpoint, heads: Heads | None) -> V1Sizes:
    sizes = _read(checkpoint, heads, V1_0.title, 8, "dim_reducer.0")
    return V1Sizes(*sizes, stored=sizes[-1])


def _sizes_qat(checkpoint: Checkpoint, heads: Heads | None) -> V1Sizes:
    sizes = _read(checkpoint, heads, V1_0_QAT.title, 4, "dim_reducer.0")
    return V1Sizes(*sizes, stored=sizes[-1])


def _sizes_v1_1(checkpoint: Checkpoint, heads: Heads | None) -> V1Sizes:
    sizes = _read(checkpoint, heads, V1_1.title, 4, "dim_reducer.4")
    return V1Sizes(*sizes, stored=min(STORED_V1_1, sizes[-1]))


V1_0 = Family(
    key="v1.0",
    title="v1.0 (float)",
    recognises=_recognises_v1_0,
    read_sizes=_sizes_v1_0,
    create=V10,
    names=_names_v1_0,
    statistics={"": statistics.V1_0},
    rule=Draws(),
    quantizer=quantize.V1,
    dtype="float32",
    training_only=TRAINING_ONLY,
)
V1_0_QAT = Family(
    key="v1.0-qat",
    title="v1.0 QAT",
    recognises=_recognises_qat,
    read_sizes=_sizes_qat,
    create=V10Qat,
    names=_names_qat,
    statistics={"": statistics.V1_0},
    rule=Draws(empty_orbit_day=EMPTY_ORBIT_DAY),
    quantizer=quantize.V1,
    training_only=TRAINING_ONLY,
)
V1_1 = Family(
    key="v1.1",
    title="v1.1",
    recognises=_recognises_v1_1,
    read_sizes=_sizes_v1_1,
    create=V11,
    names=_names_v1_1,
    statistics={"mpc": statistics.V1_1_MPC, "aws": statistics.V1_1_AWS},
    rule=BinsV11(),
    quantizer=quantize.V1,
    training_only=TRAINING_ONLY,
)
