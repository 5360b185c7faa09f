"""Open a product for analysis in Python."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyproj
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from ...errors import RegionError, TileError
from ..blocks import COUNT_KINDS
from ..checksums import STORE_RECORD, Checksums, damage_message
from ..stores.cube import CUBE
from ..tables.points import Points
from .find import STORE_NAME, open_stores
from .sample import open_store, sample_store


def open_product(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a product lazily, with dequantised embeddings.

    Args:
        path: `embeddings.zarr`, or the folder `results/<region>/<period>` that holds it; or
            `cube.zarr` of a region.

    Returns:
        A dataset with `embeddings` (time, band, y, x) float32, NaN where there is no embedding;
        `observation_counts` and `observation_months` where they are known; `origin` where holes of
        published embeddings were computed (1 published, 2 computed); coordinates and CRS as
        in the store, of a cube also `period` (time), the names of the periods. Attributes that are
        objects or lists of texts in the store, such as `provenance`, are JSON text, so that the
        dataset can be written as NetCDF. Arrays are read chunk by chunk when they are used.

    Raises:
        TileError: there is no product, or files of it are missing or shortened.
    """
    store = _store(path)
    group = open_store(store, cube=True)  # refuses what is not a product, with a message
    recorded = (store / STORE_RECORD).exists()
    if recorded and (faults := list(Checksums.of_store(store).changed_sizes())):
        raise TileError(damage_message(store, faults))
    try:
        dataset: xr.Dataset = xr.open_zarr(store)
    except (RuntimeError, ValueError, LookupError, TypeError, OSError) as error:
        raise TileError(
            f"{store} is damaged: its coordinates or metadata cannot be read "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
        ) from error
    if "kind" in dataset.coords:
        dataset = dataset.assign_coords(kind=list(COUNT_KINDS))
    if entries := cast(list[dict[str, Any]], group.attrs.get(CUBE)):
        names = [entry["period"] for entry in entries]
        dataset = dataset.assign_coords(period=("time", names))
    dataset.attrs = {name: _flat(value) for name, value in dataset.attrs.items()}
    if "scales" not in dataset:
        return dataset
    attributes = dict(dataset["embeddings"].attrs)
    values = dataset["embeddings"].astype(np.float32) * dataset["scales"]
    values = values.transpose(*dataset["embeddings"].dims)
    dataset = dataset.drop_vars("scales")
    dataset["embeddings"] = values.assign_attrs(attributes)
    return dataset


def _flat(value: Any) -> Any:
    """Return an attribute in a form that NetCDF can hold: objects and lists of anything but
    numbers as JSON text."""
    numbers = isinstance(value, list) and all(isinstance(entry, (int, float)) for entry in value)
    return json.dumps(value) if isinstance(value, (dict, list)) and not numbers else value


def sample_points(
    path: str | os.PathLike[str],
    x: ArrayLike,
    y: ArrayLike,
    crs: Any = "EPSG:4326",
    period: str | None = None,
) -> NDArray[np.float32]:
    """Return the embeddings of the pixels that contain the points.

    Args:
        path: as for `open_product`.
        x, y: N coordinates each: longitude and latitude, or easting and northing.
        crs: of the coordinates, as pyproj takes it.
        period: of a cube.

    Returns:
        (N, K) float32; NaN for points outside the product or without an embedding.

    Raises:
        RegionError: `x` and `y` differ in length, or no point is inside the product.
        TileError: there is no product, or no such period in it.
    """
    xs, ys = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    if xs.shape != ys.shape or xs.ndim != 1:
        raise RegionError(
            f"x has the shape {xs.shape} and y {ys.shape}: give one number for each point in both."
        )
    points = Points(xs, ys, pyproj.CRS.from_user_input(crs), pa.table({}))
    stores = open_stores([_store(path)])
    if period is not None:
        stores = [store for store in stores if store.labels[1] == period]
    if len(stores) != 1:
        names = ", ".join(store.labels[1] for store in open_stores([_store(path)]))
        raise TileError(f"{path} has {names}: give one of them as `period`.")
    return sample_store(stores[0].group, points, time=stores[0].time).embeddings


def _store(path: str | os.PathLike[str]) -> Path:
    folder = Path(path)
    return folder / STORE_NAME if (folder / STORE_NAME).is_dir() else folder
