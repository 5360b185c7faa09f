"""Load a model onto a device, in the precision to run it in."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError
from ..models.checkpoint import load_model as load_checkpoint
from ..models.family import Heads, Model, check_dim
from ..models.weights_record import WeightsRecord
from .compiled import Compilation, compile_encoders
from .device import DeviceName, Precision, precision_name, resolve_device, resolve_precision
from .embed import InferenceOptions, embed_pixels
from .tolerance import HALF_SIMULATED, MIN_WIDTH_HALF, compare, sample_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSpec:
    """A checkpoint, and how to run it.

    Attributes:
        checkpoint: path of the checkpoint file.
        sha256: SHA-256 in hexadecimal that the file must have; not checked if None.
        heads: attention heads of the Sentinel-2 and the Sentinel-1 encoder; from the
            checkpoint or the family if None.
        statistics: source of the training data, for a family with statistics for several
            sources; else None.
        device: see `device.resolve_device`.
        precision: see `device.resolve_precision`.
        threads: CPU threads of this process; PyTorch's default if None.
        compiled: folder for the code of PyTorch's compiler, which runs the encoders on a GPU for
            CUDA; None: it is not used. See `compiled`.
    """

    checkpoint: str | os.PathLike[str]
    sha256: str | None = None
    heads: Heads | None = None
    statistics: str | None = None
    device: DeviceName = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    compiled: str | os.PathLike[str] | None = None

    @classmethod
    def of(
        cls,
        record: WeightsRecord,
        settings: Mapping[str, Any],
        device: DeviceName,
        threads: int,
        compiled: str | os.PathLike[str] | None = None,
    ) -> ModelSpec:
        """Return the model of an inference job, from its weights and parameters (`jobs.params`)."""
        return cls(
            checkpoint=record.path,
            sha256=record.sha256,
            heads=tuple(settings["heads"]) if settings["heads"] else None,
            statistics=settings["statistics"],
            device=device,
            precision=settings["precision"],
            threads=threads,
            compiled=compiled,
        )

    def load(self) -> Model:
        """Load the model in float32 on the CPU; see `models.checkpoint.load_model`."""
        return load_checkpoint(os.fspath(self.checkpoint), self.sha256, self.heads, self.statistics)


def load_model(
    weights: str | os.PathLike[str],
    *,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    statistics: str | None = None,
    heads: Heads | None = None,
    threads: int | None = None,
) -> Model:
    """Load a model onto a device, ready for `embed_tile` and `embed_tile_folder`.

    Args:
        weights: path of a checkpoint, or the name of a published one, which is downloaded once.
        device, precision, statistics, heads, threads: see `ModelSpec`.

    Raises:
        CheckpointError: the weights are missing, damaged or of no known family.
        ConfigError: an argument does not fit this machine or these weights.
    """
    # Imported here: the jobs that embed know their file and need no Hugging Face client.
    from ..models.weights import fetch_weights

    record = fetch_weights(os.fspath(weights), heads=heads)
    return prepare_model(
        ModelSpec(record.path, record.sha256, heads, statistics, device, precision, threads)
    )


@dataclass(frozen=True)
class PreparedModel:
    """A model on its device, with what is needed to check it and to fall back.

    Attributes:
        spec: how it was requested.
        model: the model, ready for `embed_tile`.
        reference: the same in float32 on the CPU; None if `model` is that.
        fallback: why float32 replaces bf16 or fp16; None if it does not.
        compilation: how the encoders are compiled; None if that was not requested.
    """

    spec: ModelSpec
    model: Model
    reference: Model | None
    fallback: str | None = None
    compilation: Compilation | None = None

    @property
    def precision(self) -> str:
        """`float32`, `bf16` or `fp16`."""
        return precision_name(self.model.dtype)

    def may_fall_back(self) -> bool:
        """Return whether the model runs in bf16 or fp16 because it is faster, not because the
        user requested it: a requested precision is never replaced."""
        return self.model.dtype != torch.float32 and self.spec.precision == "auto"

    def in_float32(self, reason: str) -> PreparedModel:
        """Return the model in float32 on the same device, with a warning in the log."""
        return _instead(self.spec, self.model.device, f"in {self.precision} {reason}")


def prepare_model(spec: ModelSpec, dim: int | None = None) -> Model:
    """Load a model onto its device, ready for `embed_tile`; see `prepare`."""
    return prepare(spec, dim).model


def prepare(spec: ModelSpec, dim: int | None = None) -> PreparedModel:
    """Load a model onto its device, in a precision that keeps the tolerance there.

    With precision `auto`, a model in bf16 or fp16 that exceeds the tolerance `HALF_SIMULATED` on
    simulated pixels runs in float32 instead, with a warning in the log.

    Args:
        spec: the checkpoint and how to run it.
        dim: the number of dimensions that will be stored; all if None.

    Raises:
        CheckpointError: see `models.checkpoint.load_model`.
        ConfigError: the device or precision is not available, bf16 or fp16 is requested and
            exceeds the tolerance, `dim` is not one of this model's, or see
            `models.family.Family.choose_statistics`.
    """
    device = resolve_device(spec.device)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    model = spec.load()
    check_dim(dim, model.sizes.dims, os.fspath(spec.checkpoint))
    dtype = resolve_precision(spec.precision, device)
    if dtype == torch.float32:
        return _in_float32(spec, device, None, model)
    model.to(device)
    precision = precision_name(dtype)
    reason = _pack_if_within_tolerance(model, dtype, dim or model.sizes.dims[-1])
    if reason is None:
        reference = spec.load().pack(torch.float32)
        return PreparedModel(spec, model, reference, None, compile_encoders(model, spec.compiled))
    if spec.precision != "auto":
        raise ConfigError(
            f"precision is {spec.precision}, but in {precision} {reason} "
            f"({os.fspath(spec.checkpoint)}): set precision to float32 or auto "
            "(docs/equivalence.md)."
        )
    return _instead(spec, device, f"in {precision} {reason}")


def _instead(spec: ModelSpec, device: torch.device, reason: str) -> PreparedModel:
    """Return the model in float32 instead of a precision that does not do, with a warning."""
    logger.warning(
        "%s is computed in float32: %s (docs/equivalence.md)", os.fspath(spec.checkpoint), reason
    )
    return _in_float32(spec, device, reason)


def _in_float32(
    spec: ModelSpec, device: torch.device, fallback: str | None, model: Model | None = None
) -> PreparedModel:
    model = model or spec.load()
    if device.type == "cpu":
        return PreparedModel(spec, model.pack(torch.float32), None, fallback)
    model.to(device).pack(torch.float32)
    reference = spec.load().pack(torch.float32)
    compilation = compile_encoders(model, spec.compiled)
    return PreparedModel(spec, model, reference, fallback, compilation)


def _pack_if_within_tolerance(model: Model, dtype: torch.dtype, dim: int) -> str | None:
    """Pack a model, and compare its first `dim` dimensions before and after on simulated pixels.

    Returns:
        The reason against `dtype`, or None.
    """
    width = model.sizes.s2.width
    if width < MIN_WIDTH_HALF:
        return f"an encoder of width {width} rounds too much and is not faster"
    s2, s1 = sample_steps(model.statistics)
    pixels = np.arange(len(s2.valid))
    options = InferenceOptions()
    reference = embed_pixels(s2, s1, pixels, model, options, (pixels, pixels))
    model.pack(dtype)
    packed = embed_pixels(s2, s1, pixels, model, options, (pixels, pixels))
    agreement = compare(reference[:, :dim], packed[:, :dim], model.family.quantizer)
    logger.info(
        "smallest cosine to float32 on %d simulated pixels: %.6f", len(pixels), agreement.cosine
    )
    violations = HALF_SIMULATED.violations(agreement)
    if not violations:
        return None
    return f"it differs too much on simulated pixels ({', '.join(violations)})"
