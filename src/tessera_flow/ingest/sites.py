"""Read the time series of single pixels: what download, stack and retile do for a block.

The pixels are an image of rows that are filled one after the other, so that every later step is
that of a block. Only the blocks of the scenes' files that contain the pixels are read.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..block_file import open_block_file
from ..config.sections import Download, Sentinel1, Sentinel2
from ..dates import Slice
from ..errors import ReadError, TileError
from ..input_files import MADE_FROM
from ..raster.heap import release_large_blocks
from ..raster.pixels import PixelList
from ..region.sites import SCENE_BITS
from ..scenes.manifest import Manifest
from ..sensors.sentinel2 import Preprocessing
from .download import write_sentinel1, write_sentinel2
from .read_job import PixelJob, pixels_covered, readers
from .retile import write_patches
from .stack import stack_sentinel1, stack_sentinel2

log = logging.getLogger(__name__)


def image_shape(count: int, width: int) -> tuple[int, int]:
    """Return (H, W) of the image of `count` pixels, which has at most `width` columns."""
    columns = max(1, min(count, width))
    return -(-count // columns), columns


def write_series(
    pixels: PixelList,
    sources: Mapping[str, tuple[Path, Sentinel2 | Sentinel1]],
    slices: Sequence[Slice],
    output: Path,
    cell: str,
    preprocessing: Preprocessing,
    download: Download,
    patch_size: int,
    made_from: Mapping[str, str],
    all_values: bool = False,
) -> None:
    """Write the time series of pixels as the `patches` file of a block.

    Finished slices of an earlier attempt are used again if they were made from the same.

    Args:
        pixels: the pixels, at least one.
        sources: list of scenes and settings of each sensor in use.
        slices: of the period.
        output: block file as from `retile`, with `positions` (2, H, W) int64, the row and column
            of each pixel in its grid, and `scenes` (H, W) uint8, see `region.sites.SCENE_BITS`;
            the image is filled row by row, and -1 and 0 after the last pixel.
        cell: name of the pixels, for messages.
        preprocessing, download: settings.
        patch_size: edge of a patch.
        made_from: record that block files of this job have.
        all_values: as of `retile.retile`.

    Raises:
        ReadError: an asset cannot be read, or too many scenes are missing or corrupt.
        OutputError: the output cannot be written.
    """
    release_large_blocks()
    shape = image_shape(len(pixels), patch_size)
    parts = output.with_name(f"{output.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    stacks: dict[str, Path | None] = {}
    scenes = np.zeros(len(pixels), np.uint8)
    for sensor, (path, source) in sources.items():
        manifest = Manifest.read(path)
        for item in manifest.items:
            scenes[pixels_covered(pixels, item)] |= SCENE_BITS[sensor]
        files = [parts / f"{sensor}_{part.name}.zip" for part in slices]
        for file, part in zip(files, slices, strict=True):
            if _is_finished(file, made_from):
                log.info("%s %s was read before", sensor, part.name)
                continue
            with readers(source, download) as found:
                job = PixelJob(pixels, shape, *found)
                if isinstance(source, Sentinel2):
                    write_sentinel2(job, manifest, part, file, source, preprocessing, download)
                else:
                    write_sentinel1(job, manifest, part, file, download)
        stack = stack_sentinel2 if isinstance(source, Sentinel2) else stack_sentinel1
        stack(files, parts / f"{sensor}.zip", max_missing_percent=download.max_missing_percent)
        stacks[sensor] = parts / f"{sensor}.zip"
    arrays = {
        "positions": np.stack([_image(v, shape, -1) for v in (pixels.rows, pixels.columns)]),
        "scenes": _image(scenes, shape, 0),
    }
    inside = _image(np.ones(len(pixels), bool), shape, False)
    write_patches(
        *(stacks, inside, cell, output, patch_size),
        on_empty_block="nodata",
        pixel_arrays=arrays,
        all_values=all_values,
    )
    shutil.rmtree(parts)


def _image(values: NDArray[Any], shape: tuple[int, int], fill: Any) -> NDArray[Any]:
    image = np.full(shape, fill, values.dtype)
    image.reshape(-1)[: len(values)] = values
    return image


def _is_finished(file: Path, made_from: Mapping[str, str]) -> bool:
    if not file.exists():
        return False
    try:
        with open_block_file(file) as group:
            return group.attrs.get(MADE_FROM) == dict(made_from)
    except (TileError, ReadError):
        return False
