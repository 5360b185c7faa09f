"""The seven arrays of a tile, from a reference tile folder or from a `patches` block file.

A reference tile folder holds `bands.npy`, `masks.npy`, `doys.npy`, `sar_ascending.npy`,
`sar_ascending_doy.npy`, `sar_descending.npy`, `sar_descending_doy.npy` and, if it was made
for a region, `roi.tiff`. The large arrays are memory-mapped, never read whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ..errors import TileError

ROI_FILE = "roi.tiff"
_PLACE = re.compile(r"(\d+)_(\d+)_(\d+)_(\d+)")
LAST_DAY = 366


@dataclass(frozen=True)
class TileArrays:
    """One tile's time stacks, in memory or memory-mapped. Any of T, Ta, Td may be 0.

    Attributes:
        bands: (T, H, W, 10) uint16, Sentinel-2 digital numbers in the order
            `sentinel2.BANDS`.
        masks: (T, H, W) uint8, 1 where the step is valid.
        doys: (T,) integer, day of year 1..366.
        sar_ascending: (Ta, H, W, 2) int16, scaled decibels of vv and vh, both 0 where
            missing.
        sar_ascending_doy: (Ta,) integer.
        sar_descending: (Td, H, W, 2) int16.
        sar_descending_doy: (Td,) integer.
        roi: (H, W) uint8, not 0 inside the region; None where everything is inside.
    """

    bands: NDArray[np.uint16]
    masks: NDArray[np.uint8]
    doys: NDArray[np.integer]
    sar_ascending: NDArray[np.int16]
    sar_ascending_doy: NDArray[np.integer]
    sar_descending: NDArray[np.int16]
    sar_descending_doy: NDArray[np.integer]
    roi: NDArray[np.uint8] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.masks.shape[1:]
        return height, width


ARRAYS = tuple(field.name for field in fields(TileArrays) if field.name != "roi")
"""Names of the seven arrays; each is `<name>.npy` in a tile folder."""

TILE_PIXEL_ARRAYS = frozenset({"bands", "masks", "sar_ascending", "sar_descending"})
"""Those with axes of rows and columns, after the one of time steps."""

# Rank and type of each array; of days, any integers will do.
_FORMS: dict[str, tuple[int, type[Any]]] = {
    "bands": (4, np.uint16),
    "masks": (3, np.uint8),
    "doys": (1, np.integer),
    "sar_ascending": (4, np.int16),
    "sar_ascending_doy": (1, np.integer),
    "sar_descending": (4, np.int16),
    "sar_descending_doy": (1, np.integer),
}
_CHANNELS = {"bands": 10, "sar_ascending": 2, "sar_descending": 2}
_STACKS = (
    ("doys", ("bands", "masks")),
    ("sar_ascending_doy", ("sar_ascending",)),
    ("sar_descending_doy", ("sar_descending",)),
)


def is_tile_folder(folder: Path) -> bool:
    """Whether a folder has any of the seven files, complete or not."""
    return any((folder / f"{name}.npy").is_file() for name in ARRAYS)


def find_tile_folders(path: str | Path) -> list[Path]:
    """The tile folders that `path` names: itself, or those directly inside it, by name.

    A folder with any of the seven files counts, so that an incomplete one is reported when
    it is read, not passed over.

    Raises:
        TileError: `path` is not a folder, or there is no tile folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise TileError(f"{path} is not a folder: name a tile folder, or a folder of tile folders.")
    if is_tile_folder(path):
        return [path]
    found = sorted(child for child in path.iterdir() if child.is_dir() and is_tile_folder(child))
    if not found:
        raise TileError(
            f"There is no tile in {path}: a tile is a folder with {', '.join(_files())}, and "
            f"{path} must be one or directly hold some."
        )
    return found


def folder_origin(folder: str | Path) -> tuple[int, int]:
    """(row, column) in the region's grid of a tile folder's upper left pixel.

    The reference names a tile folder `{x0}_{y0}_{x1}_{y1}`, in pixels of the region's grid;
    (0, 0) for a folder of any other name.
    """
    match = _PLACE.fullmatch(Path(folder).resolve().name)
    return (int(match[2]), int(match[1])) if match else (0, 0)


def read_tile_folder(folder: str | Path) -> TileArrays:
    """Open a reference tile folder; the arrays are memory-mapped.

    Raises:
        TileError: a file is missing, cut short, of the wrong type or rank, or contradicts
            another one; a day is outside 1..366; or a mask is neither 0 nor 1.
    """
    folder = Path(folder)
    missing = [name for name in _files() if not (folder / name).is_file()]
    if missing:
        raise TileError(
            f"The tile {folder} is incomplete: {', '.join(missing)} missing. Copy or make it "
            "again with all seven files."
        )
    arrays = {name: _read_npy(folder / f"{name}.npy") for name in ARRAYS}
    _check(arrays, f"the tile {folder}", ".npy")
    roi = None
    if (folder / ROI_FILE).is_file():
        roi = _read_roi(folder / ROI_FILE, arrays["masks"].shape[1:])
    return TileArrays(**arrays, roi=roi)


def folder_fingerprint(folder: str | Path) -> str:
    """What tells a tile folder's content from another's without reading it.

    Returns:
        SHA-256, in hexadecimal, of the resolved path, and of name, size and time of last
        change of each file; of a file that is absent, its name.
    """
    folder = Path(folder).resolve()
    lines = [str(folder)]
    for name in (*_files(), ROI_FILE):
        try:
            status = (folder / name).stat()
        except OSError:
            lines.append(name)
        else:
            lines.append(f"{name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\0".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read_patch(group: zarr.Group, where: str) -> TileArrays:
    """Read one patch of a `patches` block file into memory.

    Args:
        group: the patch's group, with the seven arrays and `roi`.
        where: what to call it in an error, such as the file and the patch's name.

    Raises:
        TileError: an array is missing or contradicts another one, or a value is impossible.
    """
    wanted = (*ARRAYS, "roi")
    missing = [name for name in wanted if name not in group]
    if missing:
        raise TileError(
            f"{where} is incomplete: {', '.join(missing)} missing. Delete the file and run again."
        )
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in group.arrays():
        if name in wanted:
            arrays[name] = np.asarray(array[...])
    roi = arrays.pop("roi")
    _check(arrays, where, "")
    if roi.shape != arrays["masks"].shape[1:]:
        raise TileError(_contradiction(where, "roi", roi.shape, arrays["masks"].shape[1:]))
    return TileArrays(**arrays, roi=roi.astype(np.uint8, copy=False))


def _files() -> list[str]:
    return [f"{name}.npy" for name in ARRAYS]


def _read_npy(path: Path) -> NDArray[Any]:
    reason = "cut short, or not a NumPy array file"
    cause: Exception | None = None
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(array, np.ndarray):
            return array
    except PermissionError as error:
        reason, cause = "you may not read it", error
    except (ValueError, EOFError, OSError) as error:
        cause = error
    raise TileError(f"{path} cannot be used ({reason}): copy or make the tile again.") from cause


def _read_roi(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Positive values are inside; missing ones (a nodata tag, NaN) are not."""
    try:
        with rasterio.open(path) as raster:
            inside = (raster.read(1) > 0) & (raster.read_masks(1) > 0)
    except RasterioError as error:
        raise TileError(
            f"{path} cannot be read as a raster ({error}): mend it, or delete it to embed the "
            "whole tile."
        ) from error
    if inside.shape != shape:
        raise TileError(
            f"{path} has {inside.shape[0]} x {inside.shape[1]} pixels, but the arrays beside it "
            f"have {shape[0]} x {shape[1]}: make the tile again, or delete roi.tiff to embed the "
            "whole tile."
        )
    roi: NDArray[np.uint8] = inside.astype(np.uint8)
    return roi


def _check(arrays: Mapping[str, NDArray[Any]], where: str, suffix: str) -> None:
    """Raise `TileError` where the seven arrays are not those of one tile."""
    for name, (rank, kind) in _FORMS.items():
        array = arrays[name]
        if array.ndim != rank or not np.issubdtype(array.dtype, kind):
            raise TileError(
                f"{name}{suffix} of {where} is {array.dtype} with {array.ndim} axes, but should "
                f"be {kind.__name__} with {rank}: make the tile again in that form."
            )
        channels = _CHANNELS.get(name)
        if channels is not None and array.shape[-1] != channels:
            raise TileError(
                f"{name}{suffix} of {where} has {array.shape[-1]} channels, but should have "
                f"{channels}: make the tile again in that form."
            )
    pixels = arrays["masks"].shape[1:]
    for days, stacks in _STACKS:
        for name in stacks:
            wanted = (*arrays[days].shape, *pixels)
            if arrays[name].shape[:3] != wanted:
                raise TileError(
                    _contradiction(where, f"{name}{suffix}", arrays[name].shape[:3], wanted)
                )
        bad = arrays[days][(arrays[days] < 1) | (arrays[days] > LAST_DAY)]
        if bad.size:
            raise TileError(
                f"{days}{suffix} of {where} holds day {int(bad[0])}, but days of year go from 1 "
                f"to {LAST_DAY}: correct the days or make the tile again."
            )
    _check_masks(arrays["masks"], where, suffix)


def _check_masks(masks: NDArray[Any], where: str, suffix: str) -> None:
    for step in masks:  # one at a time: the array may be mapped
        if step.size and step.max() > 1:
            other = [int(value) for value in np.unique(step) if value > 1]
            shown = ", ".join(map(str, other[:3])) + (", ..." if len(other) > 3 else "")
            raise TileError(
                f"masks{suffix} of {where} holds {shown}, but a mask is 1 where the step is valid "
                "and else 0: make the tile again in that form."
            )


def _contradiction(where: str, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return (
        f"{name} of {where} has shape {found}, but the days and the masks beside it ask for "
        f"{wanted}: its files are not of one tile, so copy or make the tile again."
    )
