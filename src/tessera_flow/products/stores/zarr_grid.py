"""Describe grids in Zarr stores: conventions of attributes, coordinates, chunks and shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from zarr.codecs import ZstdCodec

from ..provenance import crs_code

# Writing a shard takes about six times its size in memory; fewer shards are fewer files.
SHARD_PIXELS = 512
SHARD_BYTES = 32 * 2**20
MOST_SHARD_BYTES = 128 * 2**20

# https://github.com/zarr-conventions/zarr-conventions-spec: a group lists the conventions
# that its attributes follow. The schemas of `proj` and `spatial` require exactly these values;
# their first published tag is v0.1. `geoemb:` states v1.
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
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/proj/"
        "refs/tags/v0.1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/proj/blob/v0.1/README.md",
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj",
        "description": "Coordinate reference system information for geospatial data",
    },
    {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/"
        "refs/tags/v0.1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v0.1/README.md",
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial",
        "description": "Spatial coordinate information",
    },
)

MULTISCALES: dict[str, str] = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/"
    "refs/tags/v0.1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v0.1/README.md",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "description": "Multiscale layout of zarr datasets",
}

COMPRESSOR = ZstdCodec(level=3, checksum=True)
"""With a checksum of each chunk, so that a changed byte is an error when it is read."""


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


def crs_attributes(crs: CRS) -> dict[str, str]:
    """Return the CRS in the form of the convention `proj:`."""
    code = crs_code(crs)
    return {"proj:code": code} if code else {"proj:wkt2": crs.to_wkt()}


def spatial_attributes(
    dimensions: tuple[str, str], shape: tuple[int, int], affine: Affine
) -> dict[str, Any]:
    """Return the place of a grid in the form of the convention `spatial:`.

    Args:
        dimensions: names of the vertical and the horizontal dimension.
        shape: (height, width).
        affine: of the upper left corner of the pixels.
    """
    west, north = affine @ (0, 0)
    east, south = affine @ (shape[1], shape[0])
    return {
        "spatial:dimensions": list(dimensions),
        "spatial:transform_type": "affine",
        "spatial:transform": [float(v) for v in list(affine)[:6]],
        "spatial:shape": [int(n) for n in shape],
        "spatial:bbox": [float(v) for v in (west, south, east, north)],
    }


def write_place(
    group: zarr.Group,
    dimensions: tuple[str, str],
    shape: tuple[int, int],
    affine: Affine,
    crs: CRS,
) -> None:
    """Write the coordinates of the pixel centres, and the CRS in the form of CF and rioxarray."""
    height, width = shape
    axes = {axis["axis"]: axis for axis in crs.cs_to_cf() if axis.get("axis") in ("X", "Y")}
    x = affine.c + affine.a * (np.arange(width) + 0.5)
    y = affine.f + affine.e * (np.arange(height) + 0.5)
    write_coordinate(group, dimensions[1], x, axes.get("X", {"axis": "X"}))
    write_coordinate(group, dimensions[0], y, axes.get("Y", {"axis": "Y"}))
    a, b, c, d, e, f = (float(v) for v in list(affine)[:6])
    group.create_array(
        "spatial_ref",
        data=np.array(0, dtype=np.int32),
        attributes=crs.to_cf()
        | {"spatial_ref": crs.to_wkt(), "GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"},
    )


def write_coordinate(
    group: zarr.Group, name: str, values: NDArray[Any], attributes: dict[str, Any]
) -> None:
    """Write the coordinate of a dimension."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        dimension_names=(name,),
        attributes=attributes,
        compressors=COMPRESSOR,
        fill_value=_unused(values),
    )
    array[:] = values


def _unused(values: NDArray[Any]) -> Any:
    """Return a value that a coordinate does not have: a chunk of the fill value is not stored."""
    return np.nan if values.dtype.kind == "f" else np.iinfo(values.dtype).min
