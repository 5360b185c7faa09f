"""Write the preview: three principal components as red, green and blue, GeoTIFF and PNG."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterWindow

from ...atomic import atomic_output
from ...region.grid import RegionGrid, Window
from ..blocks import RegionBlocks
from ..components import Components, fit_components, valid_pixels
from ..provenance import Provenance, product_crs
from .writer import (
    GDAL_OPTIONS,
    TILE,
    band_sums,
    copy_as_cog,
    gdal_writes,
    open_raster,
    read_back,
    scratch_folder,
)

PNG_EDGE = 2048

logger = logging.getLogger(__name__)


def write_preview(
    output_tif: Path,
    output_png: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    stretch: float = 2.0,
    reference: tuple[str, Mapping[str, Path]] | None = None,
) -> None:
    """Write the region's first three principal components as colours.

    Args:
        output_tif: cloud-optimised GeoTIFF on the product grid, uint8 red, green, blue,
            alpha (0 where there is no embedding), with overviews.
        output_png: the same, reduced by averaging to at most 2048 px on its longer side.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to the GeoTIFF's tags.
        stretch: per cent of the scores cut at both ends of each colour, over the region.
        reference: name and embeddings files of the period to which the components are fitted, so
            that the colours of all periods of a region can be compared; None for `blocks`. They
            are fitted to `blocks` as well if the other period has no embedding.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: a file cannot be written.
    """
    with ExitStack() as stack:
        source = stack.enter_context(RegionBlocks(grid, blocks, provenance))
        tif = stack.enter_context(atomic_output(output_tif))
        png = stack.enter_context(atomic_output(output_png))
        stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
        components, fitted = _fit(source, provenance, stretch, reference)
        if components is None:
            logger.warning(
                "Region %s, period %s: no pixel has an embedding; the preview is transparent.",
                provenance.region,
                provenance.period,
            )
        scratch = stack.enter_context(scratch_folder(tif))
        tiled, cog = scratch / "tiled.tif", scratch / "cog.tif"
        needed = 6 * source.shape[0] * source.shape[1]  # four bands and overviews, uncompressed
        with gdal_writes(output_tif, needed):
            sums = _render(
                tiled, source, components, _tags(provenance, components, stretch, fitted)
            )
            read_back(tiled, sums)
            copy_as_cog(tiled, cog, "AVERAGE")
            read_back(cog, sums)
        with gdal_writes(output_png, needed):
            read_back(png, _write_png(tiled, png))
        cog.replace(tif)


def _fit(
    source: RegionBlocks,
    provenance: Provenance,
    stretch: float,
    reference: tuple[str, Mapping[str, Path]] | None,
) -> tuple[Components | None, str]:
    """Return the components of the reference period, or those of `source`; and the name of the
    period to which they are fitted."""
    if reference is not None:
        name, blocks = reference
        with RegionBlocks(source.grid, blocks, provenance, values_only=True) as other:
            components = fit_components(other, stretch)
        if components is not None:
            return components, name
        logger.warning(
            "Period %s of region %s has no embedding: the colours of %s are fitted to it alone and "
            "cannot be compared with those of other periods.",
            name,
            provenance.region,
            provenance.period,
        )
    return fit_components(source, stretch), provenance.period


def _tags(
    provenance: Provenance, components: Components | None, stretch: float, fitted: str
) -> dict[str, str]:
    shares = [] if components is None else [round(float(s), 6) for s in components.shares]
    return {
        **provenance.tags(),
        "TIFFTAG_IMAGEDESCRIPTION": "First three principal components of TESSERA embeddings, "
        f"{provenance.region}, {provenance.period}; alpha 0 = no embedding",
        "PCA_VARIANCE_SHARES": json.dumps(shares),
        "PCA_SAMPLE_PIXELS": str(0 if components is None else components.pixels),
        "PCA_PERIOD": fitted,
        "PCA_STRETCH_PERCENT": str(float(stretch)),
    }


def _render(
    path: Path, source: RegionBlocks, components: Components | None, tags: dict[str, str]
) -> NDArray[np.int64]:
    """Write the colours into a plain tiled file; tiles never written are transparent.

    Returns:
        (4,) the sum of each band.
    """
    sums = np.zeros(4, np.int64)
    geobox = source.grid.product_geobox
    height, width = source.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=4,
        dtype="uint8",
        crs=product_crs(source.grid).to_wkt(),
        transform=geobox.affine,
        tiled=True,
        blockxsize=TILE,
        blockysize=TILE,
        photometric="RGB",
        alpha="YES",
        sparse_ok=True,
        bigtiff="IF_SAFER",
    ) as target:
        target.colorinterp = [
            ColorInterp.red,
            ColorInterp.green,
            ColorInterp.blue,
            ColorInterp.alpha,
        ]
        target.update_tags(**tags)
        for block_id, inside, window in source.pieces():
            if components is None:
                break
            image = _colour_piece(source, components, block_id, inside)
            if image is not None:
                raster_window = RasterWindow(window.x0, window.y0, window.width, window.height)
                target.write(image, window=raster_window)
                sums += band_sums(image)
    return sums


def _colour_piece(
    source: RegionBlocks, components: Components, block_id: str, inside: Window
) -> NDArray[np.uint8] | None:
    """Return the (4, height, width) uint8 colours of one window, or None if no pixel is valid."""
    scales = source.read(block_id, "scales", inside) if source.quantised else None
    if scales is not None and not valid_pixels(None, scales).any():
        return None
    return components.image(source.read(block_id, "embeddings", inside), scales)


def png_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of the PNG of a region of this shape, in pixels."""
    step = _png_step(shape)
    return -(-shape[0] // step), -(-shape[1] // step)


def _png_step(shape: tuple[int, int]) -> int:
    return -(-max(shape) // PNG_EDGE)


def _write_png(source: Path, target: Path) -> NDArray[np.int64]:
    with rasterio.open(source) as full:
        step = _png_step(full.shape)
        height, width = png_shape(full.shape)
        image = np.zeros((4, height, width), np.uint8)
        rows = max(1, 256 // step)
        for y in range(0, height, rows):
            strip = RasterWindow(0, y * step, full.width, min(rows * step, full.height - y * step))
            image[:, y : y + rows] = shrink(full.read(window=strip), step)
    profile = {"height": height, "width": width, "count": 4, "dtype": "uint8"}
    with open_raster(target, "w", driver="PNG", **profile) as png:
        png.write(image)
    return band_sums(image)


def shrink(image: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Average RGBA pixels (4, h, w) over squares of `step`, opaque pixels only.

    Returns:
        (4, ceil(h / step), ceil(w / step)) uint8; opaque if any of the pixels was.
    """
    if step == 1:
        return image
    _, h, w = image.shape
    padded = np.pad(image, ((0, 0), (0, -h % step), (0, -w % step)))
    cells = padded.reshape(4, padded.shape[1] // step, step, padded.shape[2] // step, step)
    sums = cells.sum(axis=(2, 4), dtype=np.int64)
    opaque = sums[3] // 255
    mean = np.where(opaque > 0, np.rint(sums / np.maximum(opaque, 1)), 0)
    mean[3] = np.where(opaque > 0, 255, 0)
    return mean.astype(np.uint8)
