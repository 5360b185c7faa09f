"""Export a product: other formats, dimensions, components, cells and grids.

The values are dequantised float32 embeddings, NaN where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ... import __version__
from ...atomic import atomic_folder, atomic_output, check_output, write_text
from ...errors import OutputError
from ...npy_file import allocate, put
from ...region.grid import Window, tiling
from ..checksums import sha256_of
from ..geotiff.band_cog import EXPORT_TAG, BandRaster, Piece, tile_edge, write_band_cog
from ..geotiff.writer import open_raster
from ..provenance import crs_code
from .grid import Grid, grid_like, grid_of_crs
from .origin import (
    MEANINGS,
    check_origin_file,
    open_origin,
    origin_attributes,
    read_values,
    write_origin_file,
)
from .view import View, chosen, coarser, components, nearest, open_view

FORMATS = {".tif": "GeoTIFF", ".zarr": "Zarr store", ".npy": "NumPy array", ".nc": "NetCDF file"}
_NETCDF_BYTES = 2**31 - 2**20
_ZARR_CHUNK = 256


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        bands: dimensions; empty for all.
        pca: number of principal components instead of dimensions; 0 for none.
        cells: pixels along the edge of a cell that averages them; 1 for the pixels.
        crs: of the export; None for that of the product.
        pixel: edge of a pixel in units of `crs`; None for about that of the product.
        like: raster whose grid is used instead of `crs`.
    """

    bands: tuple[int, ...] = ()
    pca: int = 0
    cells: int = 1
    crs: str | None = None
    pixel: float | None = None
    like: Path | None = None


def export(product: Path, output: Path, request: Request, threads: int = 1) -> View:
    """Write a product in another form, block by block.

    Args:
        product: Zarr store or arrays, or a folder with one of them.
        output: `.tif` (cloud-optimised GeoTIFF), `.zarr`, `.npy` (with a record, `.json`) or `.nc`.
        request: what to write.
        threads: that compress a GeoTIFF.

    Returns:
        The view that was written.

    Raises:
        TileError: there is no product, it is damaged, or has no such dimension.
        RegionError: there is no such grid.
        OutputError: the output exists and is no export, or cannot be written; or a cell is larger
            than the product.
    """
    writers = {".zarr": _write_zarr, ".nc": _write_netcdf}
    if output.suffix not in FORMATS:
        raise OutputError(f"--out {output}: name a path that ends in {', '.join(FORMATS)}.")
    _check_replaceable(output)
    view, record = open_view(product)
    origin = open_origin(product, view)
    dtype = record["model"]["dtype"]
    if request.cells > max(view.shape):
        raise OutputError(
            f"--coarser {request.cells}: the product has {view.shape[1]} x {view.shape[0]} pixels."
        )
    if request.cells > 1:
        view = coarser(view, request.cells)
        origin = origin and coarser(origin, request.cells)
    made: dict[str, Any] = {
        "by": f"tessera-flow {__version__}",
        "values": "float32 embeddings" + (", dequantised" if dtype == "int8" else ""),
        "cells": "pixels"
        if request.cells == 1
        else f"means of {request.cells} x {request.cells} pixels, at least half with an embedding",
        "resampling": "none",
    }
    if request.bands:
        view = chosen(view, request.bands)
    if request.pca:
        view, made["pca"] = components(view, request.pca)
    if grid := _grid(view, request):
        view = nearest(view, grid)
        origin = origin and nearest(origin, grid)
        made["resampling"] = "nearest neighbour"
    made["bands"] = list(view.names)
    if origin is not None:
        made["origin"] = ", ".join(f"{value} {name}" for value, name in enumerate(MEANINGS))
    record = record | {
        "crs": crs_code(view.crs) or view.crs.to_wkt(),
        "transform": [float(v) for v in list(view.transform)[:6]],
        "shape": list(view.shape),
        "nodata": {"embeddings": "NaN"},
        "export": made,
    }
    write_origin_file(output, origin, _texts(record))
    if output.suffix == ".tif":
        _write_tif(output, view, record, threads)
    elif output.suffix == ".npy":
        _write_npy(output, view, record)
    else:
        writers[output.suffix](output, view, record, origin)
    return view


def _grid(view: View, request: Request) -> Grid | None:
    if request.like is not None:
        return grid_like(view, request.like)
    if request.crs is not None or request.pixel is not None:
        crs = view.crs.to_wkt() if request.crs is None else request.crs
        return grid_of_crs(view, crs, request.pixel)
    return None


def _check_replaceable(output: Path) -> None:
    """Refuse to replace what is no export."""
    if output.suffix == ".zarr":
        return  # atomic_folder checks
    check_output(output)
    check_origin_file(output)
    for path in (output, output.with_suffix(".json")) if output.suffix == ".npy" else (output,):
        if path.exists() and not _is_export(path):
            raise OutputError(
                f"{path} exists and is no export of tessera-flow, so it is not replaced: use "
                "another name."
            )


def _is_export(path: Path) -> bool:
    try:
        if path.suffix == ".tif":
            with open_raster(path) as file:
                return EXPORT_TAG in file.tags()
        if path.suffix == ".nc":
            with xr.open_dataset(path, engine="scipy") as dataset:
                return EXPORT_TAG in dataset.attrs
        if path.is_dir():
            document: Any = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
            return EXPORT_TAG in document["attributes"]
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return "export" in record
    except (OSError, ValueError, TypeError, KeyError, RasterioError):
        return False


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    model = record["model"]["name"]
    return {
        "title": f"TESSERA embeddings of {record['region']}, {record['period']}, {model}",
        "PROVENANCE": json.dumps(record, sort_keys=True),
        EXPORT_TAG: json.dumps(record["export"], sort_keys=True),
    }


def _pieces(view: View, tile: int) -> Iterator[Piece]:
    for window in tiling(*view.shape, tile):
        values = view.read(window)

        def band(k: int, values: NDArray[np.float32] = values) -> NDArray[np.float32]:
            return np.ascontiguousarray(values[..., k])

        yield window, band


def _write_tif(output: Path, view: View, record: Mapping[str, Any], threads: int = 1) -> None:
    texts = _texts(record)
    texts["TIFFTAG_IMAGEDESCRIPTION"] = texts.pop("title")
    texts["TIFFTAG_SOFTWARE"] = f"tessera-flow {__version__}"
    raster = BandRaster(
        view.shape, view.transform, view.crs.to_wkt(), "float32", np.nan, view.names, texts
    )
    tile = tile_edge(4 * len(view.names))
    write_band_cog(output, raster, tile, _pieces(view, tile), threads=threads)


def _write_npy(output: Path, view: View, record: Mapping[str, Any]) -> None:
    """Write an array and its record, which gets its name first and states the array's SHA-256: a
    record beside an earlier array, or beside none, can be recognised."""
    with atomic_output(output) as array:
        allocate(array, (*view.shape, len(view.names)), np.dtype("float32"))
        for window in tiling(*view.shape, view.tile):
            put(array, window.slices, view.read(window))
        file = {"name": output.name, "size": array.stat().st_size, "sha256": sha256_of(array)}
        document = json.dumps({**record, "file": file}, indent=1)
        write_text(output.with_suffix(".json"), document + "\n")


def _coordinates(view: View) -> dict[str, NDArray[Any]]:
    a = view.transform
    return {
        "y": a.f + a.e * (np.arange(view.shape[0]) + 0.5),
        "x": a.c + a.a * (np.arange(view.shape[1]) + 0.5),
    }


def _crs_attributes(view: View) -> dict[str, Any]:
    a, b, c, d, e, f = (float(v) for v in list(view.transform)[:6])
    coordinates = {
        "spatial_ref": view.crs.to_wkt(),
        "GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}",
    }
    return view.crs.to_cf() | coordinates


def _axis_attributes(view: View) -> dict[str, dict[str, Any]]:
    axes = {axis.get("axis"): axis for axis in view.crs.cs_to_cf()}
    return {"x": axes.get("X", {"axis": "X"}), "y": axes.get("Y", {"axis": "Y"})}


def _write_zarr(output: Path, view: View, record: Mapping[str, Any], origin: View | None) -> None:
    with atomic_folder(output, _is_export) as part:
        group = zarr.create_group(part, zarr_format=3, attributes=_texts(record))
        for name, values in _coordinates(view).items():
            array = group.create_array(
                name, shape=values.shape, chunks=values.shape, dtype="float64",
                dimension_names=(name,), attributes=_axis_attributes(view)[name],
                fill_value=np.nan,
            )  # fmt: skip
            array[:] = values
        group.create_array("spatial_ref", data=np.array(0, np.int32),
                           attributes=_crs_attributes(view))  # fmt: skip
        data = group.create_array(
            "embeddings", shape=(len(view.names), *view.shape),
            chunks=(len(view.names), *(min(_ZARR_CHUNK, n) for n in view.shape)),
            dtype="float32", fill_value=np.nan, dimension_names=("band", "y", "x"),
            attributes={"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"},
        )  # fmt: skip
        for window in tiling(*view.shape, _ZARR_CHUNK):
            rows, columns = window.slices
            data[:, rows, columns] = np.moveaxis(view.read(window), -1, 0)
        if origin is None:
            return
        codes = group.create_array(
            "origin", shape=view.shape, chunks=data.chunks[1:], dtype="uint8", fill_value=0,
            dimension_names=("y", "x"), attributes=origin_attributes(),
        )  # fmt: skip
        for window in tiling(*view.shape, _ZARR_CHUNK):
            codes[window.slices] = read_values(origin, window)


def _write_netcdf(output: Path, view: View, record: Mapping[str, Any], origin: View | None) -> None:
    """Write NetCDF-3, in memory."""
    size = 4 * len(view.names) * view.shape[0] * view.shape[1]
    if size > _NETCDF_BYTES:
        raise OutputError(
            f"{output} would have {size / 1e9:.1f} GB, and this format holds 2 GB: select --bands, "
            "--pca or --coarser, or name a .tif or .zarr."
        )
    values = np.empty((len(view.names), *view.shape), np.float32)
    for window in tiling(*view.shape, view.tile):
        values[(slice(None), *window.slices)] = np.moveaxis(view.read(window), -1, 0)
    coordinates = {
        name: (name, data, _axis_attributes(view)[name])
        for name, data in _coordinates(view).items()
    }
    dataset = xr.Dataset(
        {
            name.replace(" ", "_"): (
                ("y", "x"), values[k], {"long_name": name, "grid_mapping": "spatial_ref"}
            )
            for k, name in enumerate(view.names)
        },
        coordinates | {"spatial_ref": ((), np.int32(0), _crs_attributes(view))},
        {"Conventions": "CF-1.11", **_texts(record)},
    )  # fmt: skip
    if origin is not None:
        codes = read_values(origin, Window(0, 0, *view.shape)).astype(np.int8)  # NetCDF-3 has these
        flags = origin_attributes()
        del flags["coordinates"]
        flags["flag_values"] = np.array(flags["flag_values"], np.int8)
        dataset["origin"] = (("y", "x"), codes, flags)
    with atomic_output(output) as temporary:
        dataset.to_netcdf(temporary, engine="scipy", format="NETCDF3_64BIT")
