"""Orbit directions that only the rasters tell."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from .errors import ReadError
from .manifest import SourceItem
from .providers import Provider
from .reading import ReadOptions, read_tags
from .sentinel1 import ORBITS

log = logging.getLogger(__name__)


def known_directions(
    items: Sequence[SourceItem],
    orbits: Sequence[str],
    particulars: Provider,
    options: ReadOptions,
) -> list[SourceItem]:
    """The items with their direction, in their order, without those of other directions.

    An item that does not tell its direction is asked by the header of its VV raster, so that
    finding items downloads nothing. The header is read again, mostly from GDAL's cache, when
    the pixels are.

    Args:
        items: of one block and slice.
        orbits: directions to use.
        particulars: of the provider.
        options: how to read.

    Raises:
        ReadError: a raster cannot be read, or does not tell its direction.
    """

    def known(item: SourceItem) -> SourceItem:
        if item.orbit is not None:
            return item
        orbit = _direction(item, particulars, options)
        copies = tuple(dataclasses.replace(copy, orbit=orbit) for copy in item.copies)
        return dataclasses.replace(item, orbit=orbit, copies=copies)

    with ThreadPoolExecutor(options.threads) as pool:
        found = list(pool.map(known, items))
    used = [item for item in found if item.orbit in orbits]
    if len(used) < len(found):
        log.info("%d of %d scenes are of another direction", len(found) - len(used), len(found))
    return used


def _direction(item: SourceItem, particulars: Provider, options: ReadOptions) -> str:
    key = particulars.s1_assets["vv"]
    tag = str(particulars.orbit_tag)
    told = read_tags(item, key, particulars, options).get(tag, "")
    orbit = told.strip().lower()
    if orbit not in ORBITS:
        raise ReadError(
            f"Asset {key} of item {item.id} does not tell its direction (tag {tag} is {told!r}, "
            "not ascending or descending): mend or remove the item."
        )
    return orbit
