"""Preprocess Sentinel-2 L2A: band order, SCL validity, baseline offset, daily mosaic.

The published checkpoints were trained on data from the same preprocessing. Reference numbers are
in `tests/golden/prep`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BANDS = ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12")
"""The ten bands in the order of the last axis of `bands` arrays (not wavelength order)."""

SCL = "SCL"
INVALID_SCL = (0, 1, 2, 3, 8, 9)
"""No data, saturated, dark, cloud shadow, cloud medium and high probability."""

THIN_CLOUDS = 10
"""SCL class of thin cirrus, which is valid."""

BOA_OFFSET = 1000
"""Added to digital numbers by ESA since processing baseline 04.00."""

Preprocessing = Literal["corrected", "as_published"]

_CLEAR_SCL = (4, 5, 6, 7, 11)
_FEWEST_PIXELS = 50
_DARK = 800
_MANY, _FEW = 0.01, 0.002
_FEW_BELOW_OFFSET = 0.01
_DARKEST = 0.02
_DARK_WITH_OFFSET = 1500
"""Rule of `offset_in_pixels`: shares of pixels below `_DARK`. To show that the offset is in the
pixels, at most 1 % may be below it, and the darkest 2 % of every band below
`_DARK_WITH_OFFSET`."""

_STRIP = 32
"""Number of rows processed at once, so that they fit the CPU cache."""


def scl_is_valid(scl: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return True for each pixel that is valid by its scene classification (SCL).

    Args:
        scl: SCL codes of any shape; NaN (no data) is not valid.

    Returns:
        Boolean array of the same shape.
    """
    valid: NDArray[np.bool_] = ~np.isin(scl, INVALID_SCL)
    if np.issubdtype(scl.dtype, np.floating):
        valid &= ~np.isnan(scl)
    return valid


def remove_offset(
    dn: NDArray[np.uint16], preprocessing: Preprocessing = "corrected"
) -> NDArray[np.uint16]:
    """Subtract the BOA offset of 1000 from digital numbers of baseline 04.00 and later.

    `corrected`: 0 (no data) remains 0, all other values become max(dn - 1000, 1), so that a dark
    pixel does not become no data. `as_published`: values below 1000 are unchanged and 1000
    becomes 0, as in the published pipeline.

    Args:
        dn: digital numbers, uint16, any shape. Not modified.
        preprocessing: `corrected` or `as_published`.

    Returns:
        uint16 array of the same shape.
    """
    result: NDArray[np.uint16]
    if preprocessing == "as_published":
        result = np.where(dn >= BOA_OFFSET, dn - np.uint16(BOA_OFFSET), dn)
        return result
    result = np.maximum(dn, BOA_OFFSET + 1)
    result -= np.uint16(BOA_OFFSET)
    result *= dn > 0
    return result


def offset_in_pixels(bands: Sequence[NDArray[Any]], scl: NDArray[Any]) -> bool | None:
    """Return whether digital numbers contain the BOA offset; None if they do not decide it.

    With the offset, practically no valid pixel of B02, B03 and B04 is below 1000, and land has
    dark pixels just above. Without it, many are far below. Bright scenes (snow, sand) do not
    decide it. Neither do scenes with more than a few pixels just below 1000: they are water with
    the offset (reflectances below 0), or haze without it.

    Args:
        bands: one or more of B02, B03 and B04, in one shape; 0 is no data.
        scl: SCL codes in the same shape; only classes 4, 5, 6, 7 and 11 count.
    """
    usable = np.isin(scl, _CLEAR_SCL)
    answers = []
    for band in bands:
        dn = band[usable & (band > 0)]
        if dn.size < _FEWEST_PIXELS:
            continue
        below = np.mean(dn < _DARK)
        if below >= _MANY:
            return False
        few = below < _FEW and np.mean(dn < BOA_OFFSET) <= _FEW_BELOW_OFFSET
        answers.append(bool(few and np.quantile(dn, _DARKEST) < _DARK_WITH_OFFSET))
    return True if answers and all(answers) else None


def select_first_valid(scl: NDArray[np.generic], inside: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Return the index of the item that supplies each pixel of a day.

    Args:
        scl: (N, H, W) SCL codes of the items of the day, in manifest order.
        inside: (H, W) bool, True inside the region.

    Returns:
        (H, W) int16: index of the first item with a valid SCL; -1 if no item is valid or the
        pixel is outside the region.
    """
    valid = scl_is_valid(scl) & inside
    if valid.shape[0] == 0:
        return np.full(valid.shape[1:], -1, np.int16)
    first: NDArray[np.int16] = valid.argmax(axis=0).astype(np.int16)
    first[~valid.any(axis=0)] = -1
    return first


class DayMosaic:
    """Mosaic of one day; all bands of a pixel come from the same item.

    A pixel has the values of its selected item. A pixel that is valid in no item has the values
    of the first item with data (its mask remains 0). Items must be added in manifest order; items
    for which `needs` is False may be skipped.

    Args:
        selection: (H, W) int16 from `select_first_valid`.
        inside: (H, W) bool, True inside the region.
    """

    def __init__(self, selection: NDArray[np.int16], inside: NDArray[np.bool_]) -> None:
        self._selection = selection
        self._unfilled = inside & (selection < 0)
        self._missing = bool(self._unfilled.any())
        self._supplying = frozenset(np.unique(selection).tolist())
        # Bands are separate and processed in strips of rows, which needs a fraction of the
        # memory traffic of interleaved full images.
        self._planes = [np.zeros(selection.shape, np.uint16) for _ in BANDS]

    def supplies(self, index: int) -> bool:
        """Return whether any pixel is selected from item `index`."""
        return index in self._supplying

    def needs(self, index: int) -> bool:
        """Return whether item `index` can supply a pixel, after the items added so far."""
        return self._missing or self.supplies(index)

    def add(
        self,
        index: int,
        planes: Sequence[NDArray[np.uint16]],
        offset: Preprocessing | Sequence[Preprocessing | None] | None,
    ) -> None:
        """Add the pixels of an item.

        Args:
            index: index of the item in the order of the day.
            planes: bands in the order of `BANDS`, (H, W) uint16 each.
            offset: how to remove the BOA offset, or how for each band; None if the pixels have
                no offset.
        """
        offsets = [offset] * len(planes) if offset is None or isinstance(offset, str) else offset
        for top in range(0, len(self._selection), _STRIP):
            strip = slice(top, top + _STRIP)
            bands = [
                plane[strip] if how is None else remove_offset(plane[strip], how)
                for plane, how in zip(planes, offsets, strict=True)
            ]
            use = self._selection[strip] == index
            unfilled = self._unfilled[strip]
            if unfilled.any():
                fallback = unfilled & (np.bitwise_or.reduce(bands) > 0)
                unfilled &= ~fallback  # in place
                use |= fallback
            if use.any():
                for mosaic, dn in zip(self._planes, bands, strict=True):
                    np.copyto(mosaic[strip], dn, where=use)
        self._missing = bool(self._unfilled.any())

    def image(self) -> NDArray[np.uint16]:
        """Return the mosaic, (H, W, 10) uint16; 0 outside the region and where no item has data."""
        result = np.empty((*self._selection.shape, len(BANDS)), np.uint16)
        for top in range(0, len(result), _STRIP):
            strip = slice(top, top + _STRIP)
            np.stack([plane[strip] for plane in self._planes], axis=-1, out=result[strip])
        return result
