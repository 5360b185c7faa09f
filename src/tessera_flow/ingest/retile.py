"""Reorganise the stacks of a block from one image per date to one time series per patch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from ..block_file import (
    chunk_slices,
    create_array,
    create_block_file,
    create_series,
    get_array,
    open_block_file,
)
from ..config.empty_block import OnEmptyBlock, handle_empty
from ..errors import ItemError
from ..region.grid import Window, patch_name, tiling
from ..region.mask import read_mask
from ..region.needed import needed_pixels, passed_on
from ..sensors.needed_values import NEEDED, kept_steps, pieces, selected
from ..sensors.sentinel1 import CHANNELS, ORBITS
from ..sensors.sentinel2 import BANDS
from .missing_scenes import MISSING_SCENES

log = logging.getLogger(__name__)

TIME_CHUNK = 16
"""Most dates of a stored chunk: large enough to read fast, small enough to decode without doubling
the memory of a patch."""


def retile(
    sentinel2: Path | None,
    sentinel1: Path | None,
    roi_path: Path,
    block: str,
    window: Window,
    output: Path,
    patch_size: int,
    downsample_rate: int = 1,
    on_empty_block: OnEmptyBlock = "fail",
    needed: tuple[str, ...] = (),
    published: str | Path | None = None,
    all_values: bool = False,
) -> None:
    """Write the patches of a block that hold a pixel of the region.

    Args:
        sentinel2, sentinel1: stacks of the block; None for a sensor that is not used (no
            dates).
        roi_path: the region's mask.
        block: its name, for messages.
        window: window of the block in the region's grid, before downsampling.
        output: block file; a group per patch with the arrays of a reference tile folder and
            `roi` (h, w) uint8; in place of `bands` those of its values that an embedding can
            depend on, see `write_needed`. Attribute `missing_scenes`: by sensor, `left_out` and
            `replaced` of its stack. Attribute `level_jumps` of the Sentinel-2 stack. Attribute
            `dates`: the ISO dates of `sentinel2`, `ascending` and `descending`.
        patch_size: edge of a patch in product pixels.
        downsample_rate: of the stacks.
        on_empty_block: `fail`: a block without a scene is an error.
        needed: sensors that every embedding requires.
        published: the block's published embeddings: only patches with a hole are written. None: all
            patches are.
        all_values: write `bands` with all its values.

    Raises:
        ItemError: no scene covers the block, or none of a needed sensor.
        TileError: a stack is missing or corrupt.
        OutputError: the output cannot be written.
    """
    n = downsample_rate
    if passed_on(filter(None, (sentinel2, sentinel1)), output):
        return
    inside = needed_pixels(read_mask(roi_path, window)[0][::n, ::n], published)
    stacks = {"sentinel2": sentinel2, "sentinel1": sentinel1}
    write_patches(
        *(stacks, inside, block, output, patch_size, on_empty_block, needed), all_values=all_values
    )


def write_patches(
    stacks: Mapping[str, Path | None],
    inside: NDArray[np.bool_],
    block: str,
    output: Path,
    patch_size: int,
    on_empty_block: OnEmptyBlock = "fail",
    needed: tuple[str, ...] = (),
    pixel_arrays: Mapping[str, NDArray[Any]] | None = None,
    all_values: bool = False,
) -> None:
    """Write the patches of an image that hold a pixel inside; see `retile`.

    Args:
        stacks: of the image by sensor; None for a sensor that is not used.
        inside: (H, W) pixels that are to be embedded.
        block, output, patch_size, on_empty_block, needed, all_values: as in `retile`.
        pixel_arrays: arrays (..., H, W) to write beside the patches.

    Raises:
        ItemError, TileError, OutputError: as `retile`.
    """
    patches = [
        window
        for window in tiling(inside.shape[0], inside.shape[1], patch_size)
        if inside[window.slices].any()
    ]
    with ExitStack() as stack:
        groups = {
            sensor: stack.enter_context(open_block_file(path))
            for sensor, path in stacks.items()
            if path is not None
        }
        _check_coverage(groups, block, on_empty_block, needed)
        attributes = {
            "shape": list(inside.shape),
            "patch_size": patch_size,
            "patches": [[w.y0, w.x0, w.height, w.width] for w in patches],
            "missing_scenes": {
                sensor: {key: group.attrs.get(key, []) for key in MISSING_SCENES}
                for sensor, group in groups.items()
            },
            "dates": {
                "sentinel2": _dates(groups.get("sentinel2"), "dates"),
                **{orbit: _dates(groups.get("sentinel1"), f"{orbit}_dates") for orbit in ORBITS},
            },
            "level_jumps": [
                jump
                for group in groups.values()
                for jump in cast(list[object], group.attrs.get("level_jumps", []))
            ],
        }
        target = stack.enter_context(create_block_file(output, attributes))
        for name, values in (pixel_arrays or {}).items():
            create_array(target, name, values.shape, values.shape, values.dtype.type)[:] = values
        for patch_window in patches:
            patch = target.create_group(patch_name(patch_window))
            _write_patch(patch, groups, inside, patch_window, all_values)
            log.info("patch %s written", patch_name(patch_window))


def _write_patch(
    patch: zarr.Group,
    groups: Mapping[str, zarr.Group],
    inside: NDArray[np.bool_],
    window: Window,
    all_values: bool,
) -> None:
    """Write the time series of one patch from the stacks of its block."""
    (rows, columns), shape = window.slices, window.shape
    roi = inside[rows, columns].astype(np.uint8)
    create_array(patch, "roi", roi.shape, roi.shape, np.uint8)[:] = roi
    s2, s1 = groups.get("sentinel2"), groups.get("sentinel1")
    every, here = (slice(None),), (slice(None), rows, columns)
    _copy(s2, patch, "masks", here, shape, (), np.bool_)
    if all_values or s2 is None:
        _copy(s2, patch, "bands", here, shape, (len(BANDS),), np.uint16)
    else:
        masks, bands = (get_array(s2, name) for name in ("masks", "bands"))
        write_needed(
            *(patch, masks.shape[0], roi != 0),
            masks=partial(_read, masks, rows, columns),
            images=partial(_read, bands, rows, columns),
        )
    _copy(s2, patch, "doys", every, (), (), np.uint16)
    for orbit in ORBITS:
        _copy(s1, patch, f"sar_{orbit}", here, shape, (len(CHANNELS),), np.int16)
        _copy(s1, patch, f"sar_{orbit}_doy", every, (), (), np.int16)


def write_needed(
    patch: zarr.Group,
    dates: int,
    inside: NDArray[np.bool_],
    masks: Callable[[slice], NDArray[Any]],
    images: Callable[[slice], NDArray[np.uint16]],
) -> None:
    """Write the digital numbers of a patch that an embedding can depend on; see `NeededValues`.

    Args:
        patch: the patch's group, which gets `needed_bands` (N, 10) uint16 and `has_value` (h, w).
        dates: number of dates T.
        inside: (h, w), the pixels inside the region.
        masks: returns the masks (t, h, w) of some dates, not 0 where a step is valid.
        images: returns the digital numbers (t, h, w, 10) of some dates.
    """
    parts = [slice(start, start + TIME_CHUNK) for start in range(0, dates, TIME_CHUNK)]
    some, number = np.zeros(inside.shape, bool), 0
    for part in parts:
        valid = masks(part) != 0
        some |= valid.any(axis=0)
        number += int(np.count_nonzero(valid & inside))
    number += dates * int(np.count_nonzero(inside & ~some))
    bits = np.zeros((*inside.shape, len(BANDS)), np.uint16)

    def needed() -> Iterator[NDArray[np.uint16]]:
        for part in parts:
            values = images(part)
            np.bitwise_or(bits, np.bitwise_or.reduce(values, axis=0), out=bits)
            yield selected(values, kept_steps(masks(part) != 0, inside, some))

    size = max(1, TIME_CHUNK * inside.size // 2)  # about half are kept
    array = create_series(patch, NEEDED[0], (number, len(BANDS)), (size, len(BANDS)), np.uint16)
    start = 0
    for values in pieces(needed(), array.chunks[0]):  # to the end: `bits` are those of all dates
        array[start : start + len(values)] = values
        start += len(values)
    assert start == number, (start, number)
    has_value = bits.any(axis=-1)
    create_array(patch, NEEDED[1], has_value.shape, has_value.shape, np.bool_)[:] = has_value


def _read(array: zarr.Array[Any], rows: slice, columns: slice, dates: slice) -> NDArray[Any]:
    return np.asarray(array[(dates, rows, columns)])


def _dates(stack: zarr.Group | None, name: str) -> list[str]:
    return [] if stack is None else cast(list[str], stack.attrs[name])


def _copy(
    source: zarr.Group | None,
    target: zarr.Group,
    name: str,
    selection: tuple[slice, ...],
    plane: tuple[int, ...],
    tail: tuple[int, ...],
    dtype: type[np.generic],
) -> None:
    images = None if source is None else get_array(source, name)
    dates = 0 if images is None else images.shape[0]
    shape = (dates, *plane, *tail)
    array = create_series(target, name, shape, (TIME_CHUNK, *plane, *tail), dtype)
    if images is None:
        return
    for chunk in chunk_slices(array):
        array[chunk] = np.asarray(images[(chunk, *selection[1:])]).astype(dtype, copy=False)


def _check_coverage(
    groups: dict[str, zarr.Group],
    block: str,
    on_empty_block: OnEmptyBlock,
    needed: tuple[str, ...],
) -> None:
    scenes = {sensor: cast(int, group.attrs["scenes"]) for sensor, group in groups.items()}
    missing = [sensor for sensor in needed if scenes.get(sensor) == 0]
    if any(scenes.values()) and not missing:
        for sensor, number in scenes.items():
            if number == 0:
                log.warning("no %s scene covers this block in the period", sensor)
        return
    sensors = " and no ".join(missing or scenes)
    message = f"Block {block} is covered by no {sensors} scene in the period"
    handle_empty(on_empty_block, message, "limit the region to where scenes exist", ItemError)
