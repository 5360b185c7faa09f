"""Embed a tile: the function behind the `infer` rules and `tessera-flow embed`.

A tile is processed in chunks of rows, so that memory does not grow with the tile. Within a
chunk, pixels are grouped by sequence length, for each sensor separately, and encoded in
batches. A pixel's embedding does not depend on the other pixels of its tile, chunk or batch,
except for the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ..models.family import Model
from ..models.layers import Encoder
from ..models.philox import Stream
from ..models.quantize import quantize
from ..models.sampling import Group
from .batching import PassLimit, for_each
from .embedding import Embedding, InferenceOptions, require_finite
from .feed import embed_tiles
from .inputs import (
    DeviceSteps,
    SensorSteps,
    as_tensor,
    count_steps,
    sentinel1_steps,
    sentinel2_steps,
)
from .runs import Item
from .tile import TileArrays

__all__ = ["Embedding", "InferenceOptions", "embed_pixels", "embed_tile"]

CHUNK_PIXELS = 16384
"""Pixels of a chunk; bounds memory (about 0.5 GiB with 260 steps)."""

GridPositions: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows (N,) and columns (N,) of pixels in the region's grid."""


def embed_tile(
    tile: TileArrays, model: Model, options: InferenceOptions, origin: tuple[int, int] = (0, 0)
) -> Embedding:
    """Embed every pixel of a tile that is inside its region and observed often enough.

    On a GPU see `feed`.

    Args:
        tile: the seven arrays; memory-mapped ones are read chunk by chunk.
        model: the model, on its device.
        options: how to embed.
        origin: (row, column) in the region's grid of the tile's upper left pixel; used only
            for the random draws of v1.0.

    Raises:
        NotFiniteError: embeddings are not finite numbers.
    """
    if model.device.type != "cpu":
        return next(embed_tiles([Item(tile, origin)], model, options))
    height, width = tile.shape
    dim = options.dim or model.sizes.dims[-1]
    if options.dtype == "int8":
        values: NDArray[Any] = np.zeros((height, width, dim), np.int8)
        scales: NDArray[np.float32] | None = np.full((height, width), np.nan, np.float32)
    else:
        values = np.full((height, width, dim), np.nan, np.float32)
        scales = None
    counts = np.zeros((height, width, 3), np.uint16)
    total = 0
    for rows in _chunks(height, width, CHUNK_PIXELS):
        inside = _inside(tile, rows)
        if not inside.any():
            continue
        s2 = sentinel2_steps(tile, rows, model.statistics)
        s1 = sentinel1_steps(tile, rows, model.statistics, model.family.rule.empty_orbit_day)
        chunk_counts = count_steps(s2, s1, tile.sar_ascending.shape[0])
        chunk_counts[~inside] = 0
        counts[rows] = chunk_counts.reshape(-1, width, 3)
        selected = inside & _observed(chunk_counts, options)
        selected &= model.family.rule.embeddable(s2.valid, s1.valid, partial(tile.has_value, rows))
        pixels = np.flatnonzero(selected)
        total += pixels.size
        if not pixels.size:
            continue
        positions = _positions(tile, rows, pixels, origin)
        embeddings = embed_pixels(s2, s1, pixels, model, options, positions)[:, :dim]
        require_finite(embeddings, None, len(pixels))
        if scales is None:
            values[rows].reshape(-1, dim)[pixels] = embeddings
        else:
            codes, pixel_scales = quantize(embeddings, model.family.quantizer)
            values[rows].reshape(-1, dim)[pixels] = codes
            scales[rows].reshape(-1)[pixels] = pixel_scales
    return Embedding(values, scales, counts, total)


def embed_pixels(
    s2: SensorSteps,
    s1: SensorSteps,
    pixels: NDArray[np.int64],
    model: Model,
    options: InferenceOptions,
    positions: GridPositions,
) -> NDArray[np.float32]:
    """Return the embeddings of N of P pixels.

    For a sensor without a valid step, a pixel gets the vector of its family: that of rows of
    zeros, or of a draw from invalid steps.

    Args:
        s2: Sentinel-2 steps of the P pixels.
        s1: Sentinel-1 steps of the P pixels, ascending first.
        pixels: (N,) indices of the pixels to embed.
        model: the model.
        options: only `batch_size`, `seed` and `repeat_times` are used.
        positions: (N,) rows and (N,) columns of the pixels in the region's grid.

    Returns:
        (N, repr_dim) float32.
    """
    rule, device = model.family.rule, model.device
    repeats = options.repeat_times if rule.random else 1
    limit = PassLimit.on(device, min(options.batch_size, model.max_pixels))
    result = torch.zeros((len(pixels), model.sizes.repr_dim), device=device)
    all_pixels = Group(np.arange(len(pixels)), np.empty((len(pixels), 0), np.int64))
    with torch.inference_mode():
        encodings = [
            _Encoding(encoder, steps, steps.on(device), pixels, rule.absent_length)
            for encoder, steps in ((model.s2, s2), (model.s1, s1))
        ]
        for repeat in range(repeats):
            passes = (
                (encoding, batch)
                for sensor, encoding in enumerate(encodings)
                for group in rule.groups(
                    encoding.valid, Stream(options.seed, *positions, sensor=sensor, repeat=repeat)
                )
                for batch in limit.split(group)
            )
            for_each(passes, lambda job: limit.run(job[1], job[0].encode), device)

            def fuse(group: Group) -> None:
                index = as_tensor(group.pixels, device)
                result[index] += model.fusion(*(encoding.vectors[index] for encoding in encodings))

            for_each(limit.split(all_pixels), lambda batch: limit.run(batch, fuse), device)
        result /= repeats
    if limit.reduced:
        model.max_pixels = limit.pixels
    embeddings: NDArray[np.float32] = result.cpu().numpy()
    return embeddings


class _Encoding:
    """The vectors (N, D) of one sensor of N pixels, on the encoder's device.

    Attributes:
        valid: (N, T) bool, of these pixels.
        vectors: (N, D) float32; initially those of a sensor without a valid step.
    """

    def __init__(
        self,
        encoder: Encoder,
        steps: SensorSteps,
        on_device: DeviceSteps,
        pixels: NDArray[np.int64],
        absent_length: int,
    ) -> None:
        self._encoder = encoder
        self._steps = on_device
        self._pixels = as_tensor(pixels, encoder.codes.device)
        self.valid = steps.valid[pixels]
        self.vectors = encoder.absent(absent_length).repeat(len(pixels), 1)

    def encode(self, group: Group) -> None:
        """Compute the vectors of the pixels of a group."""
        device = self._pixels.device
        pixels, steps = as_tensor(group.pixels, device), as_tensor(group.steps, device)
        values, days = self._steps.sequences(self._pixels[pixels], steps)
        inverse = None if group.inverse is None else as_tensor(group.inverse, device)
        self.vectors[pixels] = self._encoder(values, days, inverse)


def _positions(
    tile: TileArrays, rows: slice, pixels: NDArray[np.int64], origin: tuple[int, int]
) -> GridPositions:
    """Return rows and columns in the region's grid of pixels counted row by row in `rows`."""
    if tile.positions is not None:
        row, column = tile.positions[:, rows].reshape(2, -1)[:, pixels]
        return row, column
    row, column = np.divmod(pixels, tile.shape[1])
    return row + origin[0] + rows.start, column + origin[1]


def _chunks(height: int, width: int, pixels: int) -> Iterator[slice]:
    """Yield slices of rows with at most `pixels` pixels, or one row."""
    rows = max(1, pixels // max(1, width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _inside(tile: TileArrays, rows: slice) -> NDArray[np.bool_]:
    """Return (P,) bool: which pixels of `rows` are inside the region."""
    if tile.roi is None:
        return np.ones((rows.stop - rows.start) * tile.shape[1], bool)
    inside: NDArray[np.bool_] = np.asarray(tile.roi[rows]).reshape(-1) != 0
    return inside


def _observed(counts: NDArray[np.uint16], options: InferenceOptions) -> NDArray[np.bool_]:
    """Return (P,) bool: which pixels have the required number of steps of each sensor."""
    s2 = counts[:, 0].astype(np.int64)
    s1 = counts[:, 1].astype(np.int64) + counts[:, 2]
    enough: NDArray[np.bool_] = (s2 >= options.min_s2) & (s1 >= options.min_s1)
    return enough
