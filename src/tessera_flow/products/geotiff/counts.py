"""Write observation counts and months with an observation as a cloud-optimised GeoTIFF.

A style file beside it, which QGIS loads with the raster, colours the Sentinel-2 counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import numpy as np
from numpy.typing import NDArray

from ...atomic import write_text
from ...region.grid import RegionGrid, Window
from ...region.mask import read_mask
from ..blocks import COUNT_KINDS, RegionBlocks
from ..provenance import Provenance
from .writer import write_cog

# Upper limits of the classes of Sentinel-2 counts, and their colours.
_CLASSES = (
    (0, "#67001f", "no observation"), (4, "#b2182b", "1 to 4"), (9, "#ef8a62", "5 to 9"),
    (14, "#fddbc7", "10 to 14"), (24, "#d1e5f0", "15 to 24"), (49, "#67a9cf", "25 to 49"),
    (99, "#2166ac", "50 to 99"), (float("inf"), "#053061", "100 or more"),
)  # fmt: skip
MONTH_BANDS = ("s2_months", "s1_ascending_months", "s1_descending_months")


def write_counts(
    output: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    mask: Path,
    output_style: Path | None = None,
) -> None:
    """Write the number of observations of each pixel, and the months with one.

    Args:
        output: cloud-optimised GeoTIFF on the product grid, one band for each of `COUNT_KINDS`
            (valid Sentinel-2, Sentinel-1 ascending, Sentinel-1 descending steps); then, where the
            months are known, one for each of `MONTH_BANDS`, in which bit n is 1 if the pixel has
            a valid step in month n of the tag `MONTHS`. uint16, uint32 for 16 months or more.
            Outside the region no data: the largest value of the type. Overviews hold values of
            single pixels.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to the GeoTIFF's tags.
        mask: the region's mask on its full grid (`roi.tif`).
        output_style: style of QGIS, `counts.qml`; optional.

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
        bands = [*COUNT_KINDS]
        if source.months:
            bands += MONTH_BANDS
            tags["MONTHS"] = " ".join(source.months)
        dtype, nodata = counts_type(source)
        pieces = _pieces(source, dtype, mask, nodata)
        write_cog(output, grid, dtype.name, bands, tags, pieces, nodata=nodata)
    if output_style is not None:
        write_text(output_style, _style())


def counts_type(source: RegionBlocks) -> tuple[np.dtype[Any], int]:
    """Return the data type of the raster, and its value outside the region."""
    dtype = source.array_dtype("counts")
    if source.months:
        dtype = source.array_dtype("months")
        if len(source.months) >= 8 * dtype.itemsize:  # all bits set is no data
            dtype = np.dtype(f"uint{16 * dtype.itemsize}")
    return dtype, int(np.iinfo(dtype).max)


def _pieces(
    source: RegionBlocks, dtype: np.dtype[Any], mask: Path, nodata: int
) -> Iterator[tuple[Window, NDArray[Any]]]:
    rate = source.grid.downsample_rate
    for block_id, inside, window in source.pieces():
        values = source.read(block_id, "counts", inside).astype(dtype, copy=False)
        if source.months:
            months = source.read(block_id, "months", inside).astype(dtype, copy=False)
            values = np.concatenate([values, months], axis=-1)
        full = Window(*(rate * n for n in (window.y0, window.x0)), *(
            rate * (n - 1) + 1 for n in window.shape
        ))  # fmt: skip
        outside = ~read_mask(mask, full)[0][::rate, ::rate]
        yield window, np.where(outside, dtype.type(nodata), np.moveaxis(values, -1, 0))


def _style() -> str:
    """Return a style of QGIS: classes of the first band, with a legend."""
    root = xml.Element("qgis", styleCategories="Symbology", version="3.22")
    pipe = xml.SubElement(root, "pipe")
    renderer = xml.SubElement(pipe, "rasterrenderer", type="singlebandpseudocolor", band="1",
                              opacity="1", alphaBand="-1", classificationMin="0",
                              classificationMax="100")  # fmt: skip
    shader = xml.SubElement(renderer, "rastershader")
    ramp = xml.SubElement(shader, "colorrampshader", colorRampType="DISCRETE",
                          classificationMode="1", clip="0", minimumValue="0",
                          maximumValue="100")  # fmt: skip
    for limit, colour, label in _CLASSES:
        value = "inf" if limit == float("inf") else str(limit)
        xml.SubElement(ramp, "item", value=value, color=colour, label=label, alpha="255")
    return "<!DOCTYPE qgis>\n" + xml.tostring(root, encoding="unicode") + "\n"
