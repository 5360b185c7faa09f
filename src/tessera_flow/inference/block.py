"""Embeddings of a block, patch by patch: the step behind the `infer` rule.

A patch that is finished stays finished: a job that is killed goes on, when it is run
again, with the first patch that is not, and its result is the same to the last byte.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import zarr
from numpy.typing import NDArray

from .. import __version__
from ..block_file import create_block_file, open_block_file
from ..concurrency import BackgroundWriter, ordered_map
from ..errors import TileError
from ..models.checkpoint import sha256_of
from ..models.family import Heads, Model
from ..signals import StopRequest
from .block_embeddings import create_outputs
from .device import DeviceName, Precision, describe, precision_name
from .embed import Embedding, InferenceOptions, embed_tile, prepare_model
from .resume import Progress
from .tile import TileArrays, read_patch

logger = logging.getLogger(__name__)

Window: TypeAlias = tuple[int, int, int, int]
"""y0, x0, height and width of a patch in its block."""


@dataclass(frozen=True)
class _PatchGrid:
    """What a file of patches says about itself: patches, shape of the block, largest patch."""

    windows: list[Window]
    shape: tuple[int, int]
    size: int


def infer_block(
    patches: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: InferenceOptions,
    attributes: Mapping[str, Any],
    device: DeviceName = "auto",
    threads: int | None = None,
    sha256: str | None = None,
    heads: Heads | None = None,
    statistics: str | None = None,
    origin: tuple[int, int] = (0, 0),
    precision: Precision = "auto",
    stop: StopRequest | None = None,
) -> None:
    """Embed a block, patch by patch, going on where an earlier job was stopped.

    Args:
        patches: the block's `patches` file.
        checkpoint: the checkpoint file.
        output: the `embeddings` file to make: `embeddings` (H, W, K), `scales` (H, W) for
            int8, `counts` (H, W, 3); its attributes state `device`, `precision` and, from
            the patches, `missing_scenes`. Beside it, until it is there, lie files of progress; see
            `progress`.
        options: how to embed.
        attributes: JSON-able provenance, written into the file.
        device: see `devices.resolve_device`.
        threads: CPU threads; PyTorch's own choice if None.
        sha256: if given, the SHA-256 that the checkpoint must still have.
        heads, statistics: see `models.checkpoint.load_model`.
        origin: (row, column) in the region's grid of the block's upper left pixel.
        precision: see `devices.resolve_precision`.
        stop: where a request to stop shows; it is honoured when the patch in hand is kept.

    Raises:
        Stopped: a stop was asked for; what is finished is kept.
        CheckpointError, ConfigError: see `inference.prepare_model`.
        TileError: the patches file is incomplete.
        OutputError: the output cannot be written.
    """
    model = prepare_model(
        checkpoint, options.dim, device, threads, sha256, heads, statistics, precision
    )
    attributes = {
        **attributes,
        "device": model.device.type,
        "precision": precision_name(model.dtype),
    }
    with open_block_file(patches) as source:
        layout = _layout(source, os.fspath(patches))
        # The patches are temporary: what the archive had lost is told by what stays.
        attributes["missing_scenes"] = source.attrs.get("missing_scenes", {})
        making = {
            "attributes": attributes,
            "weights": sha256 or sha256_of(Path(checkpoint)),
            "heads": heads,
            "statistics": statistics,
            "options": {k: v for k, v in asdict(options).items() if k != "batch_size"},
            "origin": list(origin),
            "patches": _content(patches),
            "software": [__version__, torch.__version__],
        }
        with Progress(output, making) as progress:
            _embed_patches(
                source, os.fspath(patches), layout, model, options, origin, progress, stop
            )
            _write(output, attributes, layout, options, model, progress)
            progress.remove()


def _embed_patches(
    source: zarr.Group,
    where: str,
    layout: _PatchGrid,
    model: Model,
    options: InferenceOptions,
    origin: tuple[int, int],
    progress: Progress,
    stop: StopRequest | None,
) -> None:
    """Embed the patches that are not finished; with a GPU the next one is read and the one
    before is kept meanwhile."""
    stop = stop or StopRequest()
    stop.wait_for_check()
    names = [_name(window) for window in layout.windows]
    todo = [window for window in layout.windows if _name(window) not in progress]
    if progress.found:
        logger.info("%d of %d patches were finished before", len(names) - len(todo), len(names))
    logger.info("%d patches to embed on %s", len(todo), describe(model.device))

    def read(window: Window) -> TileArrays:
        return _open_patch(source, window, where)

    ahead = _ahead(model.device)
    with (
        BackgroundWriter(progress.add, enabled=ahead > 0) as writer,
        closing(ordered_map(read, todo, threads=ahead, limit=1 + ahead)) as tiles,
    ):
        for window in todo:
            began = time.monotonic()
            y0, x0, height, width = window
            # The tile is not bound to a name: it would stay while the next one is read.
            embedding = embed_tile(next(tiles), model, options, (origin[0] + y0, origin[1] + x0))
            writer.write(_name(window), _arrays(embedding))
            seconds = time.monotonic() - began
            logger.info(
                "patch %s (%d of %d): %d of %d pixels embedded in %.1f s (%.0f per s)",
                _name(window),
                names.index(_name(window)) + 1,
                len(names),
                embedding.pixels,
                height * width,
                seconds,
                embedding.pixels / max(seconds, 1e-9),
            )
            if window != todo[-1]:
                stop.check(f"{names.index(_name(window)) + 1} of {len(names)} patches are kept")


def _ahead(device: torch.device) -> int:
    """How many patches to read ahead: on a CPU none, where reading takes from computing, and
    a second patch memory."""
    return 0 if device.type == "cpu" else 1


def _arrays(embedding: Embedding) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "embeddings": embedding.values,
        "counts": embedding.counts,
    }
    if embedding.scales is not None:
        arrays["scales"] = embedding.scales
    return arrays


def _write(
    output: str | os.PathLike[str],
    attributes: Mapping[str, Any],
    layout: _PatchGrid,
    options: InferenceOptions,
    model: Model,
    progress: Progress,
) -> None:
    """Put the patches together."""
    dim = options.dim or model.sizes.dims[-1]
    with create_block_file(output, attributes) as target:
        arrays = create_outputs(target, layout.shape, layout.size, dim, options.dtype)
        for window in layout.windows:
            y0, x0, height, width = window
            place = (slice(y0, y0 + height), slice(x0, x0 + width))
            for name, values in progress.read(_name(window)).items():
                arrays[name][place] = values


def _content(path: str | os.PathLike[str]) -> str:
    """What tells the content of a block file from another's, from its list of parts."""
    with zipfile.ZipFile(path) as archive:
        parts = sorted(f"{part.filename} {part.file_size} {part.CRC}" for part in archive.filelist)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _name(window: Window) -> str:
    return f"{window[0]}_{window[1]}"


def _layout(source: zarr.Group, where: str) -> _PatchGrid:
    """From the attributes of a file of patches."""
    try:
        attributes: Mapping[str, Any] = source.attrs.asdict()
        height, width = (int(n) for n in attributes["shape"])
        return _PatchGrid(
            [(int(y), int(x), int(h), int(w)) for y, x, h, w in attributes["patches"]],
            (height, width),
            int(attributes["patch_size"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TileError(
            f"{where} is not a file of patches (attributes `patches`, `shape` and `patch_size` are "
            "missing or wrong): delete it and run again."
        ) from error


def _open_patch(source: zarr.Group, window: Window, where: str) -> TileArrays:
    name, shape = _name(window), window[2:]
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
