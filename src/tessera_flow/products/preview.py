"""The preview: three principal components as red, green and blue, GeoTIFF and PNG."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window as RasterWindow

from ..atomic import atomic_output, output_error
from ..grid import RegionGrid, Window
from ..provenance import Provenance, product_crs
from .blocks import RegionBlocks
from .components import Components, fit_components, valid_pixels

PNG_EDGE = 2048
TILE = 512

# GDAL's cache is 5% of the machine's memory unless told otherwise; statistics files
# (.aux.xml) beside a product would not be part of it.
_GDAL = {"GDAL_CACHEMAX": 64 * 2**20, "GDAL_PAM_ENABLED": "NO"}
_BATCH_VALUES = 2**22  # float64 values in one projection: 32 MiB

logger = logging.getLogger(__name__)


def write_preview(
    output_tif: Path,
    output_png: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    stretch: float = 2.0,
) -> None:
    """Write the region's first three principal components as colours.

    Args:
        output_tif: cloud-optimised GeoTIFF on the product grid, uint8 red, green, blue,
            alpha (0 where there is no embedding), with overviews.
        output_png: the same, averaged down to at most 2048 px on its longer side.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: stated in the GeoTIFF's tags.
        stretch: per cent of the scores cut at both ends of each colour, over the region.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: a file cannot be written.
    """
    with ExitStack() as stack:
        source = stack.enter_context(RegionBlocks(grid, blocks, provenance))
        tif = stack.enter_context(atomic_output(output_tif))
        png = stack.enter_context(atomic_output(output_png))
        stack.enter_context(rasterio.Env(**_GDAL))
        components = fit_components(source, stretch)
        if components is None:
            logger.warning(
                "Region %s, period %s: no pixel has an embedding; the preview is transparent.",
                provenance.region,
                provenance.period,
            )
        # Named so that a later writer removes what a killed one left (see atomic_output).
        scratch = tif.with_name(tif.name.removesuffix(".part") + ".scratch.part")
        tiled, cog = scratch / "tiled.tif", scratch / "cog.tif"
        needed = 6 * source.shape[0] * source.shape[1]  # four bands and overviews, uncompressed
        scratch.mkdir()
        try:
            with _gdal_writes(output_tif, needed):
                sums = _paint(tiled, source, components, _tags(provenance, components, stretch))
                _read_back(tiled, sums)
                _copy_as_cog(tiled, cog)
                _read_back(cog, sums)
            with _gdal_writes(output_png, needed):
                _read_back(png, _write_png(tiled, png))
            cog.replace(tif)
        finally:
            shutil.rmtree(scratch)


@contextmanager
def _gdal_writes(path: Path, needed: int) -> Iterator[None]:
    """Say what GDAL's errors mean for the product `path`; GDAL keeps the system's own error
    number to itself, so a full disk is told by less than `needed` bytes left on it."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        full = shutil.disk_usage(path.parent).free < needed
        number, reason = (errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else (None, str(error))
        raise output_error(path, OSError(number, reason)) from error


def _read_back(path: Path, sums: NDArray[np.int64]) -> None:
    """Make sure that the file holds what was written: GDAL reports some failures to write,
    a full disk met when a file is closed among them, on standard error only.

    Raises:
        RasterioIOError: the sum of a band differs from `sums`, or the file cannot be read.
    """
    found = np.zeros(4, np.int64)
    with _open(path) as file:
        for y in range(0, file.height, TILE):
            strip = RasterWindow(0, y, file.width, min(TILE, file.height - y))
            found += _band_sums(file.read(window=strip))
    if not np.array_equal(found, sums):
        raise RasterioIOError("what was written differs when read back; is a quota used up?")


def _band_sums(picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    sums: NDArray[np.int64] = picture.sum(axis=(1, 2), dtype=np.int64)
    return sums


def _open(path: Path, *mode: str, **profile: Any) -> Any:
    """`rasterio.open` for files with no place for a georeference (PNG), too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, *mode, **profile)


def _tags(provenance: Provenance, components: Components | None, stretch: float) -> dict[str, str]:
    document = json.dumps(provenance.to_json(), sort_keys=True)
    shares = [] if components is None else [round(float(s), 6) for s in components.shares]
    return {
        "TIFFTAG_SOFTWARE": f"tessera-flow {provenance.software['tessera-flow']}",
        "TIFFTAG_IMAGEDESCRIPTION": "First three principal components of TESSERA embeddings, "
        f"{provenance.region}, {provenance.period}; alpha 0 = no embedding",
        "PCA_VARIANCE_SHARES": json.dumps(shares),
        "PCA_SAMPLE_PIXELS": str(0 if components is None else components.pixels),
        "PCA_STRETCH_PERCENT": str(float(stretch)),
        "PROVENANCE": document,
    }


def _paint(
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
            picture = _colour_piece(source, components, block_id, inside)
            if picture is not None:
                place = RasterWindow(window.x0, window.y0, window.width, window.height)
                target.write(picture, window=place)
                sums += _band_sums(picture)
    return sums


def _colour_piece(
    source: RegionBlocks, components: Components, block_id: str, inside: Window
) -> NDArray[np.uint8] | None:
    """(4, height, width) uint8 colours of one window, or None where nothing is valid."""
    scales = source.read(block_id, "scales", inside).ravel() if source.quantised else None
    if scales is not None and not valid_pixels(None, scales).any():
        return None
    values = source.read(block_id, "embeddings", inside).reshape(-1, source.dim)
    valid = np.flatnonzero(valid_pixels(values, scales))
    picture = np.zeros((4, len(values)), np.uint8)
    batch = max(1, _BATCH_VALUES // source.dim)
    for start in range(0, len(valid), batch):
        pixels = valid[start : start + batch]
        colours = components.colours(values[pixels], None if scales is None else scales[pixels])
        picture[:3, pixels] = colours.T
        picture[3, pixels] = 255
    return picture.reshape(4, *inside.shape)


def _copy_as_cog(source: Path, target: Path) -> None:
    rasterio.shutil.copy(
        source,
        target,
        driver="COG",
        compress="DEFLATE",
        predictor="YES",
        blocksize=TILE,
        overviews="IGNORE_EXISTING",
        overview_resampling="AVERAGE",
        bigtiff="IF_SAFER",
    )


def _write_png(source: Path, target: Path) -> NDArray[np.int64]:
    with rasterio.open(source) as full:
        step = -(-max(full.shape) // PNG_EDGE)
        height, width = -(-full.height // step), -(-full.width // step)
        picture = np.zeros((4, height, width), np.uint8)
        rows = max(1, 256 // step)
        for y in range(0, height, rows):
            strip = RasterWindow(0, y * step, full.width, min(rows * step, full.height - y * step))
            picture[:, y : y + rows] = shrink(full.read(window=strip), step)
    profile = {"height": height, "width": width, "count": 4, "dtype": "uint8"}
    with _open(target, "w", driver="PNG", **profile) as png:
        png.write(picture)
    return _band_sums(picture)


def shrink(picture: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Average RGBA pixels (4, h, w) over squares of `step`, opaque pixels only.

    Returns:
        (4, ceil(h / step), ceil(w / step)) uint8; opaque where any pixel was.
    """
    if step == 1:
        return picture
    _, h, w = picture.shape
    padded = np.pad(picture, ((0, 0), (0, -h % step), (0, -w % step)))
    cells = padded.reshape(4, padded.shape[1] // step, step, padded.shape[2] // step, step)
    sums = cells.sum(axis=(2, 4), dtype=np.int64)
    opaque = sums[3] // 255
    mean = np.where(opaque > 0, np.rint(sums / np.maximum(opaque, 1)), 0)
    mean[3] = np.where(opaque > 0, 255, 0)
    return mean.astype(np.uint8)
