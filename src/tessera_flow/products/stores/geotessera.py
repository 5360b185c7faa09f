"""Write the Zarr layout of published embeddings, which the geotessera client (0.11) reads.

One group per UTM zone, `utmNN`, with `embeddings` int8 (time, band, y, x), `scales` float32
(time, y, x) and integer years as `time`. The grid of a zone is in the northern CRS, EPSG:326NN,
with negative northings south of the equator. A scale of +inf marks a pixel without an embedding.

The client looks for a point in the zone of its longitude. The zone of the region's CRS contains the
region's pixels as they are; of a region that extends into another zone, or has another CRS, that
zone contains the nearest pixels on a grid of its own.
"""

from __future__ import annotations

import datetime
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from zarr.codecs import BloscCodec

from ...atomic import atomic_folder
from ...dates import main_year
from ...errors import ConfigError
from ...geotessera import zone_name
from ...geotessera.area import lonlat_boxes
from ...geotessera.manifest import SOUTH_SHIFT
from ...region.grid import RegionGrid, Window, tiling
from ..blocks import RegionBlocks
from ..checksums import STORE_RECORD, Checksums
from ..provenance import Provenance, product_crs
from ..record import has_record
from .zarr_grid import CONVENTIONS

DIM = 128
CHUNK = 32
"""Edge of a chunk in pixels, as published: a point costs one chunk of each array."""
SHARD = 512
"""Edge of a shard (one file) in pixels."""
NO_EMBEDDING = math.inf
_DENSIFY = 21


@dataclass(frozen=True)
class ZoneGrid:
    """The grid of one UTM zone of the store.

    Attributes:
        zone: 1 to 60.
        affine: (column, row) to coordinates in EPSG:326NN.
        shape: (height, width) in pixels.
        is_copy: whether it is the region's grid itself.
    """

    zone: int
    affine: Affine
    shape: tuple[int, int]
    is_copy: bool

    @property
    def crs(self) -> str:
        """CRS of the grid."""
        return f"EPSG:{32600 + self.zone}"


def write_geotessera(
    output: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the store.

    Args:
        output: the folder to make.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to `provenance.json` and to the attributes of the store; the embeddings
            are stored under the year with most days of its period.
        settings: that the store is made with, for its record of checksums.

    Raises:
        ConfigError: the embeddings are not int8 with 128 dimensions.
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the store cannot be written.
    """
    with RegionBlocks(grid, blocks, provenance) as source:
        check_model(source.dim, source.dtype.name)
        with atomic_folder(output, has_record) as temporary:
            root = zarr.create_group(
                temporary, zarr_format=3, attributes=_root_attributes(grid, provenance)
            )
            end = datetime.date.fromisoformat(provenance.period_end)
            for zone in zone_grids(grid):
                _write_zone(root, source, zone, main_year(provenance.start, end))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Consolidated metadata")
                zarr.consolidate_metadata(temporary, zarr_format=3)
            document = json.dumps(provenance.to_json(), indent=2)
            (temporary / "provenance.json").write_text(document + "\n", encoding="utf-8")
            Checksums.of(temporary, settings).write(temporary / STORE_RECORD)


def check_model(dim: int, dtype: str) -> None:
    """Check that the client can read the embeddings.

    Raises:
        ConfigError: they are not int8 with 128 dimensions.
    """
    if (dim, dtype) != (DIM, "int8"):
        raise ConfigError(
            f"products.formats has geotessera, whose client reads int8 with {DIM} dimensions, but "
            f"the embeddings are {dtype} with {dim}: take geotessera out, or change model.dim and "
            "model.dtype."
        )


def zone_grids(grid: RegionGrid) -> list[ZoneGrid]:
    """Return the grids of the UTM zones that the region's product grid is in, by zone."""
    native = _native_grid(grid)
    zones = {} if native is None else {native.zone: native}
    for west, south, east, north in lonlat_boxes(grid):
        for index in range(math.floor((west + 180) / 6), math.ceil((east + 180) / 6)):
            zone, start = index % 60 + 1, index * 6 - 180
            if zone not in zones:
                box = max(west, start), south, min(east, start + 6), north
                zones[zone] = _other_grid(grid, zone, box)
    return [zones[zone] for zone in sorted(zones)]


def _native_grid(grid: RegionGrid) -> ZoneGrid | None:
    """Return the region's grid as one of a zone; None if its CRS is not of a UTM zone."""
    box = grid.product_geobox
    code = product_crs(grid).to_epsg() or 0
    affine, shape = box.affine, (int(box.shape[0]), int(box.shape[1]))
    if 32601 <= code <= 32660:
        return ZoneGrid(code - 32600, affine, shape, True)
    if 32701 <= code <= 32760:
        return ZoneGrid(code - 32700, Affine.translation(0.0, -SOUTH_SHIFT) @ affine, shape, True)
    return None


def _other_grid(grid: RegionGrid, zone: int, box: tuple[float, float, float, float]) -> ZoneGrid:
    """Return a grid of a zone for the part of a region in a box of degrees."""
    size = abs(grid.product_geobox.affine.a)
    crs = CRS.from_epsg(32600 + zone)
    from_degrees = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    from_region = Transformer.from_crs(product_crs(grid), crs, always_xy=True)
    parts = (
        from_degrees.transform_bounds(*box, densify_pts=_DENSIFY),
        from_region.transform_bounds(*grid.product_geobox.boundingbox.bbox, densify_pts=_DENSIFY),
    )
    # One pixel more, because only some points of the curved edges are computed.
    left, bottom = (math.floor(max(p[i] for p in parts) / size) - 1 for i in (0, 1))
    right, top = (math.ceil(min(p[i] for p in parts) / size) + 1 for i in (2, 3))
    affine = Affine(size, 0, left * size, 0, -size, top * size)
    return ZoneGrid(zone, affine, (max(1, top - bottom), max(1, right - left)), False)


def _root_attributes(grid: RegionGrid, provenance: Provenance) -> dict[str, Any]:
    model = provenance.model
    return {
        "zarr_conventions": [dict(CONVENTIONS[0])],
        "geoemb:type": "pixel",
        "geoemb:dimensions": model.dim,
        "geoemb:model": model.url,
        "geoemb:source_data": [source.uri for source in provenance.sources],
        "geoemb:data_type": "int8",
        "geoemb:gsd": abs(grid.product_geobox.affine.a),
        "geoemb:spatial_layout": "utm_zones",
        "geoemb:build_version": f"tessera-flow {provenance.software['tessera-flow']}",
        "geoemb:quantization": {
            "method": "per_pixel_scale",
            "original_dtype": "float32",
            "quantized_dtype": "int8",
            "scale": {"type": "array", "array_name": "scales", "nodata": "+inf"},
        },
        "nearest_neighbour_zones": [
            zone_name(zone.zone) for zone in zone_grids(grid) if not zone.is_copy
        ],
        "provenance": provenance.to_json(),
    }


def _write_zone(root: zarr.Group, source: RegionBlocks, zone: ZoneGrid, year: int) -> None:
    height, width = zone.shape
    affine = zone.affine
    right, bottom = affine @ (width, height)
    group = root.create_group(
        zone_name(zone.zone),
        attributes={
            "zarr_conventions": [dict(convention) for convention in CONVENTIONS[1:]],
            "proj:code": zone.crs,
            "spatial:dimensions": ["y", "x"],
            "spatial:transform_type": "affine",
            "spatial:transform": [float(v) for v in list(affine)[:6]],
            "spatial:shape": [height, width],
            "spatial:bbox": [affine.c, float(bottom), float(right), affine.f],
            "spatial:registration": "pixel",
        },
    )
    _coordinate(group, "time", np.array([year], np.int32))
    _coordinate(group, "band", np.arange(DIM, dtype=np.int32))
    _coordinate(group, "y", affine.f + affine.e * (np.arange(height) + 0.5))
    _coordinate(group, "x", affine.c + affine.a * (np.arange(width) + 0.5))
    codes = _array(group, "embeddings", (1, DIM), zone.shape, np.int8, 0)
    scales = _array(group, "scales", (1,), zone.shape, np.float32, NO_EMBEDDING)
    read = _copies(source) if zone.is_copy else _nearest(source, zone)
    for window in tiling(height, width, SHARD):
        values, vectors = read(window)
        if np.isfinite(values).any():
            rows, columns = window.slices
            scales[0, rows, columns] = values
            codes[0, :, rows, columns] = np.ascontiguousarray(np.moveaxis(vectors, -1, 0))


def _coordinate(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    group.create_array(
        name, data=values, chunks=values.shape, dimension_names=(name,), compressors=_blosc()
    )


def _array(
    group: zarr.Group,
    name: str,
    lead: tuple[int, ...],
    shape: tuple[int, int],
    dtype: Any,
    fill: float,
) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=(*lead, *shape),
        chunks=(*lead, CHUNK, CHUNK),
        shards=(*lead, SHARD, SHARD),
        dtype=dtype,
        fill_value=fill,
        compressors=_blosc(),
        dimension_names=("time", "band", "y", "x") if len(lead) == 2 else ("time", "y", "x"),
    )


def _blosc() -> BloscCodec:
    return BloscCodec(cname="zstd", clevel=3)


def _copies(source: RegionBlocks) -> Any:
    """Return a function of a window of the region's grid: scales (h, w) and codes (h, w, 128)."""

    def read(window: Window) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        values, codes = (source.read_region(name, window) for name in ("scales", "embeddings"))
        if values is None or codes is None:
            empty = np.full(window.shape, NO_EMBEDDING, np.float32)
            return empty, np.zeros((*window.shape, DIM), np.int8)
        return np.where(np.isfinite(values), values, np.float32(NO_EMBEDDING)), codes

    return read


def _nearest(source: RegionBlocks, zone: ZoneGrid) -> Any:
    """Return a function of a window of a zone's grid, as `_copies`: the region's pixels that
    contain the centres of the zone's pixels, where these are in the zone."""
    copies = _copies(source)
    box = source.grid.product_geobox
    to_region = Transformer.from_crs(zone.crs, product_crs(source.grid), always_xy=True)
    to_degrees = Transformer.from_crs(zone.crs, "EPSG:4326", always_xy=True)
    height, width = (int(n) for n in box.shape)

    def read(window: Window) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        scales = np.full(window.shape, NO_EMBEDDING, np.float32)
        codes = np.zeros((*window.shape, DIM), np.int8)
        rows, columns = np.indices(window.shape)
        centres: Any = (window.x0 + columns + 0.5, window.y0 + rows + 0.5)
        x, y = zone.affine @ centres
        lon, _ = to_degrees.transform(x, y)
        points: Any = to_region.transform(x, y)
        column, row = (np.floor(v).astype(np.int64) for v in ~box.affine @ points)
        mine = np.floor((lon + 180) / 6).astype(int) % 60 + 1 == zone.zone
        mine &= (row >= 0) & (row < height) & (column >= 0) & (column < width)
        if mine.any():
            row, column = row[mine], column[mine]
            y0, x0 = int(row.min()), int(column.min())
            part = Window(y0, x0, int(row.max()) + 1 - y0, int(column.max()) + 1 - x0)
            values, vectors = copies(part)
            scales[mine] = values[row - y0, column - x0]
            codes[mine] = vectors[row - y0, column - x0]
        return scales, codes

    return read
