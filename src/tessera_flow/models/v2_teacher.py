"""The TESSERA v2 teacher: two pre-norm encoders, and a transformer over their two vectors.

Its embedding is not Matryoshka: a prefix of it cannot be used alone.
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
    EncoderLayer,
    Names,
    Reducer,
    StackSizes,
    names_of_encoder,
    names_of_layer,
    names_of_reducer,
)
from .sampling import BinsV2

USUAL_HEADS = 4


@dataclass(frozen=True)
class TeacherSizes:
    """The sizes of a teacher.

    Attributes:
        latent_dim: a quarter of the width D.
        s2, s1, fusion: of the two encoders and of the transformer that fuses them.
        repr_dim: dimensions of the embedding.
        final_layernorm: whether a LayerNorm without gains is applied to the embedding.
    """

    latent_dim: int
    s2: StackSizes
    s1: StackSizes
    fusion: StackSizes
    repr_dim: int = 1024
    final_layernorm: bool = True

    @property
    def dims(self) -> tuple[int, ...]:
        """Only the full length."""
        return (self.repr_dim,)


class TokenFusion(nn.Module):
    """A transformer over two tokens, one per sensor, followed by the reducer."""

    def __init__(self, sizes: TeacherSizes) -> None:
        super().__init__()
        width = sizes.fusion.width
        self.modality = nn.Parameter(torch.zeros(2, width))
        self.layers = nn.ModuleList(
            EncoderLayer(sizes.fusion) for _ in range(sizes.fusion.num_layers)
        )
        self.reducer = Reducer(width, sizes.repr_dim, output_norm=sizes.final_layernorm)

    def tokens(self, s2: Tensor, s1: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B, 2, D)"""
        x = torch.stack([s2, s1], dim=1) + self.modality
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, s2: Tensor, s1: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B, repr_dim)"""
        x = self.tokens(s2, s1)
        result: Tensor = self.reducer(x[:, 0], x[:, 1])
        return result


class V2Teacher(Model):
    """The v2 teacher."""

    sizes: TeacherSizes

    def __init__(self, sizes: TeacherSizes) -> None:
        super().__init__(
            sizes,
            Encoder(S2_CHANNELS, sizes.s2, AttentionPool),
            Encoder(S1_CHANNELS, sizes.s1, AttentionPool),
            TokenFusion(sizes),
        )


def _names(sizes: TeacherSizes) -> Names:
    names: Names = {
        **names_of_encoder("s2", "s2_backbone", sizes.s2, AttentionPool),
        **names_of_encoder("s1", "s1_backbone", sizes.s1, AttentionPool),
        "fusion.modality": ("fusion_modality_embed",),
    }
    for index in range(sizes.fusion.num_layers):
        names |= names_of_layer(
            f"fusion.layers.{index}", f"fusion_transformer.layers.{index}", sizes.fusion.qk_norm
        )
    return names | names_of_reducer("fusion.reducer")


def _recognises(names: Collection[str]) -> bool:
    return "fusion_modality_embed" in names


def _read_sizes(checkpoint: Checkpoint, heads: Heads | None) -> TeacherSizes:
    """Read sizes from `arch`, else from the tensors."""
    stated, length = checkpoint.stated, checkpoint.length
    layers, fusion = "transformer_encoder.layers.", "fusion_transformer.layers."
    latent = stated("latent_dim") or length("s2_backbone.embedding.0.weight") // 4
    width = 4 * latent
    if heads is None:
        normed = f"{layers}0.q_norm.weight"
        heads = checkpoint.heads(
            V2_TEACHER.title, USUAL_HEADS, (f"s2_backbone.{normed}", f"s1_backbone.{normed}")
        )

    def stack(nhead: int) -> StackSizes:
        number = stated("num_layers") or checkpoint.count(f"s2_backbone.{layers}")
        inner = stated("dim_feedforward") or length(f"s2_backbone.{layers}0.linear1.weight")
        return StackSizes(width, number, nhead, inner, qk_norm=True, pre_norm=True)

    return TeacherSizes(
        latent_dim=latent,
        s2=stack(heads[0]),
        s1=stack(heads[1]),
        fusion=StackSizes(
            width=width,
            num_layers=checkpoint.count(fusion),
            nhead=max(1, width // length(f"{fusion}0.q_norm.weight")),
            dim_feedforward=length(f"{fusion}0.linear1.weight"),
            qk_norm=True,
            pre_norm=True,
        ),
        repr_dim=stated("repr_dim") or length("dim_reducer.4.weight"),
        final_layernorm=bool(checkpoint.settings.get("final_layernorm", True)),
    )


V2_TEACHER = Family(
    key="v2-teacher",
    title="v2 teacher",
    recognises=_recognises,
    read_sizes=_read_sizes,
    create=V2Teacher,
    names=_names,
    statistics={"": statistics.V2_TEACHER},
    rule=BinsV2(),
    quantizer=quantize.V2,
    dtype="float32",
)
