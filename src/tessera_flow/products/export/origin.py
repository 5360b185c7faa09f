"""Export which embeddings are published and which were computed, beside the embeddings.

In GeoTIFFs and NumPy arrays this is a second file, `<name>_origin`; in Zarr stores and NetCDF files
an array `origin`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ...atomic import atomic_output
from ...errors import OutputError
from ...inference.block_embeddings import ORIGINS
from ...npy_file import allocate, put
from ...region.grid import Window, tiling
from ..geotiff.band_cog import EXPORT_TAG
from ..geotiff.origin import COLOURS
from ..geotiff.writer import Placement, cog_writer, open_raster
from ..reading.find import STORE_NAME
from ..reading.sample import Parts, open_store
from .view import View

MIXED = len(ORIGINS)
"""Value of a cell with published and computed pixels."""
MEANINGS = (*ORIGINS, "both")
_COLOURS = {**COLOURS, MIXED: (158, 154, 200, 255)}
_FILES = (".tif", ".npy")
"""Formats with a second file."""


def open_origin(product: Path, view: View) -> View | None:
    """Return the origin of the embeddings of a product: 1 published, 2 computed, NaN neither; None
    unless the product is a store with it.

    Args:
        product: as of `view.open_view`.
        view: of the product.

    Raises:
        TileError: the store is damaged.
    """
    path = product
    if (path / STORE_NAME).exists() and not (path / "zarr.json").exists():
        path = path / STORE_NAME
    if not path.is_dir() or not (path / "zarr.json").exists():
        return None
    group = open_store(path)
    if "origin" not in group:
        return None
    array: Any = group["origin"]
    parts, edge = Parts(group), int(array.chunks[-1])

    def read(window: Window) -> NDArray[np.float32]:
        result = np.zeros(window.shape, np.uint8)
        last_y, last_x = window.y0 + window.height, window.x0 + window.width
        for y in range(window.y0 - window.y0 % edge, last_y, edge):
            for x in range(window.x0 - window.x0 % edge, last_x, edge):
                rows = slice(max(y, window.y0), min(y + edge, last_y))
                columns = slice(max(x, window.x0), min(x + edge, last_x))
                result[
                    rows.start - window.y0 : rows.stop - window.y0,
                    columns.start - window.x0 : columns.stop - window.x0,
                ] = parts.read(array, rows, columns)
        return np.where(result > 0, result, np.float32(np.nan)).astype(np.float32)[..., np.newaxis]

    return replace(view, names=("origin",), read=read)


def read_values(origin: View, window: Window) -> NDArray[np.uint8]:
    """Return the values of a window, (h, w): positions in `MEANINGS`. Means of cells are between
    those of their pixels if these differ."""
    means = origin.read(window)[..., 0]
    values = np.where(means == np.rint(means), means, MIXED)
    return np.nan_to_num(np.where(np.isnan(means), 0, values)).astype(np.uint8)


def origin_attributes() -> dict[str, Any]:
    """Return the attributes of an array, in the form of CF."""
    return {
        "long_name": "origin of the embedding",
        "flag_values": list(range(len(MEANINGS))),
        "flag_meanings": " ".join(MEANINGS),
        "grid_mapping": "spatial_ref",
        "coordinates": "spatial_ref",
    }


def origin_file(output: Path) -> Path | None:
    """Return the second file of an export; None for formats without."""
    return output.with_stem(f"{output.stem}_origin") if output.suffix in _FILES else None


def check_origin_file(output: Path) -> None:
    """Refuse to replace a file that is none of an export.

    Raises:
        OutputError: there is such a file.
    """
    path = origin_file(output)
    if path is not None and path.exists() and not _is_ours(path, output):
        raise OutputError(
            f"{path} exists and is no export of tessera-flow, so it is not replaced: use another "
            "name."
        )


def _is_ours(path: Path, output: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RasterioError):
        if path.suffix == ".tif":
            with open_raster(path) as file:
                return EXPORT_TAG in file.tags() and file.descriptions == ("origin",)
        record = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
        return "origin" in record["export"]
    return False


def write_origin_file(output: Path, origin: View | None, texts: Mapping[str, str]) -> None:
    """Write the second file of an export, or delete that of an earlier one without `origin`.

    Raises:
        OutputError: the file cannot be written.
    """
    path = origin_file(output)
    if path is None:
        return
    if origin is None:
        path.unlink(missing_ok=True)
        return
    if path.suffix == ".npy":
        with atomic_output(path) as array:
            allocate(array, origin.shape, np.dtype(np.uint8))
            for window in tiling(*origin.shape, origin.tile):
                put(array, window.slices, read_values(origin, window))
        return
    place = Placement(origin.shape, origin.crs.to_wkt(), origin.transform)
    tags = {
        **{name: text for name, text in texts.items() if name != "title"},
        "MEANINGS": ", ".join(f"{value} {name}" for value, name in enumerate(MEANINGS)),
    }
    with cog_writer(path, place, "uint8", ["origin"], tags, nodata=0, colours=_COLOURS) as write:
        for window in tiling(*origin.shape, origin.tile):
            write(window, read_values(origin, window)[np.newaxis])
