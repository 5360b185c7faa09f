"""Write the layout that the `geotessera` client reads: tiles of 0.1 degree and their lists.

A tile is the part of the region's grid that covers a cell of 0.1 degree, so its pixels are the
region's pixels, not resampled; a land mask beside it has the CRS and the transform.
`registry.parquet` is what the client of version 0.7 reads, `manifest.parquet` that of 0.11.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer

from ..atomic import atomic_folder
from ..errors import ConfigError
from ..geotessera import tile_name
from ..geotessera.lists import write_lists
from ..npy_file import allocate, put
from ..region.grid import RegionGrid, Window, crop
from .blocks import WINDOW_BYTES, RegionBlocks
from .checksums import STORE_RECORD, Checksums, sha256_of
from .geotiff import GDAL_OPTIONS, gdal_writes, read_back
from .provenance import Provenance, product_crs
from .record import has_record

EMBEDDINGS = "global_0.1_degree_representation"
LANDMASKS = "global_0.1_degree_tiff_all"
DIM = 128
_DENSIFY = 21


@dataclass(frozen=True)
class StoreTile:
    """One cell of 0.1 degree.

    Attributes:
        lon, lat: hundredths of a degree of its centre (always ending in 5).
        window: part of the region's product grid that covers it.
    """

    lon: int
    lat: int
    window: Window

    @property
    def name(self) -> str:
        """See `tile_name`."""
        return tile_name(self.lon, self.lat)


def write_geotessera(
    output: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the store; cells without an embedding are left out.

    Args:
        output: the folder to make.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to `provenance.json`; the tiles are stored under the year with most
            days of its period.
        settings: that the store is made with, for its record of checksums.

    Raises:
        ConfigError: the embeddings are not int8 with 128 dimensions.
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the store cannot be written.
    """
    year = main_year(provenance)
    with RegionBlocks(grid, blocks, provenance) as source:
        check_model(source.dim, source.dtype.name)
        with atomic_folder(output, has_record) as temporary, rasterio.Env(**GDAL_OPTIONS):
            (temporary / LANDMASKS).mkdir(parents=True)
            rows = [
                row
                for tile in store_tiles(grid)
                if (row := _write_tile(temporary, source, tile, year, output)) is not None
            ]
            write_lists(temporary, rows, year)
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


def main_year(provenance: Provenance) -> int:
    """Return the calendar year with most days of the period; the earlier one of two equals."""
    start = provenance.start
    end = datetime.date.fromisoformat(provenance.period_end)
    days = {
        year: (min(end, datetime.date(year, 12, 31)) - max(start, datetime.date(year, 1, 1))).days
        for year in range(start.year, end.year + 1)
    }
    return max(days, key=lambda year: (days[year], -year))


def store_tiles(grid: RegionGrid) -> Iterator[StoreTile]:
    """Yield the cells of 0.1 degree that touch the region's product grid, from south-west."""
    geobox = grid.product_geobox
    height, width = (int(n) for n in geobox.shape)
    to_lonlat = Transformer.from_crs(product_crs(grid), "EPSG:4326", always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(
        *geobox.boundingbox.bbox, densify_pts=_DENSIFY
    )
    a, _, c, _, e, f = tuple(geobox.affine)[:6]
    first, last = int(np.floor(west * 10)), int(np.floor(east * 10))
    # A grid crosses the antimeridian if its region ends near it.
    columns = (
        [*range(first, 1800), *range(-1800, last + 1)] if west > east else range(first, last + 1)
    )
    for row in range(int(np.floor(south * 10)), int(np.floor(north * 10)) + 1):
        for column in columns:
            cell = (column / 10, row / 10, (column + 1) / 10, (row + 1) / 10)
            left, bottom, right, top = to_lonlat.transform_bounds(
                *cell, densify_pts=_DENSIFY, direction="INVERSE"
            )
            x0, x1 = (left - c) / a, (right - c) / a
            y0, y1 = (top - f) / e, (bottom - f) / e
            x0, y0 = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
            x1, y1 = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
            if x0 < x1 and y0 < y1:
                yield StoreTile(10 * column + 5, 10 * row + 5, Window(y0, x0, y1 - y0, x1 - x0))


def _write_tile(
    root: Path, source: RegionBlocks, tile: StoreTile, year: int, output: Path
) -> dict[str, Any] | None:
    """Write one tile; return its row of the lists, or None if it has no embedding."""
    valid = np.zeros(tile.window.shape, np.uint8)
    for strip, inside in _strips(tile.window, source.pixel_bytes("embeddings")):
        scales = source.read_region("scales", strip)
        if scales is not None:
            valid[inside.slices] = np.isfinite(scales)
    if not valid.any():
        return None
    folder = root / EMBEDDINGS / str(year) / tile.name
    folder.mkdir(parents=True)
    codes, scales_file = folder / f"{tile.name}.npy", folder / f"{tile.name}_scales.npy"
    for path, name in ((codes, "embeddings"), (scales_file, "scales")):
        trailing, nodata = source.trailing(name), source.nodata(name)
        allocate(path, (*tile.window.shape, *trailing), source.array_dtype(name))
        for strip, inside in _strips(tile.window, source.pixel_bytes("embeddings")):
            values = source.read_region(name, strip)
            put(path, inside.slices, nodata if values is None else values)
    landmask = root / LANDMASKS / f"{tile.name}.tiff"
    with gdal_writes(output, 2 * valid.size):
        _write_landmask(landmask, source.grid, tile.window, valid)
    return {
        "lon": tile.lon,
        "lat": tile.lat,
        "hash": sha256_of(codes),
        "scales_hash": sha256_of(scales_file),
        "landmask_hash": sha256_of(landmask),
        "file_size": codes.stat().st_size,
        "scales_size": scales_file.stat().st_size,
        "landmask_size": landmask.stat().st_size,
    }


def _strips(window: Window, pixel_bytes: int) -> Iterator[tuple[Window, Window]]:
    """Yield (strip of the region, the same strip relative to `window`), of bounded size."""
    rows = max(1, WINDOW_BYTES // (pixel_bytes * window.width))
    for y0 in range(0, window.height, rows):
        height = min(rows, window.height - y0)
        yield (
            Window(window.y0 + y0, window.x0, height, window.width),
            Window(y0, 0, height, window.width),
        )


def _write_landmask(path: Path, grid: RegionGrid, window: Window, valid: NDArray[np.uint8]) -> None:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=window.height,
        width=window.width,
        count=1,
        dtype="uint8",
        crs=product_crs(grid).to_wkt(),
        transform=crop(grid.product_geobox, window).affine,
        compress="DEFLATE",
    ) as target:
        target.write(valid, 1)
    read_back(path, valid.sum(dtype=np.int64).reshape(1))
