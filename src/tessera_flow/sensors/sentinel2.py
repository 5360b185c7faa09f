"""Sentinel-2 L2A preprocessing: band order, SCL validity, baseline offset, daily mosaic.

This is the contract with the model: the published checkpoints were trained on data made
this way. Reference numbers are in `tests/golden/prep`.
"""

from __future__ import annotations

from collections.abc import Sequence
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

Preprocessing = Literal["corrected", "as_published"]

_STRIP = 32
"""Rows at a time: what stays in the processor's cache."""


def scl_is_valid(scl: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True where the scene classification allows a pixel's use.

    Args:
        scl: SCL codes, any shape; NaN (no data) is not valid.
    """
    valid: NDArray[np.bool_] = ~np.isin(scl, INVALID_SCL)
    if np.issubdtype(scl.dtype, np.floating):
        valid &= ~np.isnan(scl)
    return valid


def remove_offset(
    dn: NDArray[np.uint16], preprocessing: Preprocessing = "corrected"
) -> NDArray[np.uint16]:
    """Take the BOA offset of 1000 off digital numbers of baseline 04.00 and later.

    `corrected`: 0 (no data) stays 0, everything else is max(dn - 1000, 1), so that a dark pixel
    does not turn into no data. `as_published`: numbers below 1000 stay as they are, and 1000
    becomes 0, as the published pipeline has it.

    Args:
        dn: digital numbers, uint16, any shape. Not changed.
    """
    result: NDArray[np.uint16]
    if preprocessing == "as_published":
        result = np.where(dn >= BOA_OFFSET, dn - np.uint16(BOA_OFFSET), dn)
        return result
    result = np.maximum(dn, BOA_OFFSET + 1)
    result -= np.uint16(BOA_OFFSET)
    result *= dn > 0
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


class DayMosaic:
    """A day's image put together; every pixel takes all its bands from one item.

    A pixel comes from its selected item; a pixel that no item has valid keeps the values of
    the first item with data there (its mask stays 0). Items are added in their stated order,
    those that are not wanted left out.

    Args:
        selection: (H, W) from `select_first_valid`.
        inside: (H, W) True inside the region of interest.
    """

    def __init__(self, selection: NDArray[np.int16], inside: NDArray[np.bool_]) -> None:
        self._selection = selection
        self._unfilled = inside & (selection < 0)
        self._missing = bool(self._unfilled.any())
        self._supplying = frozenset(np.unique(selection).tolist())
        # Band by band, and in strips of rows: a fraction of the memory traffic of whole
        # images with the bands side by side.
        self._planes = [np.zeros(selection.shape, np.uint16) for _ in BANDS]

    def supplies(self, index: int) -> bool:
        """Whether a pixel is selected from item `index`."""
        return index in self._supplying

    def wants(self, index: int) -> bool:
        """Whether item `index` can give anything, after those added so far."""
        return self._missing or self.supplies(index)

    def add(
        self,
        index: int,
        planes: Sequence[NDArray[np.uint16]],
        offset: Preprocessing | None,
    ) -> None:
        """Take an item's pixels.

        Args:
            index: of the item in the day's order.
            planes: its bands in the order of `BANDS`, (H, W) uint16 each.
            offset: how the BOA offset is removed from them; None: there is none.
        """
        for top in range(0, len(self._selection), _STRIP):
            strip = slice(top, top + _STRIP)
            bands = [plane[strip] for plane in planes]
            if offset is not None:
                bands = [remove_offset(dn, offset) for dn in bands]
            take = self._selection[strip] == index
            unfilled = self._unfilled[strip]
            if unfilled.any():
                fallback = unfilled & (np.bitwise_or.reduce(bands) > 0)
                unfilled &= ~fallback  # in place
                take |= fallback
            if take.any():
                for mosaic, dn in zip(self._planes, bands, strict=True):
                    np.copyto(mosaic[strip], dn, where=take)
        self._missing = bool(self._unfilled.any())

    def image(self) -> NDArray[np.uint16]:
        """(H, W, 10); 0 outside the region and where no item has data."""
        result = np.empty((*self._selection.shape, len(BANDS)), np.uint16)
        for top in range(0, len(result), _STRIP):
            strip = slice(top, top + _STRIP)
            np.stack([plane[strip] for plane in self._planes], axis=-1, out=result[strip])
        return result
