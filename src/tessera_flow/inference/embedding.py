"""What to embed, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import NotFiniteError

if TYPE_CHECKING:
    from .device_series import SeriesResult


@dataclass(frozen=True)
class InferenceOptions:
    """Options of embedding that do not depend on the checkpoint.

    Attributes:
        dim: leading dimensions to store, cut before quantising; all that the family stores
            if None.
        dtype: type that is stored.
        min_s2: valid Sentinel-2 steps that a pixel needs.
        min_s1: valid Sentinel-1 steps that a pixel needs, sum of both orbits.
        batch_size: size of a forward pass in pixels, on a GPU of 64 steps each.
        seed: seed of random draws, for families that draw their observations (v1.0).
        repeat_times: number of draws that are averaged, for these families.
    """

    dim: int | None = None
    dtype: Literal["int8", "float32"] = "int8"
    min_s2: int = 1
    min_s1: int = 0
    batch_size: int = 4096
    seed: int = 0
    repeat_times: int = 1

    @classmethod
    def of(cls, settings: Mapping[str, Any], batch_size: int) -> InferenceOptions:
        """Return the options in the parameters of an inference job; see `jobs.params`."""
        minimum = settings["min_observations"]
        names = ("dim", "dtype", "seed", "repeat_times")
        return cls(
            min_s2=minimum["s2"],
            min_s1=minimum["s1"],
            batch_size=batch_size,
            **{name: settings[name] for name in names},
        )


@dataclass(frozen=True)
class Embedding:
    """The embeddings of a tile.

    Attributes:
        values: (H, W, K) int8 codes or float32; 0 or NaN where there is no embedding.
        scales: (H, W) float32, NaN where there is no embedding; None for float32 values.
        counts: (H, W, 3) uint16, valid S2, S1 ascending and S1 descending steps; 0 outside
            the region.
        pixels: number of pixels with an embedding.
        series: what a device counted and summarised on request.
    """

    values: NDArray[np.int8] | NDArray[np.float32]
    scales: NDArray[np.float32] | None
    counts: NDArray[np.uint16]
    pixels: int
    series: SeriesResult | None = None


def require_finite(values: NDArray[Any], scales: NDArray[np.float32] | None, pixels: int) -> None:
    """Check that all embeddings are finite: a pixel whose scale is NaN would pass for a pixel
    without an embedding.

    Args:
        values: (..., K) int8 codes or float32.
        scales: (...) float32 of the codes; None for float32 values.
        pixels: number of these pixels with an embedding.

    Raises:
        NotFiniteError: fewer embeddings are finite.
    """
    finite = np.isfinite(values).all(axis=-1) if scales is None else np.isfinite(scales)
    bad = pixels - int(np.count_nonzero(finite))
    if bad:
        raise NotFiniteError(f"the embeddings of {bad} of {pixels} pixels are not finite numbers")
