"""Load a model for use in Python."""

from __future__ import annotations

import os

from ..models.family import Heads, Model
from ..models.weights import fetch_weights
from .device import DeviceName, Precision
from .model import ModelSpec, prepare_model


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
        device: `auto`, `cpu`, `cuda` or `xpu`; `auto` takes a GPU if there is one.
        precision: `auto`, `float32` or `bfloat16`; see docs/equivalence.md.
        statistics: `mpc` or `aws`; required for v1.1.
        heads: attention heads of the (Sentinel-2, Sentinel-1) encoders, if the checkpoint does
            not state them.
        threads: CPU threads of this process; PyTorch's default if None.

    Raises:
        CheckpointError: the weights are missing, damaged or of no known family.
        ConfigError: an argument does not fit this machine or these weights.
    """
    record = fetch_weights(os.fspath(weights))
    spec = ModelSpec(record.path, record.sha256, heads, statistics, device, precision, threads)
    return prepare_model(spec)
