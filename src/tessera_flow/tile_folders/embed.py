"""Embed reference tile folders: the step behind `tessera-flow embed`.

The results of a tile are `<tile>.npy` (H, W, K), for int8 also `<tile>_scales.npy` (H, W), and
`<tile>.json`, written last, with the weights, the settings and a fingerprint of the tile
folder. A tile is finished when its JSON file exists and the arrays agree with it.
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
from ..errors import OutputError, TileError, ToleranceError
from ..inference.device import device_name
from ..inference.embed import Embedding, InferenceOptions, embed_tile
from ..inference.memory import memory_message
from ..inference.model import ModelSpec, PreparedModel, prepare
from ..inference.spot_check import Sample, check_patch, record, refusal, require_tolerance
from ..inference.tolerance import Comparison
from ..models.family import Model, check_dim
from ..models.weights_record import WeightsRecord
from ..npy_file import open_array
from .format import find_tile_folders, folder_fingerprint, folder_origin, read_tile_folder

logger = logging.getLogger(__name__)


def embed_tile_folder(
    model: Model, folder: str | Path, options: InferenceOptions | None = None
) -> Embedding:
    """Embed one tile folder in memory.

    Args:
        model: see `inference.model.load_model`.
        folder: the tile folder; its name states its position in the region's grid, which decides
            the random draws of v1.0.
        options: how to embed; if None, all dimensions, as int8 or float32 like the published
            pipeline for this family.

    Raises:
        TileError: the folder is incomplete or inconsistent.
    """
    options = options or InferenceOptions(dtype=model.family.dtype)
    return embed_tile(read_tile_folder(folder), model, options, folder_origin(folder))


@memory_message()
def embed_folders(
    tiles: str | Path,
    out: str | Path,
    weights: WeightsRecord,
    spec: ModelSpec,
    options: InferenceOptions,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Embed one tile folder, or every tile folder directly inside a folder.

    A tile that cannot be read does not stop the others; all such tiles are listed in the
    error at the end. The position of a tile in the region's grid is read from its name, see
    `format.folder_origin`.

    Args:
        tiles: a tile folder, or a folder of tile folders.
        out: folder for the results, created if missing.
        weights: the record of the checkpoint, see `weights.fetch_weights`.
        spec: this checkpoint and how to run it.
        options: how to embed.
        overwrite: embed finished tiles again.

    Returns:
        The number of tiles that were embedded, and of tiles that were finished before.

    Raises:
        TileError: there is no tile, or tiles could not be read.
        CheckpointError, ConfigError: see `inference.model.prepare`.
        ToleranceError: embeddings differ too much from float32 on a CPU, and the precision must
            not be replaced.
        OutputError: a result cannot be written, or `out` has results of the same name made
            with other weights or settings, from other files or by another program, or two tiles
            would write the same file.
    """
    folders = find_tile_folders(tiles)
    out = Path(out)
    _check_names(folders, out)
    # Computed before anything is read: a tile that changes meanwhile has another fingerprint.
    fingerprints = {folder: folder_fingerprint(folder) for folder in folders}
    options = replace(options, dim=check_dim(options.dim, weights.dims, weights.path))
    settings = _settings(weights, spec, options)
    todo = {
        folder: fingerprint
        for folder, fingerprint in fingerprints.items()
        if overwrite or not _is_finished(out, folder, settings, fingerprint)
    }
    finished = len(folders) - len(todo)
    if finished:
        logger.info("%d of %d tiles were finished before", finished, len(folders))
    if not todo:
        return 0, finished
    prepared = prepare(spec, options.dim)
    errors = _embed_each(todo, out, prepared, options, _metadata(weights, settings))
    if errors:
        listed = "\n".join(f"- {error}" for error in errors)
        raise TileError(
            f"{len(errors)} of {len(folders)} tiles could not be embedded; the others are in "
            f"{out}.\n{listed}"
        )
    return len(todo), finished


def _settings(weights: WeightsRecord, spec: ModelSpec, options: InferenceOptions) -> dict[str, Any]:
    """Return the settings that determine the numbers of a result; written next to it."""
    settings = {
        "weights_sha256": weights.sha256,
        **asdict(options),
        "heads": None if spec.heads is None else list(spec.heads),
        "statistics": spec.statistics,
        "precision": spec.precision,
    }
    del settings["batch_size"]
    return settings


def _embed_each(
    fingerprints: Mapping[Path, str],
    out: Path,
    prepared: PreparedModel,
    options: InferenceOptions,
    metadata: dict[str, Any],
) -> list[TileError]:
    """Embed tile folders; return the errors of those that cannot be read.

    A tile that differs too much from float32 is embedded again in float32, with all that follow.
    """
    errors = []
    for number, (folder, fingerprint) in enumerate(fingerprints.items(), start=1):
        name = _name(folder)
        start = time.monotonic()
        try:
            try:
                embedding, comparison = _embed_compared(prepared, folder, options)
            except ToleranceError as error:
                if not prepared.may_fall_back():
                    raise refusal(prepared, error) from error
                prepared = prepared.in_float32(str(error))
                embedding, comparison = _embed_compared(prepared, folder, options)
        except TileError as error:
            logger.error("%s", error)
            errors.append(error)
            continue
        except (OSError, ValueError, MemoryError) as error:
            errors.append(
                TileError(f"The tile {folder} cannot be read ({type(error).__name__}: {error}).")
            )
            logger.error("%s", errors[-1])
            continue
        computed = {
            "device": device_name(prepared.model.device),
            "precision": prepared.precision,
            "fallback": prepared.fallback,
            "compared": None if prepared.reference is None else record(comparison),
        }
        _write(out, name, embedding, metadata | computed | {"input": fingerprint})
        seconds = time.monotonic() - start
        logger.info(
            "tile %s (%d of %d): %d pixels embedded in %.1f s (%.0f per s)",
            name,
            number,
            len(fingerprints),
            embedding.pixels,
            seconds,
            embedding.pixels / max(seconds, 1e-9),
        )
    return errors


def _embed_compared(
    prepared: PreparedModel, folder: Path, options: InferenceOptions
) -> tuple[Embedding, Comparison]:
    """Embed a tile folder, and compare some of its pixels with float32 on a CPU."""
    tile, origin = read_tile_folder(folder), folder_origin(folder)
    embedding = embed_tile(tile, prepared.model, options, origin)
    if prepared.reference is None:
        return embedding, Comparison()
    comparison = check_patch(Sample.of(tile), embedding, prepared, options, origin)
    require_tolerance(prepared, comparison)
    return embedding, comparison


def _name(folder: Path) -> str:
    """Return the name of a tile in the results: the name of its folder."""
    return folder.resolve().name


def _check_names(folders: Sequence[Path], out: Path) -> None:
    """Check that no two tiles write the same file, such as `x` and `x_scales`.

    Raises:
        OutputError: two tiles do.
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


def _metadata(weights: WeightsRecord, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "settings": settings,
        "model": {"family": weights.family, "name": weights.name, "sizes": weights.sizes},
        "software": f"tessera-flow {__version__}",
    }


def _write(out: Path, name: str, embedding: Embedding, metadata: dict[str, Any]) -> None:
    """Write the results of a tile. The JSON file is written first without the shape, so that the
    arrays are known to be ours, and again last, so that arrays of two runs are never combined."""
    paths = _paths(out, name)
    write_text(paths["metadata"], json.dumps(metadata, indent=2, sort_keys=True) + "\n")
    try:
        if embedding.scales is None:
            paths["scales"].unlink(missing_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    if embedding.scales is not None:
        _save(paths["scales"], embedding.scales)
    _save(paths["values"], embedding.values)
    document = metadata | {"shape": list(embedding.values.shape)}
    write_text(paths["metadata"], json.dumps(document, indent=2, sort_keys=True) + "\n")


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_output(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)


def _paths(out: Path, name: str) -> dict[str, Path]:
    return {
        "values": out / f"{name}.npy",
        "scales": out / f"{name}_scales.npy",
        "metadata": out / f"{name}.json",
    }


def _is_finished(out: Path, folder: Path, settings: dict[str, Any], fingerprint: str) -> bool:
    """Return whether the results of a tile exist, are complete, and have these settings.

    Raises:
        OutputError: they have other settings, or were made from other files.
    """
    paths = _paths(out, _name(folder))
    try:
        document = json.loads(paths["metadata"].read_text(encoding="utf-8"))
        previous = dict(document["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        if others := [path for path in paths.values() if path.exists()]:
            raise OutputError(
                f"{others[0]} is in the way and was not written by tessera-flow: name another "
                "folder with --out, or add --overwrite to replace it."
            ) from None
        return False
    if "shape" not in document:
        return False  # interrupted while it was written
    shape = tuple(document["shape"])
    if previous != settings:
        other = [key for key, value in settings.items() if previous.get(key) != value]
        raise OutputError(
            f"{paths['values']} was made with other settings ({', '.join(other)} differ): name "
            "another folder with --out, or add --overwrite to replace it."
        )
    if document.get("input") != fingerprint:
        raise OutputError(
            f"{paths['values']} was made from another folder than {folder}, or before its files "
            "changed: name another folder with --out, or add --overwrite to replace it."
        )
    complete = _is_array(paths["values"], settings["dtype"], shape)
    if settings["dtype"] == "int8":
        complete = complete and _is_array(paths["scales"], "float32", shape[:2])
    return complete


def _is_array(path: Path, dtype: str, shape: tuple[int, ...]) -> bool:
    try:
        array = open_array(path)
    except (OSError, ValueError, EOFError):
        return False
    return isinstance(array, np.ndarray) and array.shape == shape and array.dtype == dtype
