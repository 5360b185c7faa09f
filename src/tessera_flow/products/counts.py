"""Write observation counts and months with an observation as a cloud-optimised GeoTIFF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..region.grid import RegionGrid, Window
from .blocks import COUNT_KINDS, RegionBlocks
from .geotiff import write_cog
from .provenance import Provenance

MONTH_BANDS = ("s2_months", "s1_ascending_months", "s1_descending_months")


def write_counts(
    output: Path, grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> None:
    """Write the number of observations of each pixel, and the months with one.

    Args:
        output: cloud-optimised GeoTIFF on the product grid, one band for each of `COUNT_KINDS`
            (valid Sentinel-2, Sentinel-1 ascending, Sentinel-1 descending steps); then, where the
            months are known, one for each of `MONTH_BANDS`, in which bit n is 1 if the pixel has
            a valid step in month n of the tag `MONTHS`. uint16, uint32 for more than 16 months; 0
            outside the region. Overviews hold values of single pixels.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to the GeoTIFF's tags.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the file cannot be written.
    """
    tags = {
        **provenance.tags(),
        "TIFFTAG_IMAGEDESCRIPTION": "Valid observations per pixel (Sentinel-2, Sentinel-1 "
        f"ascending, Sentinel-1 descending), {provenance.region}, {provenance.period}",
    }
    with RegionBlocks(grid, blocks, provenance) as source:
        bands, dtype = [*COUNT_KINDS], source.array_dtype("counts")
        if source.months:
            bands += MONTH_BANDS
            dtype = source.array_dtype("months")
            tags["MONTHS"] = " ".join(source.months)
        write_cog(output, grid, dtype.name, bands, tags, _pieces(source, dtype))


def _pieces(source: RegionBlocks, dtype: np.dtype[Any]) -> Iterator[tuple[Window, NDArray[Any]]]:
    for block_id, inside, window in source.pieces():
        values = source.read(block_id, "counts", inside).astype(dtype, copy=False)
        if source.months:
            values = np.concatenate([values, source.read(block_id, "months", inside)], axis=-1)
        yield window, np.ascontiguousarray(np.moveaxis(values, -1, 0))
