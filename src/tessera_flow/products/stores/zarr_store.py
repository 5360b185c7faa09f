"""Write the Zarr v3 store, which users open lazily and stream.

Layout: one group; `embeddings` (time, band, y, x), `scales` (time, y, x),
`observation_counts` and `observation_months` (time, kind, y, x), `origin` (time, y, x) if holes of
published embeddings were filled, coordinates, `spatial_ref` for the CRS, and the group `preview`
(`overviews.py`).
A chunk holds all dimensions of its pixels, so a point query reads one chunk per array;
a shard (one file) is inside one block, so writers of different blocks never share one.
"""

from __future__ import annotations

import datetime
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ...atomic import atomic_folder
from ...concurrency import ordered_map
from ...inference.block_embeddings import ORIGINS
from ...region.grid import RegionGrid, Window, tiling
from ..blocks import COUNT_KINDS, RegionBlocks
from ..checksums import STORE_RECORD, Checksums
from ..provenance import Provenance, product_crs
from ..record import has_record
from .overviews import write_overviews
from .zarr_grid import (
    COMPRESSOR,
    CONVENTIONS,
    crs_attributes,
    shard_edges,
    spatial_attributes,
    write_coordinate,
    write_place,
)

_STRIP_PIXELS = 2048

ABSENT_CODE = -128
"""Fill value of int8 embeddings: no model writes it in every dimension of a pixel, so a reader can
recognise a chunk that is not stored."""

_STORED = {
    "embeddings": "embeddings",
    "scales": "scales",
    "counts": "observation_counts",
    "months": "observation_months",
    "origin": "origin",
}
_DIMENSIONS = {
    "embeddings": ("time", "band", "y", "x"),
    "scales": ("time", "y", "x"),
    "counts": ("time", "kind", "y", "x"),
    "months": ("time", "kind", "y", "x"),
    "origin": ("time", "y", "x"),
}


def write_zarr(
    output: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    chunk: int = 100,
    threads: int = 1,
    settings: Mapping[str, Any] | None = None,
    shards: bool = True,
    preview_stretch: float | None = None,
) -> None:
    """Write the store, shard by shard, into a temporary folder that is renamed at the end.

    Args:
        output: the folder to make, `embeddings.zarr`.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to the attributes of the group; its first day is the `time`
            coordinate.
        chunk: largest edge of a chunk, in pixels.
        threads: shards that are written at a time; each is one thread's alone. The bytes do
            not depend on it.
        settings: that the store is made with, for its record of checksums.
        shards: whether chunks are collected in shards; otherwise each is a file.
        preview_stretch: per cent of the scores cut at both ends of each colour of the preview; None
            for a store without preview.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the store cannot be written.
    """
    with (
        RegionBlocks(grid, blocks, provenance) as source,
        atomic_folder(output, has_record) as part,
    ):
        attributes = group_attributes(grid, provenance)
        group = zarr.create_group(part, zarr_format=3, attributes=attributes)
        _write_coordinates(group, source, provenance)
        overviews = []
        if preview_stretch is not None:
            overviews = write_overviews(group, source, provenance, preview_stretch, threads, shards)
        for name in source.names:
            _write_array(group, source, name, chunk, threads, shards)
        with warnings.catch_warnings():
            # Consolidated metadata is not yet in the Zarr v3 specification; xarray reads it,
            # and warns if it is missing.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            for path in (*overviews, None):
                zarr.consolidate_metadata(part, path=path, zarr_format=3)
        Checksums.of(part, settings, threads).write(part / STORE_RECORD)


def group_attributes(grid: RegionGrid, provenance: Provenance) -> dict[str, Any]:
    """Return the attributes of the group: CF, geoemb:, proj:, spatial: and provenance."""
    model = provenance.model
    geobox = grid.product_geobox
    crs = product_crs(grid)
    attributes: dict[str, Any] = {
        "Conventions": "CF-1.11",
        "title": f"TESSERA embeddings of {provenance.region}, {provenance.period}",
        "time_coverage_start": provenance.period_start,
        "time_coverage_end": provenance.period_end,
        "zarr_conventions": [dict(convention) for convention in CONVENTIONS],
        "geoemb:type": "pixel",
        "geoemb:dimensions": model.dim,
        "geoemb:model": model.url,
        "geoemb:source_data": [source.uri for source in provenance.sources],
        "geoemb:data_type": model.dtype,
        "geoemb:build_version": provenance.software["tessera-flow"],
    }
    if crs.is_projected:
        attributes["geoemb:gsd"] = abs(geobox.affine.a) * crs.axis_info[0].unit_conversion_factor
    if model.dtype == "int8":
        attributes["geoemb:quantization"] = {
            "method": "per_pixel_scale",
            "original_dtype": "float32",
            "quantized_dtype": "int8",
            "scale": {"type": "array", "array_name": "scales", "nodata": "NaN"},
        }
    attributes |= crs_attributes(crs)
    shape = int(geobox.shape[0]), int(geobox.shape[1])
    attributes |= spatial_attributes(("y", "x"), shape, geobox.affine)
    attributes |= {"spatial:registration": "pixel", "provenance": provenance.to_json()}
    return attributes


def _write_coordinates(group: zarr.Group, source: RegionBlocks, provenance: Provenance) -> None:
    affine = source.grid.product_geobox.affine
    write_place(group, ("y", "x"), source.shape, affine, product_crs(source.grid))
    days = (provenance.start - datetime.date(1970, 1, 1)).days
    write_coordinate(
        group,
        "time",
        np.array([days], dtype=np.int64),
        {
            "standard_name": "time",
            "long_name": "first day of the period",
            "axis": "T",
            "units": "days since 1970-01-01",
            "calendar": "proleptic_gregorian",
        },
    )
    bands = np.arange(source.dim, dtype=np.int32)
    write_coordinate(group, "band", bands, {"long_name": "dimension of the embedding"})
    if source.counted:
        # Numbers with their meaning: few readers know strings of variable length.
        kinds = np.arange(len(COUNT_KINDS), dtype=np.int8)
        meanings = {"flag_values": kinds.tolist(), "flag_meanings": " ".join(COUNT_KINDS)}
        write_coordinate(group, "kind", kinds, {"long_name": "kind of observation", **meanings})


def _write_array(
    group: zarr.Group, source: RegionBlocks, name: str, chunk: int, threads: int, shards: bool
) -> None:
    height, width = source.shape
    shard, size = shard_edges(source.edge, chunk, source.pixel_bytes(name))
    lead = (1, *source.trailing(name))
    array = group.create_array(
        _STORED[name],
        shape=(*lead, height, width),
        chunks=(*lead, size, size),
        shards=(*lead, shard, shard) if shards else None,
        dtype=source.array_dtype(name),
        fill_value=ABSENT_CODE if source.array_dtype(name) == np.int8 else source.nodata(name),
        compressors=COMPRESSOR,
        dimension_names=_DIMENSIONS[name],
        attributes=_array_attributes(source, name),
    )
    windows = list(tiling(height, width, shard))
    stop = threading.Event()

    def write(several: Sequence[Window]) -> None:
        _write_shards(array, source, name, several, stop)

    shards_of_threads = (windows[n::threads] for n in range(threads))
    # A request to stop reaches only this thread: it sets `stop` for the others.
    list(ordered_map(write, shards_of_threads, threads, stop=stop))


def _write_shards(
    array: zarr.Array[Any],
    source: RegionBlocks,
    name: str,
    windows: Sequence[Window],
    stop: threading.Event,
) -> None:
    """Write some shards of an array, one after another; an error stops the other threads, too."""
    try:
        with source.another() as mine:
            for window in windows:
                if stop.is_set():
                    return
                data = mine.read_region(name, window)
                if data is not None:
                    rows, columns = window.slices
                    array[..., rows, columns] = _pixels_last(data)[np.newaxis]
    except BaseException:
        stop.set()
        raise


def _pixels_last(data: NDArray[Any]) -> NDArray[Any]:
    """Return (h, w, K) as contiguous (K, h, w); (h, w) unchanged.

    Otherwise Zarr gathers the values of each chunk one by one, in the one thread that all its
    writers share. Strips of pixels that fit the cache of a core are transposed three times as
    fast as the complete array.
    """
    if data.ndim == 2:
        return data
    height, width, dim = data.shape
    pixels = data.reshape(-1, dim)
    result = np.empty((dim, len(pixels)), data.dtype)
    for start in range(0, len(pixels), _STRIP_PIXELS):
        strip = slice(start, start + _STRIP_PIXELS)
        result[:, strip] = pixels[strip].T
    return result.reshape(dim, height, width)


def _array_attributes(source: RegionBlocks, name: str) -> dict[str, Any]:
    by_name: dict[str, dict[str, Any]] = {
        "embeddings": {
            "long_name": "TESSERA embedding",
            "comment": "int8 codes: embedding = code * scales; no embedding where scales is NaN"
            if source.quantised
            else "no embedding where NaN",
        },
        "scales": {
            "long_name": "scale of the embedding's codes",
            "comment": "embedding = code * scale; NaN where there is no embedding",
        },
        "counts": {"long_name": "observations that went into the embedding", "units": "1"},
        # Bits as in the CF conventions (flag_masks).
        "months": {
            "long_name": "months with an observation",
            "flag_masks": [1 << bit for bit in range(len(source.months))],
            "flag_meanings": " ".join(source.months),
        },
        "origin": {
            "long_name": "origin of the embedding",
            "flag_values": list(range(len(ORIGINS))),
            "flag_meanings": " ".join(ORIGINS),
        },
    }
    # `coordinates` makes open_zarr turn spatial_ref into a coordinate, where rioxarray looks
    # for it.
    return {**by_name[name], "grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
