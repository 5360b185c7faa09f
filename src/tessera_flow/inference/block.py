"""Embed a block, patch by patch: the step behind the `infer` rules.

A job that is killed resumes after its last saved patch when it is run again. The result is
identical to that of an uninterrupted job, byte by byte.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from .. import __version__
from ..block_file import create_array, create_block_file, open_block_file, write_encoded
from ..concurrency import BackgroundWriter, ordered_map
from ..errors import ToleranceError
from ..models.checkpoint import sha256_of
from ..region.grid import Window, patch_name
from ..signals import StopRequest
from .block_chunks import encode_chunk
from .block_embeddings import create_outputs
from .device import describe, device_name
from .embed import Embedding, InferenceOptions, embed_tile
from .feed import embed_tiles
from .memory import memory_message
from .model import ModelSpec, PreparedModel, prepare
from .months import PeriodMonths
from .patch_file import PatchFile
from .resume import Arrays, Finished, Progress
from .runs import Item
from .series import MEDIAN_EDGE, SUMMARY, median_step, with_vectors, write_summary
from .spot_check import Sample, check_patch, record, refusal, require_tolerance
from .tile import TileArrays
from .tolerance import Comparison
from .transfers import Transfers

logger = logging.getLogger(__name__)

Masks: TypeAlias = NDArray[Any] | None
"""Masks of months, if they are made."""

SAVE_SECONDS = 30.0
"""Next to a GPU, patches finished within so many seconds are saved together: a job that is killed
loses them, one that is stopped does not."""

_COMPARED = "compared"
"""Name of the comparison with float32 in the record of a finished patch."""


@memory_message()
def infer_block(
    patches: str | os.PathLike[str],
    output: str | os.PathLike[str],
    spec: ModelSpec,
    options: InferenceOptions,
    attributes: Mapping[str, Any],
    origin: tuple[int, int] = (0, 0),
    stop: StopRequest | None = None,
    period: PeriodMonths | None = None,
    block_edge: int = MEDIAN_EDGE,
    load: Callable[[ModelSpec, int | None], PreparedModel] = prepare,
) -> None:
    """Embed a block, patch by patch, after the last finished patch of an earlier job.

    Args:
        patches: the block's `patches` file.
        output: the `embeddings` file to write: `embeddings` (H, W, K), `scales` (H, W) for
            int8, `counts` (H, W, 3), with `period` `months` (H, W, 3); attributes `device`,
            `precision`, `fallback` (why float32 replaces bf16 or fp16, or None), `compared` (with
            float32 on a CPU, see `spot_check.record`; None on a CPU in float32), `compiled`
            (whether PyTorch's compiler ran the encoders), `not_compiled` (why it did not although
            it was requested, or None),
            `steps_outside_period` and, from the patches, `missing_scenes`, `level_jumps`,
            `tile_facts` and arrays beside the patches; a summary of the time series, see
            `series.write_summary`. Until it is complete, progress files are next to it; see
            `resume`.
        spec: the checkpoint and how to run it.
        options: how to embed.
        attributes: JSON-able provenance, written into the file.
        origin: (row, column) in the region's grid of the block's upper left pixel.
        stop: request to stop, checked when a patch is finished.
        period: the months of the period; None if no masks of months are made.
        block_edge: edge of a block that is not clipped, on the product grid; decides the
            resolution of the median image, see `series.median_step`.
        load: as `model.prepare`; a process that embeds several blocks keeps the model.

    Raises:
        Stopped: a stop was requested; finished patches are kept.
        CheckpointError, ConfigError: see `model.prepare`; or memory ran out.
        TileError: the patches file is incomplete.
        ToleranceError: embeddings differ too much from float32 on a CPU, and the precision must
            not be replaced.
        OutputError: the output cannot be written.
    """
    prepared = load(spec, options.dim)
    stop, step = stop or StopRequest(), median_step(block_edge)
    with open_block_file(patches) as group:
        source = PatchFile.of(group, os.fspath(patches), period, origin, step)
        attributes = {
            **attributes,
            # Copied, because the patches are temporary.
            "missing_scenes": group.attrs.get("missing_scenes", {}),
            "level_jumps": group.attrs.get("level_jumps", []),
            "tile_facts": group.attrs.get("tile_facts", []),
            "steps_outside_period": source.steps_outside_period(),
        }
        inputs = {
            "weights": spec.sha256 or sha256_of(Path(spec.checkpoint)),
            "heads": spec.heads,
            "statistics": spec.statistics,
            "options": {k: v for k, v in asdict(options).items() if k != "batch_size"},
            "origin": list(origin),
            "median_step": step,
            "months": [] if period is None else list(period.months),
            "patches": _content_hash(patches),
            "software": [__version__, torch.__version__],
        }
        reason = None
        try:
            _infer(source, output, prepared, options, attributes, inputs, stop)
        except ToleranceError as error:
            if not prepared.may_fall_back():
                raise refusal(prepared, error) from error
            reason = str(error)
        # Outside the clause, where the error would keep patches and memory of the device.
        if reason is not None:
            prepared = prepared.in_float32(reason)
            _infer(source, output, prepared, options, attributes, inputs, stop)


def _infer(
    source: PatchFile,
    output: str | os.PathLike[str],
    prepared: PreparedModel,
    options: InferenceOptions,
    attributes: Mapping[str, Any],
    inputs: Mapping[str, Any],
    stop: StopRequest,
) -> None:
    """Embed a block with one model."""
    attributes = {
        **attributes,
        "device": device_name(prepared.model.device),
        "precision": prepared.precision,
        "fallback": prepared.fallback,
    }
    interval = SAVE_SECONDS if _read_ahead(prepared.model.device) else 0
    with Progress(output, {"attributes": attributes, **inputs}, interval) as progress:
        compared = _embed_patches(source, prepared, options, progress, stop)
        found = None if prepared.reference is None else record(compared)
        _write(output, {**attributes, "compared": found}, source, options, prepared, progress)
        progress.remove()


def _embed_patches(
    source: PatchFile,
    prepared: PreparedModel,
    options: InferenceOptions,
    progress: Progress,
    stop: StopRequest,
) -> Comparison:
    """Embed the unfinished patches; with a GPU the next patch is read and the previous one saved
    meanwhile.

    Returns:
        The comparison of all patches with float32.
    """
    model = prepared.model
    stop.wait_for_check()
    numbers = {patch: number for number, patch in enumerate(source.patches, start=1)}
    todo = [patch for patch in source.patches if patch_name(patch) not in progress]
    if progress.finished:
        finished = len(numbers) - len(todo)
        logger.info("%d of %d patches were finished before", finished, len(numbers))
    logger.info("%d patches to embed on %s", len(todo), describe(model.device))
    compared = _compared(source, progress)
    ahead = _read_ahead(model.device)
    outputs = _create_outputs(zarr.create_group(MemoryStore()), source, options, prepared)

    def save(patch: Window, embedding: Embedding, masks: Masks, others: Arrays) -> None:
        chunks = _encode(outputs, patch, embedding, masks)
        progress.add(patch_name(patch), Finished(chunks, others))

    start = time.monotonic()
    with (
        BackgroundWriter(save, enabled=ahead > 0) as writer,
        closing(_embeddings(source, todo, prepared, options)) as embeddings,
    ):
        for patch, (embedding, comparison) in zip(todo, embeddings, strict=True):
            compared += comparison
            require_tolerance(prepared, compared)
            summary = with_vectors(source.summaries.pop(patch), embedding.values, embedding.scales)
            others = {f"{SUMMARY}_{name}": values for name, values in summary.items()}
            others[_COMPARED] = comparison.to_array()
            writer.write(patch, embedding, source.masks.pop(patch, None), others)
            seconds = time.monotonic() - start
            logger.info(
                "patch %s (%d of %d): %d of %d pixels embedded in %.1f s (%.0f per s)",
                patch_name(patch),
                numbers[patch],
                len(numbers),
                embedding.pixels,
                patch.height * patch.width,
                seconds,
                embedding.pixels / max(seconds, 1e-9),
            )
            start = time.monotonic()
            if patch != todo[-1]:
                stop.check(f"{numbers[patch]} of {len(numbers)} patches are kept")
    return compared


def _embeddings(
    source: PatchFile,
    todo: list[Window],
    prepared: PreparedModel,
    options: InferenceOptions,
) -> Generator[tuple[Embedding, Comparison]]:
    """Yield the embedding of each patch, compared with float32 on a CPU; on a GPU later patches
    are read and started meanwhile."""
    model = prepared.model
    positions = [source.position(patch) for patch in todo]
    ahead = _read_ahead(model.device)
    transfers = Transfers(model.device)
    samples: deque[Sample | None] = deque()

    def read(patch: Window) -> tuple[TileArrays, Sample | None]:
        tile = source.read(patch, transfers.allocate, everywhere=not ahead)
        return tile, None if prepared.reference is None else Sample.of(tile)

    def take(item: tuple[TileArrays, Sample | None]) -> TileArrays:
        """Keep the sample of a tile, and not the tile."""
        samples.append(item[1])
        return item[0]

    with closing(ordered_map(read, todo, threads=ahead, limit=1 + ahead)) as tiles:
        if ahead:
            embeddings = embed_tiles(
                (
                    Item(take(next(tiles)), position, source.request(patch))
                    for patch, position in zip(todo, positions, strict=True)
                ),
                model,
                options,
                transfers,
            )
        else:
            # Without a name, so that the tile is released before the next one is read.
            embeddings = (
                embed_tile(take(next(tiles)), model, options, position) for position in positions
            )
        for patch, embedding, position in zip(todo, embeddings, positions, strict=True):
            sample, comparison = samples.popleft(), Comparison()
            if embedding.series is not None:
                source.add(patch, embedding.series)
            if sample is not None:
                comparison = check_patch(sample, embedding, prepared, options, position)
            yield embedding, comparison


def _read_ahead(device: torch.device) -> int:
    """Return the number of patches to read ahead: none on a CPU, where reading slows down the
    computation and a second patch takes memory."""
    return 0 if device.type == "cpu" else 1


def _create_outputs(
    target: zarr.Group, source: PatchFile, options: InferenceOptions, prepared: PreparedModel
) -> dict[str, zarr.Array[Any]]:
    """Create the arrays of the output, without any embedding."""
    dim = options.dim or prepared.model.sizes.dims[-1]
    shape, months = source.shape, source.month_count
    return create_outputs(target, shape, source.patch_size, dim, options.dtype, months=months)


def _encode(
    outputs: Mapping[str, zarr.Array[Any]], patch: Window, embedding: Embedding, masks: Masks
) -> dict[str, bytes]:
    """Return the chunks of a finished patch by name, as the output will have them."""
    values = {
        "embeddings": embedding.values,
        "counts": embedding.counts,
        "months": masks,
        "scales": embedding.scales,
    }
    chunks = {}
    for name, array in outputs.items():
        part = values[name]
        assert part is not None
        chunk = encode_chunk(array, (patch.y0, patch.x0), part)
        if chunk is not None:
            chunks[chunk[0]] = chunk[1]
    return chunks


def _compared(source: PatchFile, progress: Progress) -> Comparison:
    """Return the comparison of all patches that earlier jobs finished."""
    total = Comparison()
    for patch in source.patches:
        if patch_name(patch) in progress:
            total += Comparison.of_array(progress.read(patch_name(patch)).arrays[_COMPARED])
    return total


def _write(
    output: str | os.PathLike[str],
    attributes: Mapping[str, Any],
    source: PatchFile,
    options: InferenceOptions,
    prepared: PreparedModel,
    progress: Progress,
) -> None:
    """Assemble the patches in the output file."""
    compilation = prepared.compilation
    found = {
        "compiled": compilation is not None and compilation.reason is None,
        "not_compiled": None if compilation is None else compilation.reason,
    }
    with create_block_file(output, {**attributes, **found}) as target:
        _create_outputs(target, source, options, prepared)
        for name, values in source.pixel_arrays().items():
            create_array(target, name, values.shape, values.shape, values.dtype.type)[:] = values
        summaries = {}
        for patch in source.patches:
            saved = progress.read(patch_name(patch))
            for name, chunk in saved.chunks.items():
                write_encoded(target, name, chunk)
            summaries[patch] = {
                name.removeprefix(f"{SUMMARY}_"): values
                for name, values in saved.arrays.items()
                if name.startswith(f"{SUMMARY}_")
            }
        step = source.median_step
        write_summary(target, source.shape, source.origin, step, summaries.items())


def _content_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of names, sizes and checksums of the members of a block file."""
    with zipfile.ZipFile(path) as archive:
        members = sorted(
            f"{info.filename} {info.file_size} {info.CRC}" for info in archive.filelist
        )
    return hashlib.sha256("\n".join(members).encode()).hexdigest()
