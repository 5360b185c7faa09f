"""Orbit directions that only the rasters tell."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

from ..archives.provider import Provider
from ..errors import ReadError
from ..raster.failures import MissingSceneError
from ..raster.reader import AssetAddress
from ..scenes.manifest import SourceItem
from ..sensors.sentinel1 import ORBITS
from .missing_scenes import Acquisition, MissingScenes

log = logging.getLogger(__name__)


def known_directions(
    items: Sequence[SourceItem],
    orbits: Sequence[str],
    provider: Provider,
    tags: Callable[[AssetAddress], Mapping[str, str]],
    missing_scenes: MissingScenes,
    pool: Executor,
) -> list[SourceItem]:
    """The items with their direction, in their order, without those of other directions.

    An item that does not tell its direction is asked by the header of its VV raster, so that
    finding items downloads nothing.

    Args:
        items: of one block and slice.
        orbits: directions to use.
        provider: of the provider.
        tags: reads the tags of a raster.
        missing_scenes: takes up items whose raster is missing or corrupt.
        pool: reads headers side by side.

    Raises:
        ReadError: a raster cannot be read, or does not tell its direction.
    """

    def known(item: SourceItem) -> SourceItem | None:
        if item.orbit is not None:
            return item
        acquisition = Acquisition(item, missing_scenes)
        while (copy := acquisition.item) is not None:
            try:
                orbit = _direction(copy, provider, tags)
            except MissingSceneError as error:
                acquisition.lose(copy, error)
            else:
                others = [dataclasses.replace(other, orbit=orbit) for other in acquisition.others]
                return dataclasses.replace(copy, orbit=orbit, duplicates=tuple(others))
        return None

    found = [item for item in pool.map(known, items) if item is not None]
    used = [item for item in found if item.orbit in orbits]
    if len(used) < len(found):
        log.info("%d of %d scenes are of another direction", len(found) - len(used), len(found))
    return used


def _direction(
    item: SourceItem, provider: Provider, tags: Callable[[AssetAddress], Mapping[str, str]]
) -> str:
    key = provider.s1_assets["vv"]
    tag = str(provider.orbit_tag)
    told = tags(AssetAddress(item.id, key, item.stac["assets"][key]["href"])).get(tag, "")
    orbit = told.strip().lower()
    if orbit not in ORBITS:
        raise ReadError(
            f"Asset {key} of item {item.id} does not tell its direction (tag {tag} is {told!r}, "
            "not ascending or descending): mend or remove the item."
        )
    return orbit
