"""The layout of an `embeddings` block file. No PyTorch here: products and imports read it too."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from ..block_file import create_array

ORIGINS = ("none", "published", "computed")
"""Meaning of the values of the array `origin`, from 0."""
PUBLISHED, COMPUTED = 1, 2


def mask_dtype(months: int) -> np.dtype[Any]:
    """Return the data type of masks of up to 32 months."""
    return np.dtype("uint16" if months <= 16 else "uint32")


def create_outputs(
    target: zarr.Group,
    shape: tuple[int, int],
    patch_size: int,
    dim: int,
    dtype: str,
    counts: bool = True,
    months: int = 0,
    origin: bool = False,
) -> dict[str, zarr.Array[Any]]:
    """Create the arrays of an `embeddings` file, without any embedding.

    Args:
        target: the root group of the file.
        shape: (H, W) of the block in pixels.
        patch_size: edge of a chunk.
        dim: K, stored dimensions.
        dtype: `int8` or `float32`.
        counts: whether observation counts are known (not for published embeddings).
        months: months of the period that masks have bits for; 0 without masks.
        origin: whether some embeddings are published and others computed.

    Returns:
        `embeddings` (H, W, K); `counts` (H, W, 3) uint16 if `counts`; `months` (H, W, 3) uint16 or
        uint32 if `months`; for int8 `scales` (H, W) float32; `origin` (H, W) uint8 if `origin`,
        which is one of `ORIGINS`. Pixels without an embedding are code
        0 and scale NaN (float32: NaN).
    """
    # A chunk is a patch: a zip file cannot be rewritten in place, so each is written once.
    chunk = (patch_size, patch_size)
    nodata = 0 if dtype == "int8" else np.nan
    arrays = {
        "embeddings": create_array(
            target, "embeddings", (*shape, dim), (*chunk, dim), dtype, nodata
        ),
    }
    if counts:
        arrays["counts"] = create_array(target, "counts", (*shape, 3), (*chunk, 3), np.uint16)
    if months:
        arrays["months"] = create_array(
            target, "months", (*shape, 3), (*chunk, 3), mask_dtype(months)
        )
    if dtype == "int8":
        arrays["scales"] = create_array(target, "scales", shape, chunk, np.float32, np.nan)
    if origin:
        arrays["origin"] = create_array(target, "origin", shape, chunk, np.uint8)
    return arrays
