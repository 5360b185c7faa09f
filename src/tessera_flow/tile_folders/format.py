"""The reference's tile folders: names, files, types, and reading them.

A tile folder contains `bands.npy`, `masks.npy`, `doys.npy`, `sar_ascending.npy`,
`sar_ascending_doy.npy`, `sar_descending.npy`, `sar_descending_doy.npy` and, if it was made
for a region, `roi.tiff`. Its name is `{x0}_{y0}_{x1}_{y1}`, in pixels of the region's product
grid. The arrays are memory-mapped, so that large ones are not read at once.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ..errors import TileError
from ..inference.tile import ARRAYS, TileArrays, check_arrays
from ..region.grid import Window

logger = logging.getLogger(__name__)

ROI_FILE = "roi.tiff"
FILES = tuple(f"{name}.npy" for name in ARRAYS)
DTYPES: dict[str, type[np.generic]] = {
    "bands": np.uint16,
    "masks": np.uint8,
    "doys": np.uint16,
    "sar_ascending": np.int16,
    "sar_ascending_doy": np.int16,
    "sar_descending": np.int16,
    "sar_descending_doy": np.int16,
}
"""Type of each array in a file of patches, in the order of that file."""

DAYS = ("doys", "sar_ascending_doy", "sar_descending_doy")

_SHOWN = 5
_NAME = re.compile(r"(\d+)_(\d+)_(\d+)_(\d+)")


def folder_name(window: Window) -> str:
    """Return the name of the tile folder that covers a window of the region's product grid."""
    return f"{window.x0}_{window.y0}_{window.x0 + window.width}_{window.y0 + window.height}"


def folder_window(name: str) -> Window | None:
    """Return the window in the name of a tile folder; None if the name is of another form."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    x0, y0, x1, y1 = (int(number) for number in match.groups())
    return Window(y0, x0, y1 - y0, x1 - x0)


def folder_origin(folder: str | Path) -> tuple[int, int]:
    """Return (row, column) in the region's product grid of a tile folder's upper left pixel;
    (0, 0) if its name is not of the form `{x0}_{y0}_{x1}_{y1}`."""
    window = folder_window(Path(folder).resolve().name)
    return (0, 0) if window is None else (window.y0, window.x0)


def is_tile_folder(folder: Path) -> bool:
    """Return whether a folder has any of the seven files, complete or not, or cannot be read."""
    try:
        return any((folder / name).is_file() for name in FILES)
    except OSError:
        return True  # reported when it is read


def find_tile_folders(path: str | Path) -> list[Path]:
    """Return `path` if it is a tile folder, else the tile folders directly in it, by name.

    A folder with any of the seven files, or with the name of a tile, counts, so that an
    incomplete one is reported when it is read instead of being ignored. Other folders are named
    in a warning.

    Raises:
        TileError: `path` is not a folder, or there is no tile folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise TileError(f"{path} is not a folder: name a tile folder, or a folder of tile folders.")
    if is_tile_folder(path):
        return [path]
    children = sorted(child for child in path.iterdir() if child.is_dir())
    folders = [child for child in children if folder_window(child.name) or is_tile_folder(child)]
    other = [child.name for child in children if child not in set(folders)]
    if folders and other:
        logger.warning(
            "%s: %d folders are no tiles and are not read (%s)",
            path, len(other), ", ".join(other[:_SHOWN]),
        )  # fmt: skip
    if not folders:
        raise TileError(
            f"There is no tile in {path}: a tile is a folder with {', '.join(FILES)}, and {path} "
            "must be a tile or contain tiles directly."
        )
    return folders


def read_tile_folder(folder: str | Path) -> TileArrays:
    """Open a tile folder; the arrays are memory-mapped.

    Raises:
        TileError: a file is missing, truncated, of the wrong type or number of axes, or does
            not fit another one; a day is outside 1..366; or a mask is neither 0 nor 1.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise TileError(
            f"The tile {folder} is incomplete: {', '.join(missing)} missing. Copy or make it "
            "again with all seven files."
        )
    arrays = {name: _read_npy(folder / f"{name}.npy") for name in ARRAYS}
    check_arrays(arrays, f"the tile {folder}", ".npy")
    _warn_of_days(arrays, folder)
    roi = None
    if (folder / ROI_FILE).is_file():
        roi = _read_roi(folder / ROI_FILE, arrays["masks"].shape[1:])
    return TileArrays(**arrays, roi=roi)


def folder_fingerprint(folder: str | Path) -> str:
    """Return a hash that changes when the files of a tile folder change, without reading them.

    Returns:
        SHA-256, in hexadecimal, of the resolved path, and of name, size and modification time
        of each file; of a missing file, its name.
    """
    folder = Path(folder).resolve()
    lines = [str(folder)]
    for name in (*FILES, ROI_FILE):
        try:
            status = (folder / name).stat()
        except OSError:
            lines.append(name)
        else:
            lines.append(f"{name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\0".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _warn_of_days(arrays: Mapping[str, NDArray[Any]], folder: Path) -> None:
    """Warn of days that are not in date order, or occur twice. A period may cross a year end."""
    for name in DAYS:
        days = np.asarray(arrays[name]).astype(np.int64)
        steps = np.diff(np.append(days, days[:1]))
        if days.size > 1 and (steps < 0).sum() > 1:
            logger.warning(
                "%s.npy of the tile %s is not in date order (day %d is followed by %d), or covers "
                "more than a year: the models expect date order",
                name, folder, *next((a, b) for a, b in itertools.pairwise(days) if b < a),
            )  # fmt: skip
        unique, counts = np.unique(days, return_counts=True)
        if (counts > 1).any():
            logger.warning(
                "%s.npy of the tile %s contains day %d more than once (%d such days): each is used "
                "as a date of its own", name, folder, unique[counts > 1][0], (counts > 1).sum(),
            )  # fmt: skip


def _read_npy(path: Path) -> NDArray[Any]:
    reason = "truncated, or not a NumPy array file"
    cause: Exception | None = None
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap):
            reason = "it is an .npz archive or has no axes"
        elif path.stat().st_size > array.offset + array.nbytes:
            more = path.stat().st_size - array.offset - array.nbytes
            reason = f"{more} bytes follow the array that its header states"
        else:
            return array
    except PermissionError as error:
        reason, cause = "permission denied", error
    except (ValueError, EOFError, OSError) as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            reason = "it contains Python objects, not numbers"
        cause = error
    raise TileError(f"{path} cannot be used ({reason}): copy or make the tile again.") from cause


def _read_roi(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a mask: positive values are inside; nodata and NaN are outside."""
    try:
        with rasterio.open(path) as raster:
            inside = (raster.read(1) > 0) & (raster.read_masks(1) > 0)
    except RasterioError as error:
        raise TileError(
            f"{path} cannot be read as a raster ({error}): fix it, or delete it to embed the "
            "entire tile."
        ) from error
    if inside.shape != shape:
        raise TileError(
            f"{path} has {inside.shape[0]} x {inside.shape[1]} pixels, but the arrays beside it "
            f"have {shape[0]} x {shape[1]}: make the tile again, or delete {ROI_FILE} to embed the "
            "entire tile."
        )
    roi: NDArray[np.uint8] = inside.astype(np.uint8)
    return roi
