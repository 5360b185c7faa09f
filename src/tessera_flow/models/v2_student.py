"""The TESSERA v2 student: two post-norm encoders over time, and their fusion.

The leading 16, 32, 64 or all dimensions of an embedding can be used alone (Matryoshka).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..errors import CheckpointError
from . import quantize, statistics
from .family import Checkpoint, Family, Heads, Model
from .layers import (
    S1_CHANNELS,
    S2_CHANNELS,
    AttentionPool,
    Encoder,
    Names,
    Reducer,
    StackSizes,
    names_of_encoder,
    names_of_reducer,
)
from .sampling import BinsV2

USUAL_HEADS = 4


@dataclass(frozen=True)
class StudentSizes:
    """The sizes of a student.

    Attributes:
        latent_dim: a quarter of the width D.
        num_layers: transformer layers of each encoder.
        nhead: attention heads, of the Sentinel-2 encoder only if `s1_nhead` is set.
        dim_feedforward: inner width of a layer's feed-forward part.
        repr_dim: dimensions of the embedding.
        qk_norm: queries and keys pass an RMSNorm before attention.
        matryoshka_dims: lengths of the prefixes of the embedding that can be used alone.
        s1_nhead: attention heads of the Sentinel-1 encoder, if different.
    """

    latent_dim: int
    num_layers: int
    nhead: int
    dim_feedforward: int
    repr_dim: int = 128
    qk_norm: bool = False
    matryoshka_dims: tuple[int, ...] = (16, 32, 64, 128)
    s1_nhead: int | None = None

    @property
    def width(self) -> int:
        """D, the length of a step's vector inside an encoder."""
        return 4 * self.latent_dim

    @property
    def dims(self) -> tuple[int, ...]:
        """Numbers of leading dimensions that may be stored."""
        return self.matryoshka_dims

    @property
    def s2(self) -> StackSizes:
        """Of the Sentinel-2 encoder."""
        return self._stack(self.nhead)

    @property
    def s1(self) -> StackSizes:
        """Of the Sentinel-1 encoder."""
        return self._stack(self.s1_nhead or self.nhead)

    def _stack(self, heads: int) -> StackSizes:
        return StackSizes(self.width, self.num_layers, heads, self.dim_feedforward, self.qk_norm)


class V2Student(Model):
    """The v2 student."""

    sizes: StudentSizes

    def __init__(self, sizes: StudentSizes) -> None:
        super().__init__(
            sizes,
            Encoder(S2_CHANNELS, sizes.s2, AttentionPool),
            Encoder(S1_CHANNELS, sizes.s1, AttentionPool),
            Reducer(sizes.width, sizes.repr_dim, output_norm=True),
        )


def _layers(qk_norm: bool) -> str:
    """Return the checkpoint's name of the list of layers: torch's encoder has one more level."""
    return "transformer_encoder" if qk_norm else "transformer_encoder.layers"


def _names(sizes: StudentSizes) -> Names:
    layers = _layers(sizes.qk_norm)
    return {
        **names_of_encoder("s2", "s2_backbone", sizes.s2, AttentionPool, layers),
        **names_of_encoder("s1", "s1_backbone", sizes.s1, AttentionPool, layers),
        **names_of_reducer("fusion"),
    }


def _recognises(names: Collection[str]) -> bool:
    return (
        any(name.startswith(("s2_backbone.", "s1_backbone.")) for name in names)
        and not any(".attn_pool.temporal_context." in name for name in names)
        and not any(name.startswith("fusion_") for name in names)
    )


def _read_sizes(checkpoint: Checkpoint, heads: Heads | None) -> StudentSizes:
    """Read sizes from `args`, else from the tensors."""
    stated, state = checkpoint.stated, checkpoint.state
    has_norm = any(key.endswith(".q_norm.weight") for key in state)
    qk_norm = checkpoint.settings.get("enable_qk_norm")
    layers = f"s2_backbone.{_layers(has_norm)}"
    repr_dim = stated("repr_dim") or checkpoint.length("dim_reducer.4.weight")
    if heads is None:
        normed = f"{_layers(True)}.0.q_norm.weight"
        heads = checkpoint.heads(
            V2_STUDENT.title,
            USUAL_HEADS,
            (f"s2_backbone.{normed}", f"s1_backbone.{normed}") if has_norm else None,
        )
    return StudentSizes(
        latent_dim=stated("latent_dim") or checkpoint.length("s2_backbone.embedding.0.weight") // 4,
        num_layers=stated("num_layers") or checkpoint.count(f"{layers}."),
        nhead=heads[0],
        s1_nhead=None if heads[1] == heads[0] else heads[1],
        dim_feedforward=stated("dim_feedforward")
        or checkpoint.length(f"{layers}.0.linear1.weight"),
        repr_dim=repr_dim,
        qk_norm=has_norm if qk_norm is None else bool(qk_norm),
        matryoshka_dims=_matryoshka(checkpoint, repr_dim),
    )


def _matryoshka(checkpoint: Checkpoint, repr_dim: int) -> tuple[int, ...]:
    """Return prefix lengths from "16,32,64,128" or [16, 32, 64, 128]; else the full length."""
    stated = checkpoint.settings.get("matryoshka_dims")
    lengths: Sequence[object] = [repr_dim]
    if isinstance(stated, str):
        lengths = stated.split(",")
    elif isinstance(stated, (list, tuple)):
        lengths = stated
    try:
        dims = tuple(sorted({int(str(length)) for length in lengths}))
    except ValueError:
        dims = ()
    if not dims or dims[0] < 1 or dims[-1] > repr_dim:
        raise CheckpointError(
            f"{checkpoint.path}: `args` contain matryoshka_dims = {stated!r} for an embedding of "
            f"{repr_dim} dimensions: use the file as it was published."
        )
    return dims


V2_STUDENT = Family(
    key="v2-student",
    title="v2 student",
    recognises=_recognises,
    read_sizes=_read_sizes,
    create=V2Student,
    names=_names,
    statistics={"": statistics.V2_STUDENT},
    rule=BinsV2(),
    quantizer=quantize.V2,
)
