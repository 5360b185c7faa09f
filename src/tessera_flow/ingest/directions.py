"""Read orbit directions that only the rasters state."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

from ..archives.provider import Provider
from ..errors import ReadError
from ..raster.failures import MissingSceneError
from ..raster.reader import Asset
from ..scenes.manifest import SourceItem
from ..sensors.sentinel1 import ORBITS
from .missing_scenes import Acquisition, MissingScenes

log = logging.getLogger(__name__)


def resolve_directions(
    items: Sequence[SourceItem],
    orbits: Sequence[str],
    provider: Provider,
    tags: Callable[[Asset], Mapping[str, str]],
    missing_scenes: MissingScenes,
    pool: Executor,
) -> list[SourceItem]:
    """Return the items of the given directions, with their direction set, in their order.

    If the metadata of an item do not state its direction, it is read from the header of its VV
    raster. This is done here and not in the search, so that a search downloads nothing.

    Args:
        items: of one block and slice.
        orbits: directions to use.
        provider: provider of the items.
        tags: reads the tags of a raster.
        missing_scenes: records items whose raster is missing or corrupt.
        pool: reads headers in parallel.

    Raises:
        ReadError: a raster cannot be read, or does not state its direction.
    """

    def resolved(item: SourceItem) -> SourceItem | None:
        if item.orbit is not None:
            return item
        acquisition = Acquisition(item, missing_scenes)
        while (current := acquisition.item) is not None:
            try:
                orbit = _direction(current, provider, tags)
            except MissingSceneError as error:
                acquisition.discard(current, error)
            else:
                duplicates = [
                    dataclasses.replace(duplicate, orbit=orbit)
                    for duplicate in acquisition.duplicates
                ]
                return dataclasses.replace(current, orbit=orbit, duplicates=tuple(duplicates))
        return None

    readable = [item for item in pool.map(resolved, items) if item is not None]
    used = [item for item in readable if item.orbit in orbits]
    others = len(readable) - len(used)
    if others:
        log.info("%d of %d scenes have another direction", others, len(readable))
    return used


def _direction(
    item: SourceItem, provider: Provider, tags: Callable[[Asset], Mapping[str, str]]
) -> str:
    key = provider.s1_assets["vv"]
    tag = str(provider.orbit_tag)
    value = tags(Asset(item.id, key, item.stac["assets"][key]["href"])).get(tag, "")
    orbit = value.strip().lower()
    if orbit not in ORBITS:
        raise ReadError(
            f"Asset {key} of item {item.id} does not state its direction (tag {tag} is {value!r}, "
            "not ascending or descending): correct or remove the item."
        )
    return orbit
