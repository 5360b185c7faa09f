"""Write cloud-optimised GeoTIFFs with GDAL in constant memory, and read them back.

GDAL's COG driver only copies, so a product is first written as a tiled file in a scratch folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window as RasterWindow

from ...atomic import atomic_output, output_error
from ...region.grid import RegionGrid, Window
from ..provenance import product_crs

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
    nodata: int | None = None,
) -> None:
    """Write integer bands on the region's product grid.

    Args:
        output: the GeoTIFF to make.
        grid: the region's grid.
        dtype: an integer type.
        bands: description of each band.
        tags: of the file.
        pieces: (window of the product grid, (bands, height, width) values); none overlap.
        resampling: of the overviews, by its GDAL name.
        nodata: value of pixels that no piece covers, stated as no data; None: 0, and no such
            statement.

    Raises:
        OutputError: the file cannot be written.
    """
    with cog_writer(output, Placement.of(grid), dtype, bands, tags, resampling, nodata) as write:
        for window, values in pieces:
            write(window, values)


@dataclass(frozen=True)
class Placement:
    """Where a raster is: (height, width), WKT of its CRS, and transform."""

    shape: tuple[int, int]
    crs: str
    transform: Affine

    @classmethod
    def of(cls, grid: RegionGrid) -> Placement:
        """Return the placement of the region's product grid."""
        shape = (int(grid.product_geobox.shape[0]), int(grid.product_geobox.shape[1]))
        return cls(shape, product_crs(grid).to_wkt(), grid.product_geobox.affine)


@contextmanager
def cog_writer(
    output: Path,
    place: Placement,
    dtype: str,
    bands: Sequence[str],
    tags: Mapping[str, str],
    resampling: str = "NEAREST",
    nodata: float | None = None,
    colours: Mapping[int, tuple[int, int, int, int]] | None = None,
) -> Iterator[Callable[[Window, NDArray[Any]], None]]:
    """Yield a function that writes (bands, height, width) values into a window.

    Args:
        output, dtype, bands, tags, resampling: as for `write_cog`; `dtype` may be float32 with the
            nodata NaN.
        place: size and position.
        nodata: value of pixels without data, also of those that are not written.
        colours: (red, green, blue, alpha) of each value of a single uint8 band.

    Raises:
        OutputError: the file cannot be written.
    """
    height, width = place.shape
    needed = 2 * len(bands) * np.dtype(dtype).itemsize * height * width
    sums = np.zeros(len(bands), np.int64)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_output(output))
        stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
        scratch = stack.enter_context(scratch_folder(temporary))
        tiled, cog = scratch / "tiled.tif", scratch / "cog.tif"
        with gdal_writes(output, needed):
            target = rasterio.open(
                tiled,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=len(bands),
                dtype=dtype,
                nodata=nodata,
                crs=place.crs,
                transform=place.transform,
                tiled=True,
                blockxsize=TILE,
                blockysize=TILE,
                compress="DEFLATE",
                zlevel=1,
                sparse_ok=True,
                bigtiff="IF_SAFER",
            )

        def write(window: Window, values: NDArray[Any]) -> None:
            place = RasterWindow(window.x0, window.y0, window.width, window.height)
            with gdal_writes(output, needed):
                target.write(values, window=place)
            sums[:] += band_sums(values, nodata)

        try:
            target.update_tags(**tags)
            target.descriptions = tuple(bands)
            if colours is not None:
                target.write_colormap(1, dict(colours))
            yield write
        finally:
            with gdal_writes(output, needed):
                target.close()
        with gdal_writes(output, needed):
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
            result += band_sums(file.read(window=strip), file.nodata)
    if not np.array_equal(result, sums):
        raise RasterioIOError("the file differs from the data written to it; is a quota used up?")


def band_sums(values: NDArray[Any], nodata: float | None = None) -> NDArray[np.int64]:
    """Return the (bands,) sums of (bands, height, width) integers, or of the bits of floats;
    without pixels of the value nodata or NaN."""
    if values.dtype.kind == "f":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        values = np.where(np.isfinite(values), bits, np.uint32(0))
    elif nodata:
        values = np.where(values == nodata, 0, values)
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
