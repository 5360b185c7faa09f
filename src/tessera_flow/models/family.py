"""What makes a family of checkpoints: a value that holds all that is particular to it."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from .layers import Encoder, Names
from .linear import Linear
from .quantize import Quantizer
from .sampling import ObservationRule
from .statistics import Statistics

logger = logging.getLogger(__name__)

Heads: TypeAlias = tuple[int, int]
"""Attention heads of the Sentinel-2 and of the Sentinel-1 encoder."""


class Sizes(Protocol):
    """The numbers that make one model of a family different from another; a dataclass."""

    @property
    def repr_dim(self) -> int:
        """Dimensions that the model puts out."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Numbers of leading dimensions that may be stored, smallest first."""


class Model(nn.Module):
    """A model; its parts `s2`, `s1` and `fusion` may be called one by one.

    A sensor's sequence length does not touch the other sensor's vector, so callers group
    pixels by length for each sensor separately and nothing need be padded.

    Attributes:
        family: which family it is of; set when it is loaded.
        statistics: what standardises its inputs; set when it is loaded.
        sizes: its sizes.
        dtype: of the factors of the encoders' matrix products.
        most_pixels: for how many pixels in one forward pass memory suffices, once it did not.
    """

    family: Family
    statistics: Statistics

    def __init__(self, sizes: Any, s2: Encoder, s1: Encoder, fusion: nn.Module) -> None:
        super().__init__()
        self.sizes = sizes
        self.s2 = s2
        self.s1 = s1
        self.fusion = fusion
        self.dtype = torch.float32
        self.most_pixels = sys.maxsize

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.s2.codes.device

    def pack(self, dtype: torch.dtype) -> Model:
        """Lay the weights out for their device, the encoders' matrix products in `dtype`.

        The fusion, once a pixel, stays in float32. A packed model cannot be saved.
        """
        self.dtype = dtype
        self.s2.pack(dtype)
        self.s1.pack(dtype)
        for module in self.fusion.modules():
            if isinstance(module, Linear):
                module.pack(torch.float32)
        return self

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


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds, as far as it concerns the encoder.

    Attributes:
        path: the file.
        state: the encoder's tensors by name, without prefixes of compiled models and without
            what only training needs.
        settings: the entry `args`, `arch` or `config`; empty where there is none.
        settings_name: that entry's name.
    """

    path: Path
    state: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    settings_name: str = "args"

    def stated(self, *names: str) -> int | None:
        """A size that the settings state under one of these names.

        Raises:
            CheckpointError: it is not a positive whole number.
        """
        for name in names:
            value = self.settings.get(name)
            if value is None:
                continue
            if type(value) is not int or value < 1:
                raise CheckpointError(
                    f"{self.path}: `{self.settings_name}` state {name} = {value!r}, which is not "
                    "a positive whole number: use the file as it was published."
                )
            return value
        return None

    def length(self, tensor: str) -> int:
        """Length of a tensor's first axis.

        Raises:
            CheckpointError: there is no such tensor.
        """
        found = self.state.get(tensor)
        if found is None or found.ndim == 0:
            raise CheckpointError(
                f"{self.path}: 1 tensors are missing ({tensor}), which every model of its family "
                "has: use the file as it was published."
            )
        return found.shape[0]

    def count(self, prefix: str) -> int:
        """How many numbered modules there are below `prefix` (which ends with a dot)."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return len({match[1] for key in self.state if (match := pattern.match(key))})

    def heads(self, family: str, usual: int, normed: tuple[str, str] | None) -> Heads:
        """Attention heads: stated, or seen in the norm of queries, or the usual number.

        Args:
            family: title of the family, for the log.
            usual: the family's number, used where the file is silent.
            normed: the Sentinel-2 and Sentinel-1 encoders' `q_norm.weight`, where there are
                such: as long as a head is wide.
        """
        both = self.stated("nhead", "num_heads")
        heads = [self.stated(f"{sensor}_num_heads", f"{sensor}_nhead") for sensor in ("s2", "s1")]
        found = [own or both for own in heads]
        if normed is not None:
            widths = [
                self.length(f"{sensor}_backbone.embedding.0.weight") // max(1, self.length(tensor))
                for sensor, tensor in zip(("s2", "s1"), normed, strict=True)
            ]
            found = [own or width for own, width in zip(found, widths, strict=True)]
        if None in found:
            logger.warning(
                "%s does not state its number of attention heads, and tensors do not show it: "
                "using %d, as usual for %s (set model.heads or --heads if it has another)",
                self.path.name,
                usual,
                family,
            )
        return found[0] or usual, found[1] or usual


@dataclass(frozen=True)
class Family:
    """All that is particular to one generation of checkpoints.

    Attributes:
        key: short name, as in records.
        title: name in sentences.
        recognises: whether tensors of these names are of the family.
        read_sizes: the sizes of a checkpoint; heads as given, where they are.
        create: a model of given sizes.
        names: which of a checkpoint's tensors a model's parameters are.
        statistics: by the source of the training data; the key is "" where there is one set.
        rule: how sequences are made.
        quantizer: how codes are made.
        dtype: what the published pipeline stores.
        training_only: prefixes of tensors that only training needs.
    """

    key: str
    title: str
    recognises: Callable[[Collection[str]], bool]
    read_sizes: Callable[[Checkpoint, Heads | None], Any]
    create: Callable[[Any], Model]
    names: Callable[[Any], Names]
    statistics: Mapping[str, Statistics]
    rule: ObservationRule
    quantizer: Quantizer
    dtype: Literal["int8", "float32"] = "int8"
    training_only: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources that have statistics of their own; empty where there is one set."""
        return tuple(source for source in self.statistics if source)

    def shapes(self, sizes: Any) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a checkpoint of these sizes."""
        with torch.device("meta"):
            ours = self.create(sizes).state_dict()
        shapes: dict[str, tuple[int, ...]] = {}
        for name, tensors in self.names(sizes).items():
            first, *others = ours[name].shape
            shapes |= {tensor: (first // len(tensors), *others) for tensor in tensors}
        return shapes

    def choose_statistics(self, source: str | None, path: Path) -> Statistics:
        """The statistics for a source of data.

        Args:
            source: one of `sources`; None where there is one set.
            path: the checkpoint file, for messages.

        Raises:
            ConfigError: no source is named and one is needed, or it has no statistics, or one
                is named for a family that has a single set.
        """
        sources = " or ".join(self.sources)
        if source is None and self.sources:
            raise ConfigError(
                f"{path} is a {self.title} checkpoint, and there is one for each source of data, "
                f"each with its own statistics: set model.statistics (--statistics) to {sources}, "
                "whichever the checkpoint was trained for."
            )
        if source is not None and not self.sources:
            raise ConfigError(
                f"model.statistics (--statistics) is {source}, but {path} is a {self.title} "
                "checkpoint, which has a single set of statistics: leave it out."
            )
        chosen = self.statistics.get(source or "")
        if chosen is None:
            raise ConfigError(
                f"There are no {self.title} statistics for {source}: choose {sources}."
            )
        return chosen


def check_dim(dim: int | None, known: Sequence[int], weights: str) -> int:
    """The number of dimensions to store.

    Args:
        dim: what is asked for; None for as many as the family stores.
        known: what there is to choose from, smallest first.
        weights: what to call the weights in an error.

    Raises:
        ConfigError: `dim` is none of `known`.
    """
    if dim is not None and dim not in known:
        raise ConfigError(
            f"dim is {dim}, but the embeddings of {weights} can be stored with "
            f"{', '.join(map(str, known))} dimensions: choose one of these, or leave dim out."
        )
    return known[-1] if dim is None else dim
