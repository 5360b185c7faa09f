"""Find where the raster of a STAC item is, from metadata that can contradict each other."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from odc.geo.geobox import GeoBox

from .area import NOWHERE, bounds_of_degrees, transformer

Box = tuple[float, float, float, float]
"""(left, bottom, right, top)."""

AGREEMENT = 0.25
"""Two boxes agree if they share this part of the smaller one. The outline of a scene at the edge of
a swath is a small part of its raster; those of another place share nothing."""


def raster_extent(
    document: Mapping[str, Any], assets: Iterable[Mapping[str, Any]], geobox: GeoBox
) -> Box | None:
    """Return the bounds of the raster of an item in the CRS of `geobox`, with a margin.

    They are exact from the projection extension. Without it, the footprint in degrees is used,
    which can be simplified. `proj:transform` in GDAL's order (origin first) is recognised. If the
    projection extension and the bounding box contradict each other, both are included, so that the
    item is not lost; the raster's own georeferencing is used to read it.

    Args:
        document: STAC item.
        assets: the assets that are used.
        geobox: grid of the region.

    Returns:
        None if the extent is unknown.
    """
    target = str(geobox.crs)
    footprint = bounds_of_degrees(document, geobox)
    outline = None if footprint == NOWHERE else footprint
    boxes = []
    for native in _native_extents(document["properties"], assets):
        options = [_projected(box, code, target) for code, box in native]
        known = [box for box in options if box is not None]
        agreeing = [box for box in known if outline is None or _agree(box, outline)]
        boxes += agreeing[:1] or known[:1]
    contradicted = outline is not None and not all(_agree(box, outline) for box in boxes)
    if outline is not None and (contradicted or not boxes):
        boxes.append(outline)
    if not boxes:
        return footprint
    margin = 2 * abs(geobox.affine.a) + 60.0
    left, bottom, right, top = _union(boxes)
    return (left - margin, bottom - margin, right + margin, top + margin)


def _native_extents(
    properties: Mapping[str, Any], assets: Iterable[Mapping[str, Any]]
) -> Iterator[list[tuple[str, Box]]]:
    """Yield what the projection extension can mean: (CRS, box), the more likely first. Equal
    statements of several assets are given once."""
    seen: list[list[tuple[str, Box]]] = []
    for holder in (*assets, properties):
        code = next(
            (value for source in (holder, properties) for key in ("proj:code", "proj:epsg")
             if (value := source.get(key))), None,
        )  # fmt: skip
        if not code:
            continue
        crs = _crs(code)
        shape = holder.get("proj:shape") or properties.get("proj:shape")
        transform = holder.get("proj:transform")
        boxes = list(_by_transform(transform, shape)) if transform and shape else []
        box = holder.get("proj:bbox")
        if box and not boxes:
            middle = len(box) // 2
            boxes = [(box[0], box[1], box[middle], box[middle + 1])]
        options = [(crs, box) for box in boxes]
        if options and options not in seen:
            seen.append(options)
            yield options


def _crs(code: Any) -> str:
    """Return `EPSG:<n>` of a number; tables with missing values have it as float or as text."""
    text = str(code).strip()
    number = re.fullmatch(r"(\d+)(\.0+)?", text)
    return f"EPSG:{number[1]}" if number else text


def _by_transform(transform: Sequence[float], shape: Sequence[int]) -> Iterator[Box]:
    """Yield the extents of a raster by its transform, in the likelier order of numbers first."""
    if len(transform) not in (6, 9):
        return
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    orders = [(a, b, c, d, e, f)]
    if len(transform) == 6:
        orders.append((b, c, a, e, f, d))
    height, width = shape[-2:]
    # Of a raster that is not rotated, exactly one of the orders has these zeros.
    orders.sort(key=lambda order: bool(order[1] or order[3]) or not (order[0] and order[4]))
    for a, b, c, d, e, f in orders:
        if not (a * e - b * d):
            continue
        corners = [(0, 0), (width, 0), (0, height), (width, height)]
        xs = [a * x + b * y + c for x, y in corners]
        ys = [d * x + e * y + f for x, y in corners]
        yield min(xs), min(ys), max(xs), max(ys)


def _projected(box: Box, source: str, target: str) -> Box | None:
    """Return a box in another CRS; None where the transformation is undefined."""
    if source.upper() != target.upper():
        box = transformer(source, target).transform_bounds(*box, densify_pts=21)
    if not all(math.isfinite(value) for value in box):
        return None
    left, bottom, right, top = box
    return left, bottom, right, top


def _agree(first: Box, second: Box) -> bool:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width > 0 and height > 0 and width * height >= AGREEMENT * smaller


def _union(boxes: Sequence[Box]) -> Box:
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return min(lefts), min(bottoms), max(rights), max(tops)
