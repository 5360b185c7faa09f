"""List what a region takes from a store, and open it, whichever layout it has."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..errors import ItemError
from ..region.grid import RegionGrid
from .manifest import StoreManifest
from .metadata import METADATA
from .pixels import Part
from .stores import Store
from .tiles import TilePart, is_npy_store, list_tiles
from .zones import list_zones, opened_parts

log = logging.getLogger(__name__)


def list_published(
    store: Store, grid: RegionGrid, year: int, threads: int = 8, may_be_empty: bool = False
) -> StoreManifest:
    """List the parts of a store, UTM zones or tiles, that overlap a region.

    Args:
        store: the store.
        grid: the region's grid.
        year: calendar year.
        threads: files that are read at a time.
        may_be_empty: a store without the year, or without a part that overlaps the region, is a
            warning and not an error.

    Raises:
        ItemError: the location is not a store, or the store does not have the year or cover the
            region.
        TileError: a file of a local store is missing or damaged.
        ReadError: the store cannot be reached.
    """
    if not store.is_remote and not store.folder.is_dir():
        raise ItemError(
            f"There is no folder {store}: set geotessera.location to the folder or URL of a store, "
            "or leave it out for the public one."
        )
    if store.is_remote or (store.folder / METADATA).exists() or not is_npy_store(store.folder):
        manifest = list_zones(store, grid, year, may_be_empty)
    else:
        manifest = list_tiles(store, grid, year, threads, may_be_empty)
    if manifest.parts and (warning := manifest.days_warning()):
        manifest = replace(manifest, warnings=(*manifest.warnings, warning))
    log.info("%s: %s", store, ", ".join(part.name for part in manifest.parts) or "nothing")
    for warning in manifest.warnings:
        log.warning("%s", warning)
    return manifest


@contextmanager
def open_listed(
    store: Store, manifest: StoreManifest, grid: RegionGrid
) -> Iterator[Sequence[Part]]:
    """Open the parts of a list; raises as `list_published`."""
    if manifest.layout == "zarr":
        with opened_parts(store, manifest, grid) as parts:
            yield parts
    else:
        yield [TilePart(store, manifest.year, tile, grid) for tile in manifest.tiles]
