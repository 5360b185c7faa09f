"""Tell copies of an acquisition from parts of a tile.

Two Sentinel-2 products of one datatake and one MGRS tile are copies (the same acquisition,
processed again) or parts (ESA cuts a tile into two products where the datatake changes ground
station). Of copies one is used; all parts are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from ..archives.provider import Provider
from ..archives.sentinel2_names import sensing_start
from .area import transformer
from .manifest import SourceItem

FOOTPRINT_TOLERANCE = 60.0
"""Largest distance in m between the outlines of copies: a few pixels of 20 m."""

_FILLED = 0.97
"""Share of the raster from which on an outline counts as that of the raster."""

_FULL = 1.0
"""Largest share of no data, in percent, of a product without a missing part."""

_DIFFERENT_PIXELS = 0.01
"""Largest share of pixels with data in only one of two copies."""

_FOR_SELECTION = ("footprint", "unused_assets")

Footprint = Mapping[str, Any]


class Sample(Protocol):
    """Reads assets at a reduced resolution."""

    def __call__(self, item: SourceItem, keys: Iterable[str]) -> list[NDArray[Any]] | None:
        """Return arrays of one shape; None if an asset is missing or corrupt."""


def footprint(
    document: Mapping[str, Any], crs: str, extent: tuple[float, float, float, float] | None
) -> dict[str, Any] | None:
    """Return the outline of an item, to compare it with others.

    Args:
        document: STAC item.
        crs: projected CRS of the region.
        extent: bounds of the raster in this CRS.

    Returns:
        `outline`: WKT in `crs`; `filled`: whether it is the outline of the raster, so that it does
        not show where the raster has data. None without a usable geometry.
    """
    try:
        geometry = shapely.geometry.shape(document["geometry"])
        to_grid = transformer("EPSG:4326", crs)
        outline = shapely.transform(
            geometry, lambda xy: np.column_stack(to_grid.transform(xy[:, 0], xy[:, 1]))
        )
        outline = shapely.make_valid(outline)
    except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError):
        return None
    if outline.is_empty or not np.isfinite(outline.bounds).all():
        return None
    box = shapely.box(*(extent or outline.bounds))
    # The extent has a margin, which is small against a scene but not against a small raster.
    filled = shapely.hausdorff_distance(outline.envelope, box) < 2 * FOOTPRINT_TOLERANCE + 40
    filled = bool(filled and outline.area >= _FILLED * outline.envelope.area)
    return {"outline": shapely.to_wkt(outline, rounding_precision=0), "filled": filled}


def are_copies(first: SourceItem, second: SourceItem) -> bool | None:
    """Return whether two items of one datatake and tile are copies; None if it is unknown."""
    starts = sensing_start(first.stac), sensing_start(second.stac)
    if None not in starts:
        return starts[0] == starts[1]
    outlines = [item.stac.get("footprint") for item in (first, second)]
    if None in outlines:
        return None
    filled = [bool(outline["filled"]) for outline in outlines if outline]
    if filled[0] != filled[1]:
        return None
    a, b = (shapely.from_wkt(outline["outline"]) for outline in outlines if outline)
    if shapely.hausdorff_distance(a, b) > FOOTPRINT_TOLERANCE:
        return False
    if not filled[0]:
        return True
    shares = [item.stac["properties"].get("s2:nodata_pixel_percentage") for item in (first, second)]
    full = all(isinstance(share, int | float) and share <= _FULL for share in shares)
    return True if full else None


def group_copies(
    items: Iterable[SourceItem], provider: Provider, sample: Sample | None, scl_key: str
) -> list[list[list[SourceItem]]]:
    """Group the items of each datatake and tile into acquisitions, each with its copies.

    Where metadata do not tell copies from parts, the pixels do: copies have data in the same
    pixels. Otherwise both are used, the newest first, which loses no pixel.

    Returns:
        Groups of acquisitions; an acquisition is a list of copies, newest first. A group has
        several acquisitions if metadata do not show that they are parts; the order of these,
        newest first, is that in which they fill a mosaic.
    """
    groups: dict[tuple[str, ...], list[SourceItem]] = {}
    for item in items:
        groups.setdefault(provider.acquisition(item.stac) or ("", item.id), []).append(item)
    result: list[list[list[SourceItem]]] = []
    for members in groups.values():
        # The repr makes the order of two documents with one id total.
        members.sort(
            key=lambda item: (provider.version_key(item.stac), item.id, repr(item.stac)),
            reverse=True,
        )
        acquisitions: list[list[SourceItem]] = []
        certain = True
        for item in members:
            same = []
            for acquisition in acquisitions:
                answer = _of_acquisition(acquisition, item)
                if answer is None and sample is not None:
                    answer = _same_pixels(acquisition[0], item, sample, scl_key) or None
                certain &= answer is not None
                if answer:
                    same.append(acquisition)
            if len(same) == 1:
                same[0].append(item)
            else:
                certain &= not same
                acquisitions.append([item])
        result += [[acquisition] for acquisition in acquisitions] if certain else [acquisitions]
    return result


def _of_acquisition(acquisition: list[SourceItem], item: SourceItem) -> bool | None:
    """Return whether an item is a copy of all others; None if metadata do not show it."""
    answers = {are_copies(other, item) for other in acquisition} - {None}
    return None if not answers else answers == {True}


def _same_pixels(first: SourceItem, second: SourceItem, sample: Sample, scl_key: str) -> bool:
    images = [sample(item, [scl_key]) for item in (first, second)]
    if images[0] is None or images[1] is None or images[0][0].shape != images[1][0].shape:
        return False
    one, other = images[0][0] > 0, images[1][0] > 0
    return bool(one.any() and np.mean(one != other) <= _DIFFERENT_PIXELS)


def as_selected(item: SourceItem) -> SourceItem:
    """Return an item without what is needed only to select it: outline, unused asset keys."""
    kept = {key: value for key, value in item.stac.items() if key not in _FOR_SELECTION}
    return item if len(kept) == len(item.stac) else dataclasses.replace(item, stac=kept)
