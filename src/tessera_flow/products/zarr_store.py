"""Write the Zarr v3 store, which users open lazily and stream.

Layout: one group; `embeddings` (time, band, y, x), `scales` (time, y, x),
`observation_counts` and `observation_months` (time, kind, y, x), `origin` (time, y, x) if holes of
published embeddings were filled, coordinates, and `spatial_ref` for the CRS.
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
from zarr.codecs import ZstdCodec

from ..atomic import atomic_folder
from ..concurrency import ordered_map
from ..inference.block_embeddings import ORIGINS
from ..region.grid import RegionGrid, Window, tiling
from .blocks import COUNT_KINDS, RegionBlocks
from .checksums import STORE_RECORD, Checksums
from .provenance import Provenance, crs_code, product_crs
from .record import has_record

# Writing a shard takes about six times its size in memory; fewer shards are fewer files.
SHARD_PIXELS = 512
SHARD_BYTES = 32 * 2**20
MOST_SHARD_BYTES = 128 * 2**20
_STRIP_PIXELS = 2048

# https://github.com/zarr-conventions/zarr-conventions-spec: a group lists the conventions
# that its attributes follow.
CONVENTIONS: tuple[dict[str, str], ...] = (
    {
        "schema_url": "https://raw.githubusercontent.com/geo-embeddings/"
        "embeddings-zarr-convention/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/geo-embeddings/embeddings-zarr-convention/"
        "blob/v1/README.md",
        "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
        "name": "geoemb:",
        "description": "Geoembeddings convention for geospatial embedding arrays with model "
        "provenance",
    },
    {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/"
        "refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj:",
        "description": "Coordinate reference system information for geospatial data",
    },
    {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/"
        "refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial",
        "description": "Spatial coordinate information",
    },
)

ABSENT_CODE = -128
"""Fill value of int8 embeddings: no model writes it in every dimension of a pixel, so a reader can
recognise a chunk that is not stored."""

_COMPRESSOR = ZstdCodec(level=3, checksum=True)
"""With a checksum of each chunk, so that a changed byte is an error when it is read."""

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
        for name in source.names:
            _write_array(group, source, name, chunk, threads, shards)
        with warnings.catch_warnings():
            # Consolidated metadata is not yet in the Zarr v3 specification; xarray reads it,
            # and warns if it is missing.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(part, zarr_format=3)
        Checksums.of(part, settings, threads).write(part / STORE_RECORD)


def shard_edges(edge: int, chunk: int, pixel_bytes: int) -> tuple[int, int]:
    """Return the edges of a shard and of a chunk, in pixels, for blocks of `edge` pixels.

    The chunk is the largest divisor of the block's edge up to `chunk`, the shard the largest
    multiple of it that divides the edge and either holds at most `SHARD_BYTES`, or has an edge
    of at most `SHARD_PIXELS` and holds at most `MOST_SHARD_BYTES`. A block edge without a
    divisor between a quarter of `chunk` and `chunk` (a prime, say) gets chunks of exactly
    `chunk`; its shards then cross block borders.
    """
    limit = min(chunk, edge)
    size = next(n for n in range(limit, 0, -1) if edge % n == 0)
    aligned = 4 * size >= limit
    if not aligned:
        size = limit
    shard = size
    for candidate in range(size, edge + 1, size):
        size_bytes = candidate * candidate * pixel_bytes
        small = size_bytes <= SHARD_BYTES or (
            candidate <= SHARD_PIXELS and size_bytes <= MOST_SHARD_BYTES
        )
        if small and (not aligned or edge % candidate == 0):
            shard = candidate
    return shard, size


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
    # The schema of proj: requires exactly one form of the CRS.
    if code := crs_code(crs):
        attributes["proj:code"] = code
    else:
        attributes["proj:wkt2"] = crs.to_wkt()
    attributes |= {
        "spatial:dimensions": ["y", "x"],
        "spatial:transform_type": "affine",
        "spatial:transform": [float(v) for v in list(geobox.affine)[:6]],
        "spatial:shape": [int(n) for n in geobox.shape],
        "spatial:bbox": [float(v) for v in geobox.boundingbox.bbox],
        "spatial:registration": "pixel",
        "provenance": provenance.to_json(),
    }
    return attributes


def _write_coordinates(group: zarr.Group, source: RegionBlocks, provenance: Provenance) -> None:
    geobox = source.grid.product_geobox
    height, width = source.shape
    crs = product_crs(source.grid)
    affine = geobox.affine
    cf = crs.cs_to_cf()
    axes = {axis["axis"]: axis for axis in cf if axis.get("axis") in ("X", "Y")}
    x = affine.c + affine.a * (np.arange(width) + 0.5)
    y = affine.f + affine.e * (np.arange(height) + 0.5)
    _coordinate(group, "x", x, axes.get("X", {"axis": "X"}))
    _coordinate(group, "y", y, axes.get("Y", {"axis": "Y"}))
    days = (provenance.start - datetime.date(1970, 1, 1)).days
    _coordinate(
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
    _coordinate(group, "band", bands, {"long_name": "dimension of the embedding"})
    if source.counted:
        # Numbers with their meaning: few readers know strings of variable length.
        kinds = np.arange(len(COUNT_KINDS), dtype=np.int8)
        meanings = {"flag_values": kinds.tolist(), "flag_meanings": " ".join(COUNT_KINDS)}
        _coordinate(group, "kind", kinds, {"long_name": "kind of observation", **meanings})
    a, b, c, d, e, f = (float(v) for v in list(affine)[:6])
    group.create_array(
        "spatial_ref",
        data=np.array(0, dtype=np.int32),
        attributes=crs.to_cf()
        | {"spatial_ref": crs.to_wkt(), "GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"},
    )


def _coordinate(
    group: zarr.Group, name: str, values: NDArray[Any], attributes: dict[str, Any]
) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        dimension_names=(name,),
        attributes=attributes,
        compressors=_COMPRESSOR,
        fill_value=_unused(values),
    )
    array[:] = values


def _unused(values: NDArray[Any]) -> Any:
    """Return a value that a coordinate does not have: a chunk of the fill value is not stored."""
    return np.nan if values.dtype.kind == "f" else np.iinfo(values.dtype).min


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
        compressors=_COMPRESSOR,
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
