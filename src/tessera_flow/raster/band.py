"""Choose the band of a raster that an asset stands for, and refuse rasters that are not understood.

A file that is read although it is something else (another band, reflectance instead of digital
numbers, a rotated grid) gives wrong numbers without an error.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from ..errors import ReadError
from ..sensors.sentinel1 import CHANNELS, not_linear_gamma0

MAX_BLOCK = 2**30
"""Largest block of a raster in bytes; a tile of Sentinel-2 in one block has 241 MB."""

_DIGITAL_NUMBER_TAGS = ((1.0, 0.0), (1e-4, 0.0), (1e-4, -0.1))
"""(scale, offset) that ESA's digital numbers can declare, to convert them to reflectance."""


def band_index(dataset: rasterio.DatasetReader, key: str, stated: int | None, label: str) -> int:
    """Return the band (from 1) of an asset.

    In a file of several bands it is that of `stated`, or the one whose description names the
    asset.

    Args:
        dataset: an open raster.
        key: key of the asset.
        stated: band that the item states, if it does.
        label: name of the asset, for messages.

    Raises:
        ReadError: it is unknown, contradicted or does not exist.
    """
    names = [_words(description) for description in dataset.descriptions]
    named = [band for band, words in enumerate(names, 1) if key.lower() in words]
    listed = f"{dataset.count} bands ({', '.join(d or '?' for d in dataset.descriptions)})"
    if dataset.count == 1 and stated in (None, 1):
        return 1
    if ColorInterp.alpha in dataset.colorinterp:
        raise ReadError(
            f"Cannot use {label}: its file has an alpha band, which may hide pixels. Write no data "
            "into the band itself (gdal_translate -b 1 -a_nodata 0) or remove the item."
        )
    if stated is not None:
        if stated > dataset.count:
            raise ReadError(
                f"Cannot use {label}: the item states band {stated}, but its file has {listed}. "
                "Correct `bands` of the asset or remove the item."
            )
        if named and stated not in named:
            raise ReadError(
                f"Cannot use {label}: the item states band {stated}, but the file names band "
                f"{named[0]} so among its {listed}. Correct `bands` of the asset, or the file."
            )
        return stated
    if len(named) != 1:
        raise ReadError(
            f"Cannot use {label}: its file has {listed}, and neither the item nor the file states "
            f"which of its bands is {key}. List all bands of the file in order in `bands` of the "
            "asset, or write one file per band (gdal_translate -b)."
        )
    return named[0]


def check_raster(dataset: rasterio.DatasetReader, key: str, band: int, label: str) -> None:
    """Check that a raster can be what the asset is.

    Raises:
        ReadError: it is rotated or has ground control points, declares another scale than digital
            numbers, or is radar in other units than linear gamma0 power.
    """
    check_blocks(dataset, label)
    transform = dataset.transform
    if transform.b or transform.d:
        raise ReadError(
            f"Cannot use {label}: its grid is rotated or sheared. Warp it to a north-up grid "
            "(gdalwarp) or remove the item."
        )
    if transform.is_identity and (dataset.gcps[0] or dataset.rpcs):
        raise ReadError(
            f"Cannot use {label}: it is located by ground control points instead of a grid. Warp "
            "it (gdalwarp) or remove the item."
        )
    if not (transform.a and transform.e):
        raise ReadError(
            f"Cannot use {label}: its georeferencing is invalid (the size of a pixel is 0). "
            "Correct it or remove the item."
        )
    scale, offset = dataset.scales[band - 1], dataset.offsets[band - 1]
    is_radar = key.lower() in CHANNELS
    tags = _DIGITAL_NUMBER_TAGS if not is_radar else _DIGITAL_NUMBER_TAGS[:1]
    integers = np.issubdtype(np.dtype(dataset.dtypes[band - 1]), np.integer)
    if not any(np.allclose((scale, offset), tag, atol=1e-9) for tag in tags) or (
        (scale, offset) != (1.0, 0.0) and not integers
    ):
        raise ReadError(
            f"Cannot use {label}: its values are declared as scaled (scale {scale:g}, offset "
            f"{offset:g}), but the "
            f"{'linear power itself' if is_radar else 'digital numbers of ESA'} is expected. "
            "Convert it, or use the original product."
        )
    if is_radar:
        texts = [dataset.descriptions[band - 1] or "", str(dataset.units[band - 1] or "")]
        problem = next((found for text in texts if (found := not_linear_gamma0(text))), None)
        if problem:
            raise ReadError(
                f"Cannot use {label}: its file says {problem}, but gamma0 in linear power is "
                "expected. Convert it or remove the item."
            )


def check_blocks(dataset: rasterio.DatasetReader, label: str) -> None:
    """Check that a block of a raster, which GDAL decodes as a whole, is not too large.

    Raises:
        ReadError: it is.
    """
    together = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL"
    bands = dataset.count if together else 1
    pairs = zip(dataset.block_shapes, dataset.dtypes, strict=True)
    size = max(h * w * np.dtype(dtype).itemsize * bands for (h, w), dtype in pairs)
    if size > MAX_BLOCK:
        raise ReadError(
            f"Cannot use {label}: its blocks have {size / 1e9:.1f} GB each, more than the limit of "
            f"{MAX_BLOCK / 1e9:.1f} GB. Write it with small blocks (gdal_translate -co TILED=YES)."
        )


def check_values(dtype: Any, target: np.dtype[Any], label: str) -> None:
    """Check that the values of a band can be digital numbers.

    Raises:
        ReadError: they have 8 bits, which ESA's digital numbers do not fit.
    """
    if target == np.uint16 and np.dtype(dtype).itemsize == 1:
        raise ReadError(
            f"Cannot use {label}: its values have 8 bits ({dtype}), so they are not digital "
            "numbers of ESA, which reach above 10000. Use the original product."
        )


def _words(description: str | None) -> list[str]:
    return re.split(r"[^a-z0-9]+", (description or "").lower())
