"""Embedding reference tile folders: the step behind `tessera-flow embed`.

Each tile becomes `<tile>.npy` (H, W, K), for int8 also `<tile>_scales.npy` (H, W), and
last `<tile>.json`, which states the weights, the settings and a fingerprint of the tile
folder. A tile is finished when its statement is there and the arrays are what it says.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..atomic import atomic_output, output_error, write_text
from ..errors import OutputError, TileError
from ..inference.device import DeviceName, Precision, precision_name
from ..inference.embed import Embedding, InferenceOptions, embed_tile, prepare_model
from ..models.family import Heads, Model, check_dim
from ..models.weights_record import WeightsRecord
from .format import find_tile_folders, folder_fingerprint, folder_origin, read_tile_folder

logger = logging.getLogger(__name__)


def embed_folders(
    tiles: str | Path,
    out: str | Path,
    weights: WeightsRecord,
    options: InferenceOptions,
    device: DeviceName = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    heads: Heads | None = None,
    statistics: str | None = None,
    precision: Precision = "auto",
) -> tuple[int, int]:
    """Embed one tile folder, or every tile folder directly inside a folder.

    A tile that cannot be read does not stop the others; all such tiles are named in the
    error at the end. A tile's place in the region's grid is read from its name, see
    `tiles.folder_origin`.

    Args:
        tiles: a tile folder, or a folder of tile folders.
        out: folder for the results, made if need be.
        weights: the checkpoint, as `weights.fetch_weights` found it.
        options: how to embed.
        device: see `devices.resolve_device`.
        threads: CPU threads; PyTorch's own choice if None.
        overwrite: embed finished tiles again.
        heads, statistics: see `models.checkpoint.load_model`.
        precision: see `devices.resolve_precision`.

    Returns:
        How many tiles were embedded, and how many were finished before.

    Raises:
        TileError: there is no tile, or some tiles could not be read.
        CheckpointError, ConfigError: see `inference.prepare_model`.
        OutputError: a result cannot be written, or `out` holds results of the same name
            that were made with other weights or settings or from other files, or two tiles
            would write the same file.
    """
    folders = find_tile_folders(tiles)
    out = Path(out)
    _check_names(folders, out)
    # Taken before anything is read: a tile that changes meanwhile differs from what it states.
    inputs = {folder: folder_fingerprint(folder) for folder in folders}
    options = replace(options, dim=check_dim(options.dim, weights.dims, weights.path))
    settings = _settings(weights, options, heads, statistics, precision)
    todo = [f for f in folders if overwrite or not _finished(out, f, settings, inputs[f])]
    finished = len(folders) - len(todo)
    if finished:
        logger.info("%d of %d tiles were finished before", finished, len(folders))
    if not todo:
        return 0, finished
    model = prepare_model(
        weights.path, options.dim, device, threads, weights.sha256, heads, statistics, precision
    )
    left, statement = {f: inputs[f] for f in todo}, _statement(weights, settings, model)
    errors = _embed_each(left, out, model, options, statement)
    if errors:
        listed = "\n".join(f"- {error}" for error in errors)
        raise TileError(
            f"{len(errors)} of {len(folders)} tiles could not be embedded; the others are in "
            f"{out}.\n{listed}"
        )
    return len(todo), finished


def _settings(
    weights: WeightsRecord,
    options: InferenceOptions,
    heads: Heads | None,
    statistics: str | None,
    precision: Precision,
) -> dict[str, Any]:
    """What decides the numbers of a result; it is stated beside it."""
    settings = {
        "weights_sha256": weights.sha256,
        **asdict(options),
        "heads": None if heads is None else list(heads),
        "statistics": statistics,
        "precision": precision,
    }
    del settings["batch_size"]
    return settings


def _embed_each(
    inputs: Mapping[Path, str],
    out: Path,
    model: Model,
    options: InferenceOptions,
    statement: dict[str, Any],
) -> list[TileError]:
    errors = []
    for number, folder in enumerate(inputs, start=1):
        name = _name(folder)
        began = time.monotonic()
        try:
            embedding = embed_tile(read_tile_folder(folder), model, options, folder_origin(folder))
        except TileError as error:
            logger.error("%s", error)
            errors.append(error)
            continue
        _write(out, name, embedding, statement | {"input": inputs[folder]})
        seconds = time.monotonic() - began
        logger.info(
            "tile %s (%d of %d): %d pixels embedded in %.1f s (%.0f per s)",
            name,
            number,
            len(inputs),
            embedding.pixels,
            seconds,
            embedding.pixels / max(seconds, 1e-9),
        )
    return errors


def _name(folder: Path) -> str:
    """A tile's name in the results: that of its folder."""
    return folder.resolve().name


def _check_names(folders: Sequence[Path], out: Path) -> None:
    """Refuse tiles whose results would take each other's place, such as `x` and `x_scales`.

    Raises:
        OutputError: there are two such.
    """
    writers: dict[Path, Path] = {}
    for folder in folders:
        for path in _paths(out, _name(folder)).values():
            other = writers.setdefault(path, folder)
            if other != folder:
                raise OutputError(
                    f"The tiles {other} ({other.resolve()}) and {folder} ({folder.resolve()}) "
                    f"would both write {path}: rename one of them, or embed them into two folders."
                )


def _statement(weights: WeightsRecord, settings: dict[str, Any], model: Model) -> dict[str, Any]:
    return {
        "settings": settings,
        "device": model.device.type,
        "precision": precision_name(model.dtype),
        "model": {"family": weights.family, "name": weights.name, "sizes": weights.sizes},
        "software": f"tessera-flow {__version__}",
    }


def _write(out: Path, name: str, embedding: Embedding, statement: dict[str, Any]) -> None:
    """Write a tile's results; the statement goes first and comes last, so that arrays of
    two runs are never taken for a pair."""
    paths = _paths(out, name)
    try:
        paths["statement"].unlink(missing_ok=True)
        if embedding.scales is None:
            paths["scales"].unlink(missing_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    if embedding.scales is not None:
        _save(paths["scales"], embedding.scales)
    _save(paths["values"], embedding.values)
    document = statement | {"shape": list(embedding.values.shape)}
    write_text(paths["statement"], json.dumps(document, indent=2, sort_keys=True) + "\n")


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_output(path) as part, part.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)


def _paths(out: Path, name: str) -> dict[str, Path]:
    return {
        "values": out / f"{name}.npy",
        "scales": out / f"{name}_scales.npy",
        "statement": out / f"{name}.json",
    }


def _finished(out: Path, folder: Path, settings: dict[str, Any], fingerprint: str) -> bool:
    """Whether a tile's results are there, whole, and made from it with these settings.

    Raises:
        OutputError: they were made with other settings, or from other files.
    """
    paths = _paths(out, _name(folder))
    try:
        document = json.loads(paths["statement"].read_text(encoding="utf-8"))
        found, shape = dict(document["settings"]), tuple(document["shape"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if found != settings:
        other = [key for key, value in settings.items() if found.get(key) != value]
        raise OutputError(
            f"{paths['values']} was made with other settings ({', '.join(other)} differ): name "
            "another folder with --out, or add --overwrite to replace it."
        )
    if document.get("input") != fingerprint:
        raise OutputError(
            f"{paths['values']} was not made from the tile {folder} as it is now, but from another "
            "folder or before its files changed: name another folder with --out, or add "
            "--overwrite to replace it."
        )
    whole = _is_array(paths["values"], settings["dtype"], shape)
    if settings["dtype"] == "int8":
        whole = whole and _is_array(paths["scales"], "float32", shape[:2])
    return whole


def _is_array(path: Path, dtype: str, shape: tuple[int, ...]) -> bool:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return isinstance(array, np.ndarray) and array.shape == shape and array.dtype == dtype
