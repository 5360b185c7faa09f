"""Embeddings of a tile: the one function behind the `infer` rule and `tessera-flow embed`.

Pixels are taken in runs of rows, so that memory does not grow with the tile; within a run
they are grouped by sequence length, for each sensor by itself, and encoded in batches. A
pixel's embedding does not depend on which pixels share its tile, run or batch, beyond the
rounding of float32.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from .blockfile import create_array, create_block_file, open_block_file
from .draws import Stream
from .errors import ConfigError, TileError
from .models.checkpoint import load_model
from .models.family import Heads, Model, check_dim
from .models.parts import Encoder
from .observations import Group, ObservationRule
from .quantize import quantize
from .sequences import SensorSteps, count_steps, sentinel1_steps, sentinel2_steps
from .tiles import TileArrays, read_patch

logger = logging.getLogger(__name__)

RUN_PIXELS = 16384
"""Pixels handled at once; bounds memory (about 0.5 GiB with 260 steps)."""

CPU_PASS_STEPS = 2048
"""Most steps (pixels times sequence length) in one forward pass on a CPU, where larger ones
fall out of a core's cache: a nano is 1.6 times as fast as with 37,000."""

Job = TypeVar("Job")
Chosen: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Some pixels (n,), and the steps (n, length) of each."""


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
    batch_size: int = 1024
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


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to run on; `auto` is the GPU where there is one.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device is cuda, but PyTorch finds no CUDA GPU here: set device to cpu or auto, or "
            "install PyTorch for CUDA on a machine that has a GPU."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def prepare_model(
    checkpoint: str | os.PathLike[str],
    dim: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    sha256: str | None = None,
    heads: Heads | None = None,
    statistics: str | None = None,
) -> Model:
    """Load a model onto a device, ready for `embed_tile`.

    Args:
        checkpoint: path of the checkpoint file.
        dim: the number of dimensions that will be asked for.
        device: see `resolve_device`.
        threads: CPU threads of this process; PyTorch's own choice if None.
        sha256: if given, the SHA-256 that the file must still have.
        heads, statistics: see `models.checkpoint.load_model`.

    Raises:
        CheckpointError: see `models.checkpoint.load_model`.
        ConfigError: no such device, `dim` is not one of this model's, or see
            `models.family.Family.choose_statistics`.
    """
    target = resolve_device(device)
    # The default lets cuDNN's GRU (v1.0 float) round its factors to ten bits.
    torch.backends.cudnn.allow_tf32 = False
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(os.fspath(checkpoint), sha256, heads, statistics)
    check_dim(dim, model.sizes.dims, os.fspath(checkpoint))
    return model.to(target)


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
    for rows in _runs(height, width):
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
    place: tuple[NDArray[np.int64], NDArray[np.int64]],
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
    rule, batch_size = model.family.rule, options.batch_size
    repeats = options.repeat_times if rule.random else 1
    result = torch.zeros((len(pixels), model.sizes.repr_dim))
    batches = [slice(i, i + batch_size) for i in range(0, len(pixels), batch_size)]
    with torch.inference_mode():
        for repeat in range(repeats):
            vectors = [
                _encode(
                    encoder,
                    steps,
                    pixels,
                    rule,
                    Stream(options.seed, *place, sensor=sensor, repeat=repeat),
                    batch_size,
                )
                for sensor, (encoder, steps) in enumerate(((model.s2, s2), (model.s1, s1)))
            ]

            def fuse(some: slice, vectors: list[torch.Tensor] = vectors) -> None:
                result[some] += model.fusion(*(vector[some] for vector in vectors)).cpu()

            _for_each(batches, fuse, model.device)
        result /= repeats
    embeddings: NDArray[np.float32] = result.numpy()
    return embeddings


def _place(
    pixels: NDArray[np.int64], width: int, origin: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns in the region's grid of pixels counted row by row from `origin`."""
    rows, columns = np.divmod(pixels, width)
    return rows + origin[0], columns + origin[1]


def _encode(
    encoder: Encoder,
    sensor: SensorSteps,
    pixels: NDArray[np.int64],
    rule: ObservationRule,
    stream: Stream,
    batch_size: int,
) -> torch.Tensor:
    """One sensor's vectors (N, D) of pixels (N,), on the encoder's device."""
    device = encoder.codes.device
    vectors = encoder.absent(rule.absent_length).repeat(len(pixels), 1)

    def encode(chosen: Chosen) -> None:
        places, steps = chosen
        values, days = sensor.sequences(pixels[places], steps)
        vectors[torch.from_numpy(places).to(device)] = encoder(
            torch.from_numpy(values).to(device), torch.from_numpy(days).to(device)
        )

    groups = rule.groups(sensor.valid[pixels], stream)
    most_steps = CPU_PASS_STEPS if device.type == "cpu" else None
    _for_each(_passes(groups, batch_size, most_steps), encode, device)
    return vectors


def _for_each(jobs: Iterable[Job], do: Callable[[Job], None], device: torch.device) -> None:
    """Do every job; on a CPU as many at a time as PyTorch has threads, each on one.

    That is faster than threads that share a job and wait for one another after every
    operation, and the result is the same to the last bit for any number of threads.
    """

    def work(job: Job) -> None:
        with torch.inference_mode():  # holds for the calling thread only
            do(job)

    if device.type != "cpu":
        for job in jobs:
            work(job)
        return
    with ThreadPoolExecutor(
        torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for task in [pool.submit(work, job) for job in jobs]:
            task.result()


def _passes(groups: Iterable[Group], batch_size: int, most_steps: int | None) -> Iterator[Chosen]:
    """Cut pixels of the same sequence length into forward passes.

    Args:
        groups: pixels by sequence length.
        batch_size: most pixels in a pass.
        most_steps: most pixels times sequence length in a pass, or None.

    Yields:
        Which pixels (n,) and which of their steps (n, length).
    """
    for group in groups:
        size = batch_size
        if most_steps is not None:
            size = min(size, max(1, most_steps // group.length))
        for start in range(0, len(group.pixels), size):
            some = slice(start, start + size)
            yield group.pixels[some], group.steps[some]


def _runs(height: int, width: int) -> Iterator[slice]:
    """Runs of whole rows of about `RUN_PIXELS` pixels."""
    rows = max(1, RUN_PIXELS // max(1, width))
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


def infer_block(
    patches: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: InferenceOptions,
    attributes: Mapping[str, Any],
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    sha256: str | None = None,
    heads: Heads | None = None,
    statistics: str | None = None,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Embed a block, patch by patch.

    Args:
        patches: the block's `patches` file.
        checkpoint: the checkpoint file.
        output: the `embeddings` file to make: `embeddings` (H, W, K), `scales` (H, W) for
            int8, `counts` (H, W, 3).
        options: how to embed.
        attributes: JSON-able provenance, written into the file.
        device: see `resolve_device`.
        threads: CPU threads; PyTorch's own choice if None.
        sha256: if given, the SHA-256 that the checkpoint must still have.
        heads, statistics: see `models.checkpoint.load_model`.
        origin: (row, column) in the region's grid of the block's upper left pixel.

    Raises:
        CheckpointError, ConfigError: see `prepare_model`.
        TileError: the patches file is incomplete.
        OutputError: the output cannot be written.
    """
    model = prepare_model(checkpoint, options.dim, device, threads, sha256, heads, statistics)
    with open_block_file(patches) as source:
        windows, shape, size = _layout(source, os.fspath(patches))
        with create_block_file(output, attributes) as target:
            dim = options.dim or model.sizes.dims[-1]
            arrays = _create_outputs(target, shape, size, dim, options.dtype)
            for number, (y0, x0, height, width) in enumerate(windows, start=1):
                name = f"{y0}_{x0}"
                began = time.monotonic()
                # The patch is not bound to a name: two would be in memory while one is read.
                embedding = embed_tile(
                    _open_patch(source, name, (height, width), os.fspath(patches)),
                    model,
                    options,
                    (origin[0] + y0, origin[1] + x0),
                )
                window = (slice(y0, y0 + height), slice(x0, x0 + width))
                arrays["embeddings"][window] = embedding.values
                arrays["counts"][window] = embedding.counts
                if embedding.scales is not None:
                    arrays["scales"][window] = embedding.scales
                seconds = time.monotonic() - began
                logger.info(
                    "patch %s (%d of %d): %d of %d pixels embedded in %.1f s (%.0f per s)",
                    name,
                    number,
                    len(windows),
                    embedding.pixels,
                    height * width,
                    seconds,
                    embedding.pixels / max(seconds, 1e-9),
                )


def _layout(
    source: zarr.Group, where: str
) -> tuple[list[tuple[int, int, int, int]], tuple[int, int], int]:
    """The patches' windows (y0, x0, h, w), the block's shape and the patches' size before
    clipping, from the attributes."""
    try:
        attributes: Mapping[str, Any] = source.attrs.asdict()
        windows = [(int(y), int(x), int(h), int(w)) for y, x, h, w in attributes["patches"]]
        height, width = (int(n) for n in attributes["shape"])
        size = int(attributes["patch_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise TileError(
            f"{where} is not a file of patches (attributes `patches`, `shape` and `patch_size` are "
            "missing or wrong): delete it and run again."
        ) from error
    return windows, (height, width), size


def _create_outputs(
    target: zarr.Group, shape: tuple[int, int], size: int, dim: int, dtype: str
) -> dict[str, zarr.Array[Any]]:
    # A chunk is a patch: a zip file cannot be rewritten in place, so each is written once.
    chunk = (size, size)
    nodata = 0 if dtype == "int8" else np.nan
    arrays = {
        "embeddings": create_array(
            target, "embeddings", (*shape, dim), (*chunk, dim), dtype, nodata
        ),
        "counts": create_array(target, "counts", (*shape, 3), (*chunk, 3), np.uint16),
    }
    if dtype == "int8":
        arrays["scales"] = create_array(target, "scales", shape, chunk, np.float32, np.nan)
    return arrays


def _open_patch(source: zarr.Group, name: str, shape: tuple[int, int], where: str) -> TileArrays:
    group = source.get(name)
    if not isinstance(group, zarr.Group):
        raise TileError(f"The patch {name} of {where} is missing: delete the file and run again.")
    tile = read_patch(group, f"the patch {name} of {where}")
    if tile.shape != shape:
        raise TileError(
            f"The patch {name} of {where} is {tile.shape}, not {shape} as listed: delete the "
            "file and run again."
        )
    return tile
