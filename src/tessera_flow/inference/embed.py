"""Embeddings of a tile: the one function behind the `infer` rule and `tessera-flow embed`.

Pixels are taken in runs of rows, so that memory does not grow with the tile; within a run
they are grouped by sequence length, for each sensor by itself, and encoded in batches. A
pixel's embedding does not depend on which pixels share its tile, run or batch, beyond the
rounding of float32.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ..models.checkpoint import load_model
from ..models.family import Heads, Model, check_dim
from ..models.layers import Encoder
from ..models.philox import Stream
from ..models.quantize import quantize
from ..models.sampling import Group
from .device import (
    DeviceName,
    PassLimit,
    Precision,
    for_each,
    precision_name,
    resolve_device,
    resolve_precision,
)
from .inputs import (
    DeviceSteps,
    SensorSteps,
    as_tensor,
    count_steps,
    sentinel1_steps,
    sentinel2_steps,
)
from .tile import TileArrays
from .tolerance import BF16, NARROWEST_BF16, agreement, sample_steps

logger = logging.getLogger(__name__)

RUN_PIXELS = 16384
"""Pixels handled at once on a CPU; bounds memory (about 0.5 GiB with 260 steps)."""

RUN_PIXELS_GPU = 131072
"""On a GPU: so many that those with equal numbers of steps fill its passes."""

Place: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows (N,) and columns (N,) of pixels in the region's grid."""


@dataclass(frozen=True)
class InferenceOptions:
    """How to embed.

    Attributes:
        dim: leading dimensions to keep, cut before quantising; all that the family stores
            if None.
        dtype: what is stored.
        min_s2: valid Sentinel-2 steps a pixel needs.
        min_s1: valid Sentinel-1 steps a pixel needs, both orbits together.
        batch_size: most pixels in one forward pass.
        seed: of random draws, for families that draw their observations (v1.0).
        repeat_times: how many draws are averaged, for these families.
    """

    dim: int | None = None
    dtype: Literal["int8", "float32"] = "int8"
    min_s2: int = 1
    min_s1: int = 0
    batch_size: int = 4096
    seed: int = 0
    repeat_times: int = 1


@dataclass(frozen=True)
class Embedding:
    """What a tile becomes.

    Attributes:
        values: (H, W, K) int8 codes or float32; 0 or NaN where there is no embedding.
        scales: (H, W) float32, NaN where there is no embedding; None for float32 values.
        counts: (H, W, 3) uint16, valid S2, S1 ascending and S1 descending steps; 0 outside
            the region.
        pixels: how many pixels have an embedding.
    """

    values: NDArray[np.int8] | NDArray[np.float32]
    scales: NDArray[np.float32] | None
    counts: NDArray[np.uint16]
    pixels: int


def prepare_model(
    checkpoint: str | os.PathLike[str],
    dim: int | None = None,
    device: DeviceName = "auto",
    threads: int | None = None,
    sha256: str | None = None,
    heads: Heads | None = None,
    statistics: str | None = None,
    precision: Precision = "auto",
) -> Model:
    """Load a model onto a device, ready for `embed_tile`.

    Args:
        checkpoint: path of the checkpoint file.
        dim: the number of dimensions that will be asked for.
        device: see `devices.resolve_device`.
        threads: CPU threads of this process; PyTorch's own choice if None.
        sha256: if given, the SHA-256 that the file must still have.
        heads, statistics: see `models.checkpoint.load_model`.
        precision: see `devices.resolve_precision`. Where a model in bfloat16 does not keep
            the contract (`equivalence.BF16`) on simulated pixels, it is run in float32, and
            the log says so.

    Raises:
        CheckpointError: see `models.checkpoint.load_model`.
        ConfigError: no such device or precision, `dim` is not one of this model's, or see
            `models.family.Family.choose_statistics`.
    """
    target = resolve_device(device)
    # The default lets cuDNN's GRU (v1.0 float) round its factors to ten bits.
    torch.backends.cudnn.allow_tf32 = False
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(os.fspath(checkpoint), sha256, heads, statistics)
    check_dim(dim, model.sizes.dims, os.fspath(checkpoint))
    model.to(target)
    dtype = resolve_precision(precision, target)
    if dtype == torch.float32:
        return model.pack(dtype)
    reason = _pack_if_alike(model, dtype, dim or model.sizes.dims[-1])
    if reason is None:
        return model
    logger.warning(
        "%s is computed in float32: in %s %s (docs/equivalence.md)",
        os.fspath(checkpoint),
        precision_name(dtype),
        reason,
    )
    return (
        load_model(os.fspath(checkpoint), sha256, heads, statistics).to(target).pack(torch.float32)
    )


def _pack_if_alike(model: Model, dtype: torch.dtype, dim: int) -> str | None:
    """Pack a model, and compare it on simulated pixels with itself as it was, at the
    dimensions that are stored.

    Returns:
        What speaks against `dtype`, or None.
    """
    width = model.sizes.s2.width
    if width < NARROWEST_BF16:
        return f"an encoder of width {width} rounds too much and gains nothing"
    s2, s1 = sample_steps(model.statistics)
    pixels = np.arange(len(s2.valid))
    options = InferenceOptions()
    measure = embed_pixels(s2, s1, pixels, model, options, (pixels, pixels))
    model.pack(dtype)
    found = embed_pixels(s2, s1, pixels, model, options, (pixels, pixels))
    alike = agreement(measure[:, :dim], found[:, :dim], model.family.quantizer)
    logger.info(
        "smallest cosine to float32 on %d simulated pixels: %.6f", len(pixels), alike.cosine
    )
    broken = BF16.broken(alike)
    return f"it differs too much on simulated pixels ({', '.join(broken)})" if broken else None


def embed_tile(
    tile: TileArrays, model: Model, options: InferenceOptions, origin: tuple[int, int] = (0, 0)
) -> Embedding:
    """Embed every pixel of a tile that is inside its region and observed often enough.

    Args:
        tile: the seven arrays; memory-mapped ones are read run by run.
        model: the model, on the device to use.
        options: how to embed.
        origin: (row, column) in the region's grid of the tile's upper left pixel; decides
            the random draws of v1.0, and nothing else.
    """
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
    run_pixels = RUN_PIXELS if model.device.type == "cpu" else RUN_PIXELS_GPU
    for rows in _runs(height, width, run_pixels):
        inside = _inside(tile, rows)
        if not inside.any():
            continue
        s2 = sentinel2_steps(tile, rows, model.statistics)
        s1 = sentinel1_steps(tile, rows, model.statistics, model.family.rule.empty_orbit_day)
        run_counts = count_steps(s2, s1, tile.sar_ascending.shape[0])
        run_counts[~inside] = 0
        counts[rows] = run_counts.reshape(-1, width, 3)
        able = inside & _observed(run_counts, options)
        able &= model.family.rule.embeddable(s2.raw, s2.valid, s1.valid)
        pixels = np.flatnonzero(able)
        total += pixels.size
        if not pixels.size:
            continue
        place = _place(pixels, width, (origin[0] + rows.start, origin[1]))
        embeddings = embed_pixels(s2, s1, pixels, model, options, place)[:, :dim]
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
    place: Place,
) -> NDArray[np.float32]:
    """Embeddings of some of P pixels.

    A pixel without a valid step of a sensor gets what its family gives it: that sensor's
    vector for rows of zeros, or a draw from invalid steps.

    Args:
        s2: Sentinel-2 steps of the P pixels.
        s1: Sentinel-1 steps of the P pixels, ascending first.
        pixels: (N,) which of them to embed.
        model: the model.
        options: `batch_size`, `seed` and `repeat_times` count.
        place: (N,) rows and (N,) columns of the pixels in the region's grid.

    Returns:
        (N, repr_dim) float32.
    """
    rule, device = model.family.rule, model.device
    repeats = options.repeat_times if rule.random else 1
    limit = PassLimit.on(device, min(options.batch_size, model.most_pixels))
    result = torch.zeros((len(pixels), model.sizes.repr_dim), device=device)
    everyone = Group(np.arange(len(pixels)), np.empty((len(pixels), 0), np.int64))
    with torch.inference_mode():
        encodings = [
            _Encoding(encoder, steps, steps.on(device), pixels, rule.absent_length)
            for encoder, steps in ((model.s2, s2), (model.s1, s1))
        ]
        for repeat in range(repeats):
            passes = (
                (encoding, part)
                for sensor, encoding in enumerate(encodings)
                for group in rule.groups(
                    encoding.valid, Stream(options.seed, *place, sensor=sensor, repeat=repeat)
                )
                for part in limit.cut(group)
            )
            for_each(passes, lambda job: limit.run(job[1], job[0].encode), device)

            def fuse(group: Group) -> None:
                some = as_tensor(group.pixels, device)
                result[some] += model.fusion(*(encoding.vectors[some] for encoding in encodings))

            for_each(limit.cut(everyone), lambda part: limit.run(part, fuse), device)
        result /= repeats
    if limit.shrunk:
        model.most_pixels = limit.pixels
    embeddings: NDArray[np.float32] = result.cpu().numpy()
    return embeddings


class _Encoding:
    """One sensor's vectors (N, D) of pixels (N,), on the encoder's device.

    Attributes:
        valid: (N, T) bool, of these pixels.
        vectors: (N, D) float32; at first those of a sensor without a valid step.
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
        """Replace the vectors of the pixels of a group."""
        device = self._pixels.device
        pixels, steps = as_tensor(group.pixels, device), as_tensor(group.steps, device)
        values, days = self._steps.sequences(self._pixels[pixels], steps)
        places = None if group.places is None else as_tensor(group.places, device)
        self.vectors[pixels] = self._encoder(values, days, places)


def _place(pixels: NDArray[np.int64], width: int, origin: tuple[int, int]) -> Place:
    """Rows and columns in the region's grid of pixels counted row by row from `origin`."""
    rows, columns = np.divmod(pixels, width)
    return rows + origin[0], columns + origin[1]


def _runs(height: int, width: int, pixels: int) -> Iterator[slice]:
    """Runs of whole rows of about so many pixels."""
    rows = max(1, pixels // max(1, width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _inside(tile: TileArrays, rows: slice) -> NDArray[np.bool_]:
    """(P,) bool: the pixels of some rows that are inside the region."""
    if tile.roi is None:
        return np.ones((rows.stop - rows.start) * tile.shape[1], bool)
    inside: NDArray[np.bool_] = np.asarray(tile.roi[rows]).reshape(-1) != 0
    return inside


def _observed(counts: NDArray[np.uint16], options: InferenceOptions) -> NDArray[np.bool_]:
    """(P,) bool: pixels with as many steps of each sensor as are asked for."""
    s2 = counts[:, 0].astype(np.int64)
    s1 = counts[:, 1].astype(np.int64) + counts[:, 2]
    enough: NDArray[np.bool_] = (s2 >= options.min_s2) & (s1 >= options.min_s1)
    return enough
