"""Encode an array as a cloud-optimised GeoTIFF; the same array gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from ..atomic import atomic_output


def encode_cog(
    array: NDArray[Any],
    crs: str,
    transform: Affine,
    *,
    nodata: float | None = None,
    blocksize: int = 256,
    resampling: str = "average",
) -> bytes:
    """Return the bytes of a COG: tiled, deflate with a predictor, overviews down to one block.

    Args:
        array: (H, W) of any type that GeoTIFF supports.
        crs: such as `EPSG:32631`.
        transform: from pixel corners to coordinates.
        nodata: declared in the file; None: not declared.
        blocksize: edge of a block in pixels, a multiple of 16, at least 128 (GDAL's limit).
        resampling: of the overviews, by its GDAL name.
    """
    height, width = array.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="COG",
            width=width,
            height=height,
            count=1,
            dtype=array.dtype,
            crs=crs,
            transform=transform,
            nodata=nodata,
            compress="deflate",
            predictor="yes",
            blocksize=blocksize,
            overview_resampling=resampling,
            num_threads=1,
        ) as dataset:
            dataset.write(array, 1)
        return bytes(memory.getbuffer())


def write_if_different(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; a file that already has this content is not rewritten.

    Raises:
        OutputError: the file cannot be written.
    """
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)
