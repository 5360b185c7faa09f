"""Sentinel-2 L2A arithmetic: band order, SCL validity, baseline offset, daily mosaic.

This is the contract with the model: the published checkpoints were trained on data made
this way. Reference numbers are in `tests/golden/prep`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

BANDS = ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12")
"""The ten bands in the order of the last axis of `bands` arrays (not wavelength order)."""

SCL = "SCL"
INVALID_SCL = (0, 1, 2, 3, 8, 9)
"""No data, saturated, dark, cloud shadow, cloud medium and high probability."""

BOA_OFFSET = 1000
"""Added to digital numbers by ESA since processing baseline 04.00."""

Arithmetic = Literal["exact", "reference"]


def scl_is_valid(scl: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True where the scene classification allows a pixel's use.

    Args:
        scl: SCL codes, any shape; NaN (no data) is not valid.
    """
    valid: NDArray[np.bool_] = ~np.isin(scl, INVALID_SCL)
    if np.issubdtype(scl.dtype, np.floating):
        valid &= ~np.isnan(scl)
    return valid


def remove_offset(dn: NDArray[np.uint16], arithmetic: Arithmetic = "exact") -> NDArray[np.uint16]:
    """Take the BOA offset of 1000 off digital numbers of baseline 04.00 and later.

    `exact`: 0 (no data) stays 0, everything else is max(dn - 1000, 1), so that a dark pixel
    does not turn into no data. `reference`: numbers below 1000 stay as they are, and 1000
    becomes 0, as the published pipeline has it.

    Args:
        dn: digital numbers, uint16, any shape. Not changed.
    """
    if arithmetic == "reference":
        lowered, where = dn - np.uint16(BOA_OFFSET), dn >= BOA_OFFSET
    else:
        lowered, where = np.maximum(dn, BOA_OFFSET + 1) - np.uint16(BOA_OFFSET), dn > 0
    result: NDArray[np.uint16] = np.where(where, lowered, dn)
    return result


def select_first_valid(scl: NDArray[np.generic], inside: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Index of the item that supplies each pixel of a day.

    Args:
        scl: (N, H, W) SCL codes of the day's items, in their stated order.
        inside: (H, W) True inside the region of interest.

    Returns:
        (H, W) int16: the first item whose SCL is valid there; -1 where none is, and outside
        the region.
    """
    valid = scl_is_valid(scl) & inside
    if valid.shape[0] == 0:
        return np.full(valid.shape[1:], -1, np.int16)
    first: NDArray[np.int16] = valid.argmax(axis=0).astype(np.int16)
    first[~valid.any(axis=0)] = -1
    return first


def mosaic_day(
    selection: NDArray[np.int16],
    bands_of: Sequence[Callable[[], NDArray[np.uint16]]],
    inside: NDArray[np.bool_],
) -> NDArray[np.uint16]:
    """Put a day's image together; every pixel takes all its bands from one item.

    A pixel comes from its selected item; a pixel that no item has valid keeps the values of
    the first item with data there (its mask stays 0). Items that supply no pixel are not
    read.

    Args:
        selection: (H, W) from `select_first_valid`.
        bands_of: for each item in the stated order, a function that reads its bands,
            (H, W, 10) uint16, offset removed.
        inside: (H, W) True inside the region of interest.

    Returns:
        (H, W, 10) uint16; 0 outside the region and where no item has data.
    """
    mosaic = np.zeros((*selection.shape, len(BANDS)), np.uint16)
    unfilled = inside & (selection < 0)
    for index, read_bands in enumerate(bands_of):
        chosen = inside & (selection == index)
        if not chosen.any() and not unfilled.any():
            continue
        bands = read_bands()
        fallback = unfilled & bands.any(axis=-1)
        unfilled &= ~fallback
        np.copyto(mosaic, bands, where=(chosen | fallback)[..., None])
    return mosaic
