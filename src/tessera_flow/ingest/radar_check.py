"""Check that radar images can be linear power, and log their values that are none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ..errors import ReadError
from ..scenes.manifest import SourceItem
from ..sensors.sentinel1 import NEGATIVE_WARNING_SHARE, negative_values, not_power

log = logging.getLogger(__name__)


def check_power(item: SourceItem, keys: Sequence[str], images: Sequence[NDArray[Any]]) -> None:
    """Check that the images of an item can be linear power: other values would become no data.

    The number of negative values that do so (noise subtraction makes some) is logged, as a warning
    from `NEGATIVE_WARNING_SHARE` on.

    Raises:
        ReadError: they are negative, such as decibels.
    """
    for key, values in zip(keys, images, strict=True):
        if problem := not_power(values):
            raise ReadError(
                f"Cannot use asset {key} of item {item.id}: {problem}, but gamma0 in linear power "
                "is positive. It is probably in decibels, or its no-data value is not declared. "
                "Convert it (power = 10 ** (dB / 10)), or list the item in sentinel1.exclude."
            )
        count, present = negative_values(values)
        if count:
            log.log(
                logging.WARNING if count >= NEGATIVE_WARNING_SHARE * present else logging.INFO,
                "%d values (%.1f %%) of asset %s of item %s are negative power: no data",
                count, 100 * count / present, key, item.id,
            )  # fmt: skip
