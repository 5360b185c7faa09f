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
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ..errors import TileError
from ..inference.tile import ARRAYS, TileArrays, check_arrays
from ..input_files import check_input
from ..npy_file import open_array
from ..region.grid import Window

logger = logging.getLogger(__name__)

ROI_FILE = "roi.tiff"
FILES = tuple(f"{name}.npy" for name in ARRAYS)
DTYPES: dict[str, type[np.generic]] = {
    "bands": np.uint16,
    "masks": np.bool_,
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
    """Return the window in the name of a tile folder; None if the name is of another form, or
    states no pixel."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    x0, y0, x1, y1 = (int(number) for number in match.groups())
    return Window(y0, x0, y1 - y0, x1 - x0) if x0 < x1 and y0 < y1 else None


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

    A folder with any of the seven files counts, and whatever has the name of a tile (also a file
    or a link to nothing), so that an incomplete one is reported when it is read instead of being
    ignored. Other folders are named in a warning.

    Raises:
        TileError: `path` is not a folder, or there is no tile folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise TileError(f"{path} is not a folder: name a tile folder, or a folder of tile folders.")
    if is_tile_folder(path):
        return [path]
    children = sorted(path.iterdir())
    folders = [child for child in children if folder_window(child.name) or is_tile_folder(child)]
    known = set(folders)
    other = [child.name for child in children if child.is_dir() and child not in known]
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

    Days out of order and files that are not used are stated in the log.

    Raises:
        TileError: a file is missing, truncated, of the wrong type or number of axes, or does
            not fit another one; a day is outside 1..366; or a mask is neither 0 nor 1.
    """
    tile = open_tile_folder(folder)
    _warn_of_days(tile, Path(folder))
    if others := other_files(folder):
        logger.warning(
            "The tile %s contains files that are not used (%s)", folder, ", ".join(others)
        )
    return tile


def open_tile_folder(folder: str | Path) -> TileArrays:
    """Open a tile folder as `read_tile_folder` does, without warnings."""
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise TileError(
            f"The tile {folder} is incomplete: {', '.join(missing)} missing. Copy or make it "
            "again with all seven files."
        )
    arrays = {name: _read_npy(folder / f"{name}.npy") for name in ARRAYS}
    check_arrays(arrays, f"the tile {folder}", ".npy")
    roi = None
    if os.path.lexists(folder / ROI_FILE):
        roi = _read_roi(folder / ROI_FILE, arrays["masks"].shape[1:])
    return TileArrays(**arrays, roi=roi)


def other_files(folder: str | Path) -> list[str]:
    """Return the names of other arrays and rasters in a tile folder, in order.

    Raises:
        TileError: one of them is the mask under another name, which would not be applied; or the
            folder cannot be listed.
    """
    folder = Path(folder)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise TileError(f"The tile {folder} cannot be listed ({error.strerror}).") from error
    others = [
        name
        for name in names
        if name not in (*FILES, ROI_FILE)
        and not name.startswith(".")
        and name.lower().endswith((".npy", ".npz", ".tif", ".tiff"))
    ]
    masks = [name for name in others if name.lower() in ("roi.tif", "roi.tiff")]
    if masks:
        raise TileError(
            f"The tile {folder} contains {masks[0]}, but the mask of a tile is {ROI_FILE}: rename "
            "or remove it."
        )
    return others


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


def days_are_ordered(days: NDArray[Any]) -> bool:
    """Return whether days of year are in date order. A period may cross a year end."""
    days = np.asarray(days).astype(np.int64)
    steps = np.diff(np.append(days, days[:1]))
    return days.size < 2 or bool((steps < 0).sum() <= 1)


def days_are_different(days: NDArray[Any]) -> bool:
    """Return whether no day of year occurs twice."""
    return bool(np.unique(np.asarray(days)).size == days.size)


def _warn_of_days(tile: TileArrays, folder: Path) -> None:
    """Warn of days that are not in date order, or occur twice."""
    for name in DAYS:
        days = np.asarray(getattr(tile, name)).astype(np.int64)
        if not days_are_ordered(days):
            logger.warning(
                "%s.npy of the tile %s is not in date order (day %d is followed by %d), or covers "
                "more than a year: the models expect date order",
                name, folder, *next((a, b) for a, b in itertools.pairwise(days) if b < a),
            )  # fmt: skip
        if not days_are_different(days):
            unique, counts = np.unique(days, return_counts=True)
            logger.warning(
                "%s.npy of the tile %s contains day %d more than once (%d such days): each is used "
                "as a date of its own", name, folder, unique[counts > 1][0], (counts > 1).sum(),
            )  # fmt: skip


def _read_npy(path: Path) -> NDArray[Any]:
    reason = "truncated, or not a NumPy array file"
    cause: Exception | None = None
    check_input(path, TileError)
    try:
        array = open_array(path)
        if not isinstance(array, np.memmap):
            reason = "it is an .npz archive or has no axes"
        elif path.stat().st_size > array.offset + array.nbytes:
            more = path.stat().st_size - array.offset - array.nbytes
            reason = f"{more} bytes follow the array that its header states"
        else:
            return array
    except OSError as error:
        reason, cause = error.strerror or reason, error
    except (ValueError, EOFError) as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            reason = "it contains Python objects, not numbers"
        cause = error
    raise TileError(f"{path} cannot be used ({reason}): copy or make the tile again.") from cause


def _read_roi(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a mask: positive values are inside; 0, negative values, nodata and NaN are outside.

    This is the rule for raster masks of regions, and that of the published retiler, which writes
    1 where its mask is above 0.
    """
    try:
        with rasterio.open(path, driver="GTiff") as raster:
            count = raster.count
            inside = (raster.read(1) > 0) & (raster.read_masks(1) > 0)
    except RasterioError as error:
        raise TileError(
            f"{path} cannot be read as a raster ({error}): fix it, or delete it to embed the "
            "entire tile."
        ) from error
    if count != 1:
        raise TileError(
            f"{path} has {count} bands, but a mask has one: make it again, or delete it to embed "
            "the entire tile."
        )
    if inside.shape != shape:
        raise TileError(
            f"{path} has {inside.shape[0]} x {inside.shape[1]} pixels, but the arrays beside it "
            f"have {shape[0]} x {shape[1]}: make the tile again, or delete {ROI_FILE} to embed the "
            "entire tile."
        )
    roi: NDArray[np.uint8] = inside.astype(np.uint8)
    return roi
