"""Write all dimensions of a region and period as cloud-optimised GeoTIFFs, for GIS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from ...region.grid import RegionGrid, tiling
from ..blocks import RegionBlocks
from ..provenance import Provenance, product_crs
from .band_cog import EXPORT_TAG, BandRaster, Piece, tile_edge, write_band_cog
from .writer import open_raster

NO_CODE = -32768
"""No data of codes, which are stored as int16: GDAL before 3.7 reads int8 as unsigned numbers."""


def write_cogs(
    output: Path,
    output_scales: Path | None,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    threads: int = 1,
) -> None:
    """Write the embeddings, one band for each dimension, on the product grid.

    Args:
        output: float32 embeddings, NaN without one, overviews by averaging; with `output_scales`
            codes (int16), -32768 without an embedding, whose overviews hold single pixels.
        output_scales: float32 scales of the codes, NaN without an embedding, with overviews of
            the same pixels; None: float32 embeddings.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to the tags.
        threads: that compress.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: a file cannot be written.
        ValueError: scales of float32 embeddings are requested.

    Files beside the output that an earlier run wrote in the other form are deleted.
    """
    with RegionBlocks(grid, blocks, provenance) as source:
        if output_scales is None:
            names = [f"dimension {k}" for k in range(source.dim)]
            raster = _raster(source, provenance, "float32", np.nan, names)
            tile = tile_edge(4 * source.dim)
            write_band_cog(output, raster, tile, _embeddings(source, tile), threads=threads)
            for name in ("codes", "scales"):
                _delete_old(output.with_name(f"{output.stem}_{name}.tif"))
            return
        if not source.quantised:
            raise ValueError("float32 embeddings have no scales")
        names = [f"code of dimension {k}" for k in range(source.dim)]
        tile = tile_edge(2 * source.dim)
        write = {"overviews": Resampling.nearest, "threads": threads}
        raster = _raster(source, provenance, "int16", NO_CODE, names)
        write_band_cog(output, raster, tile, _codes(source, tile), **write)
        raster = _raster(source, provenance, "float32", np.nan, ["scale"])
        write_band_cog(output_scales, raster, tile, _scales(source, tile), **write)
    _delete_old(output.with_name(f"{output.stem.removesuffix('_codes')}.tif"))


def _delete_old(path: Path) -> None:
    """Delete a GeoTIFF that the workflow has written, not an export of the user."""
    if not path.is_file():
        return
    try:
        with open_raster(path) as file:
            tags = file.tags()
    except RasterioError:
        return
    if "PROVENANCE" in tags and EXPORT_TAG not in tags:
        path.unlink()


def _raster(
    source: RegionBlocks, provenance: Provenance, dtype: str, nodata: float, names: list[str]
) -> BandRaster:
    text = {
        "dimension 0": "TESSERA embeddings, one band for each dimension; no data: no embedding",
        "scale": "Scales of the codes of TESSERA embeddings: embedding = code * scale",
    }.get(names[0], "Codes of TESSERA embeddings: embedding = code * scale (in another file)")
    return BandRaster(
        shape=source.shape,
        transform=source.grid.product_geobox.affine,
        crs=product_crs(source.grid).to_wkt(),
        dtype=dtype,
        nodata=nodata,
        bands=names,
        tags={
            **provenance.tags(),
            "TIFFTAG_IMAGEDESCRIPTION": f"{text}; {provenance.region}, {provenance.period}",
        },
    )


def _embeddings(source: RegionBlocks, tile: int) -> Iterator[Piece]:
    for window in tiling(*source.shape, tile):
        values = source.read_region("embeddings", window)
        if values is None:
            continue
        scales = source.read_region("scales", window) if source.quantised else None

        def band(
            k: int, values: NDArray[Any] = values, scales: NDArray[Any] | None = scales
        ) -> NDArray[Any]:
            return (
                np.ascontiguousarray(values[..., k]) if scales is None else values[..., k] * scales
            )

        yield window, band


def _codes(source: RegionBlocks, tile: int) -> Iterator[Piece]:
    for window in tiling(*source.shape, tile):
        values = source.read_region("embeddings", window)
        scales = source.read_region("scales", window)
        if values is None or scales is None:
            continue
        valid = np.isfinite(scales)

        def band(
            k: int, values: NDArray[Any] = values, valid: NDArray[np.bool_] = valid
        ) -> NDArray[Any]:
            return np.where(valid, values[..., k], np.int16(NO_CODE))

        yield window, band


def _scales(source: RegionBlocks, tile: int) -> Iterator[Piece]:
    for window in tiling(*source.shape, tile):
        scales = source.read_region("scales", window)
        if scales is None:
            continue

        def band(_: int, scales: NDArray[Any] = scales) -> NDArray[Any]:
            return scales

        yield window, band
