"""The families of checkpoints: one value with everything that is specific to a family."""

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
    """Sizes of a model, by which the models of a family differ; a dataclass."""

    @property
    def repr_dim(self) -> int:
        """Dimensions of the model's output."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Numbers of leading dimensions that may be stored, smallest first."""


class Model(nn.Module):
    """A model; its modules `s2`, `s1` and `fusion` can be called separately.

    The sequence length of a sensor does not affect the vector of the other sensor, so callers
    group pixels by length for each sensor separately, without padding.

    Attributes:
        family: its family; set when it is loaded.
        statistics: means and divisors of its inputs; set when it is loaded.
        sizes: its sizes.
        dtype: type of the factors of the encoders' matrix products.
        max_pixels: maximum number of pixels in one forward pass, reduced when memory ran out.
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
        self.max_pixels = sys.maxsize

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.s2.codes.device

    def pack(self, dtype: torch.dtype) -> Model:
        """Reorder the weights for their device, with matrix products of the encoders in `dtype`.

        The fusion, computed once per pixel, stays in float32. A packed model cannot be saved.
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


MAX_STATED = 2**16
"""Largest size that the settings of a checkpoint may state; published models stay below 10,000."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file that concerns the encoder.

    Attributes:
        path: the file.
        state: the encoder's tensors by name, without prefixes of compiled models and without
            tensors that only training needs.
        settings: the entry `args`, `arch` or `config`; empty if there is none.
        settings_name: name of that entry.
    """

    path: Path
    state: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    settings_name: str = "args"

    def stated(self, *names: str) -> int | None:
        """Return the size that the settings contain under one of these names, or None.

        Raises:
            CheckpointError: it is not a whole number from 1 to `MAX_STATED`.
        """
        for name in names:
            value = self.settings.get(name)
            if value is None:
                continue
            if type(value) is not int or not 1 <= value <= MAX_STATED:
                raise CheckpointError(
                    f"{self.path}: `{self.settings_name}` contain {name} = {value!r}, which is not "
                    f"a positive whole number up to {MAX_STATED}: use the file as it was published."
                )
            return value
        return None

    def length(self, tensor: str) -> int:
        """Return the length of a tensor's first axis.

        Raises:
            CheckpointError: there is no such tensor.
        """
        value = self.state.get(tensor)
        if value is None or value.ndim == 0:
            raise CheckpointError(
                f"{self.path}: the tensor {tensor} is missing, which every model of its family "
                "has: use the file as it was published."
            )
        return value.shape[0]

    def count(self, prefix: str) -> int:
        """Return the number of numbered modules below `prefix` (which ends with a dot)."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return len({match[1] for key in self.state if (match := pattern.match(key))})

    def heads(self, family: str, usual: int, normed: tuple[str, str] | None) -> Heads:
        """Return attention heads from the settings, the norm of queries, or the usual number.

        Args:
            family: title of the family, for the log.
            usual: the family's number, used if the file does not contain it.
            normed: names of the `q_norm.weight` of the Sentinel-2 and Sentinel-1 encoders, if
                they exist; their length is the width of a head.
        """
        both = self.stated("nhead", "num_heads")
        stated = [self.stated(f"{sensor}_num_heads", f"{sensor}_nhead") for sensor in ("s2", "s1")]
        heads = [number or both for number in stated]
        if normed is not None:
            widths = [
                self.length(f"{sensor}_backbone.embedding.0.weight") // max(1, self.length(tensor))
                for sensor, tensor in zip(("s2", "s1"), normed, strict=True)
            ]
            heads = [number or width for number, width in zip(heads, widths, strict=True)]
        if None in heads:
            logger.warning(
                "%s does not contain its number of attention heads, and tensors do not show it: "
                "using %d, as usual for %s (set model.heads or --heads if it has another)",
                self.path.name,
                usual,
                family,
            )
        return heads[0] or usual, heads[1] or usual


@dataclass(frozen=True)
class Family:
    """Everything that is specific to one generation of checkpoints.

    Attributes:
        key: short name, used in records.
        title: name in messages.
        recognises: returns whether tensors of these names belong to the family.
        read_sizes: returns the sizes of a checkpoint; the second argument overrides the heads.
        create: returns a model of these sizes.
        names: returns the names of a model's parameters with those of the checkpoint's tensors.
        statistics: by source of the training data; the key is "" if there is one set.
        rule: how sequences are made.
        quantizer: how codes are made.
        dtype: type that the published pipeline stores.
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
        """Sources of training data with separate statistics; empty if there is one set."""
        return tuple(source for source in self.statistics if source)

    def without_values(self, sizes: Any) -> Model:
        """Return a model of these sizes on the device `meta`, where parameters have no values."""
        with torch.device("meta"):
            return self.create(sizes)

    def shapes(self, sizes: Any, model: Model | None = None) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor of a checkpoint of these sizes.

        Args:
            sizes: the sizes.
            model: that of `without_values`, if there is one already.
        """
        parameters = (model or self.without_values(sizes)).state_dict()
        shapes: dict[str, tuple[int, ...]] = {}
        for name, tensors in self.names(sizes).items():
            first, *others = parameters[name].shape
            shapes |= {tensor: (first // len(tensors), *others) for tensor in tensors}
        return shapes

    def choose_statistics(self, source: str | None, path: Path) -> Statistics:
        """Return the statistics of a source of data.

        Args:
            source: one of `sources`; None if there is one set.
            path: the checkpoint file, for messages.

        Raises:
            ConfigError: a source is required and missing, or has no statistics, or is set for
                a family with a single set.
        """
        sources = " or ".join(self.sources)
        if source is None and self.sources:
            raise ConfigError(
                f"{path} is a {self.title} checkpoint, of which there is one for each source of "
                "data, with its own statistics: set model.statistics (--statistics) to "
                f"{sources}, the source of the data that it was trained on."
            )
        if source is not None and not self.sources:
            raise ConfigError(
                f"model.statistics (--statistics) is {source}, but {path} is a {self.title} "
                "checkpoint, which has a single set of statistics: leave it out."
            )
        statistics = self.statistics.get(source or "")
        if statistics is None:
            raise ConfigError(
                f"There are no {self.title} statistics for {source}: choose {sources}."
            )
        return statistics


def check_dim(dim: int | None, known: Sequence[int], weights: str) -> int:
    """Return the number of dimensions to store.

    Args:
        dim: the requested number; None for the number that the family stores.
        known: the possible numbers, smallest first.
        weights: name of the weights in an error message.

    Raises:
        ConfigError: `dim` is not one of `known`.
    """
    if dim is not None and dim not in known:
        raise ConfigError(
            f"dim is {dim}, but the embeddings of {weights} can be stored with "
            f"{', '.join(map(str, known))} dimensions: choose one of these, or leave dim out."
        )
    return known[-1] if dim is None else dim
