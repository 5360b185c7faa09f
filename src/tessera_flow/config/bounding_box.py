"""Read bounding boxes: west, south, east, north in degrees (WGS 84)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .messages import expected

FORM = "a box of four numbers, west, south, east, north in degrees, such as [5.1, 52.0, 5.3, 52.1]"


def bounding_box(numbers: Sequence[Any]) -> list[float]:
    """Return a box as four floats.

    Raises:
        PydanticCustomError: these are not four numbers in degrees, in this order; the text
            completes `<key> is <value>, but must be`.
    """
    plain = [n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(plain) != 4 or len(numbers) != 4 or not all(map(math.isfinite, plain)):
        raise expected(FORM)
    west, south, east, north = box = [float(n) for n in plain]
    if max(map(abs, box)) > 360:
        raise expected(f"{FORM}: these numbers are not degrees; reproject them, or use a file")
    if max(abs(south), abs(north)) > 90 and max(abs(west), abs(east)) <= 90:
        raise expected(
            f"{FORM}: latitudes end at 90, so longitude and latitude seem swapped{_meant(box)}"
        )
    if max(abs(south), abs(north)) > 90:
        raise expected(f"{FORM}: latitudes end at 90")
    if max(abs(west), abs(east)) > 180:
        raise expected(f"{FORM}: longitudes are between -180 and 180")
    if south >= north:
        raise expected(f"{FORM}: south must be less than north{_meant(box)}")
    if west == east:
        raise expected(f"{FORM}: west must be less than east")
    if west > east:
        raise expected(
            f"{FORM}: west must be less than east; a box across 180 degrees must be divided there "
            "into two regions"
        )
    return box


def _meant(box: Sequence[float]) -> str:
    """Return a hint with the smallest box that has these numbers in another order: the corners
    the other way, latitudes first, or the longitudes before the latitudes."""
    a, b, c, d = box
    flipped = (min(a, c), min(b, d), max(a, c), max(b, d))
    orders = (flipped, (b, a, d, c), (a, c, b, d), (c, a, d, b))
    valid = [
        (west, south, east, north)
        for west, south, east, north in orders
        if -180 <= west < east <= 180 and -90 <= south < north <= 90
    ]
    if not valid:
        return ""
    meant = min(valid, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return f"; perhaps {', '.join(f'{number:g}' for number in meant)} is meant"
