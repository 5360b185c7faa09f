"""Write cloud-optimised GeoTIFFs with GDAL in constant memory, and read them back.

GDAL's COG driver only copies, so a product is first written as a tiled file in a scratch folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window as RasterWindow

from ..atomic import atomic_output, output_error
from ..region.grid import RegionGrid, Window
from .provenance import product_crs

TILE = 512

# GDAL's cache is 5% of the machine's memory by default. Statistics files (.aux.xml) beside a
# product would not be part of it.
GDAL_OPTIONS = {"GDAL_CACHEMAX": 64 * 2**20, "GDAL_PAM_ENABLED": "NO"}


def write_cog(
    output: Path,
    grid: RegionGrid,
    dtype: str,
    bands: Sequence[str],
    tags: Mapping[str, str],
    pieces: Iterable[tuple[Window, NDArray[Any]]],
    resampling: str = "NEAREST",
) -> None:
    """Write integer bands on the region's product grid; pixels that no piece covers are 0.

    Args:
        output: the GeoTIFF to make.
        grid: the region's grid.
        dtype: an integer type.
        bands: description of each band.
        tags: of the file.
        pieces: (window of the product grid, (bands, height, width) values); none overlap.
        resampling: of the overviews, by its GDAL name.

    Raises:
        OutputError: the file cannot be written.
    """
    height, width = (int(n) for n in grid.product_geobox.shape)
    needed = 2 * len(bands) * np.dtype(dtype).itemsize * height * width
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_output(output))
        stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
        scratch = stack.enter_context(scratch_folder(temporary))
        stack.enter_context(gdal_writes(output, needed))
        tiled, cog = scratch / "tiled.tif", scratch / "cog.tif"
        sums = np.zeros(len(bands), np.int64)
        with rasterio.open(
            tiled,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=len(bands),
            dtype=dtype,
            crs=product_crs(grid).to_wkt(),
            transform=grid.product_geobox.affine,
            tiled=True,
            blockxsize=TILE,
            blockysize=TILE,
            compress="DEFLATE",
            zlevel=1,
            sparse_ok=True,
            bigtiff="IF_SAFER",
        ) as target:
            target.update_tags(**tags)
            target.descriptions = tuple(bands)
            for window, values in pieces:
                raster_window = RasterWindow(window.x0, window.y0, window.width, window.height)
                target.write(values, window=raster_window)
                sums += band_sums(values)
        read_back(tiled, sums)
        copy_as_cog(tiled, cog, resampling)
        read_back(cog, sums)
        cog.replace(temporary)


@contextmanager
def scratch_folder(temporary: Path) -> Iterator[Path]:
    """Make a folder beside a temporary path of `atomic_output`, removed at the end."""
    # Named so that a later writer removes it if this one is killed (see atomic_output).
    scratch = temporary.with_name(temporary.name.removesuffix(".part") + ".scratch.part")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


@contextmanager
def gdal_writes(path: Path, needed: int) -> Iterator[None]:
    """Turn GDAL's errors into an OutputError of the product `path`.

    GDAL does not pass on the error number of the system, so a disk with less than `needed`
    bytes free is taken to be full.
    """
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        full = shutil.disk_usage(path.parent).free < needed
        number, reason = (errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else (None, str(error))
        raise output_error(path, OSError(number, reason)) from error


def read_back(path: Path, sums: NDArray[np.int64]) -> None:
    """Compare a file with the data that were written to it.

    GDAL reports some write errors, such as a full disk when a file is closed, on standard error
    only.

    Raises:
        RasterioIOError: the sum of a band differs from `sums`, or the file cannot be read.
    """
    result = np.zeros(len(sums), np.int64)
    with open_raster(path) as file:
        for y in range(0, file.height, TILE):
            strip = RasterWindow(0, y, file.width, min(TILE, file.height - y))
            result += band_sums(file.read(window=strip))
    if not np.array_equal(result, sums):
        raise RasterioIOError("the file differs from the data written to it; is a quota used up?")


def band_sums(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the (bands,) sums of (bands, height, width) integers."""
    sums: NDArray[np.int64] = values.sum(axis=(1, 2), dtype=np.int64)
    return sums


def open_raster(path: Path, *mode: str, **profile: Any) -> Any:
    """Open a raster without a warning about formats that hold no georeference (PNG)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, *mode, **profile)


def copy_as_cog(source: Path, target: Path, resampling: str) -> None:
    """Copy a raster as a cloud-optimised GeoTIFF with overviews made by `resampling`."""
    rasterio.shutil.copy(
        source,
        target,
        driver="COG",
        compress="DEFLATE",
        predictor="YES",
        blocksize=TILE,
        overviews="IGNORE_EXISTING",
        overview_resampling=resampling,
        bigtiff="IF_SAFER",
    )
