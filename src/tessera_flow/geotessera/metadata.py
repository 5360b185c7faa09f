"""Read what a store states about itself, without the library that reads its arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import ItemError
from .manifest import StoreManifest, stated_model
from .stores import Store, normal_version

METADATA = "zarr.json"
"""File of the metadata of a Zarr store."""
FILE_LIST = "checksums.json"
"""File of a store that tessera-flow wrote, with the names of all its files."""
TILE_LISTS = ("registry.parquet", "manifest.parquet")
"""Lists of the tiles of the NPY layout; the first that exists is read."""
_RECORD = "provenance.json"


def described(store: Store, year: int) -> StoreManifest | None:
    """Return what is known of a store without a request: of a public one its version and variant,
    of a local one also its model; None for any other URL, and for a folder that is no store.

    Raises:
        ItemError: the store is of another version than the configured one.
    """
    if store.is_remote:
        public = store.variant is not None and store.version is not None
        return _manifest(store, year, store.version, None) if public else None
    try:
        document = json.loads((store.folder / METADATA).read_text(encoding="utf-8"))
        attributes = document.get("attributes", {})
        return _manifest(store, year, stated_version(store, attributes), model_of(attributes))
    except (OSError, ValueError, AttributeError):
        pass
    if any((store.folder / name).exists() for name in TILE_LISTS):
        return _manifest(store, year, store.version, model_of_tiles(store))
    return None


def _manifest(
    store: Store, year: int, version: str | None, model: Mapping[str, Any] | None
) -> StoreManifest:
    return StoreManifest("zarr", str(store), version, store.variant, year, model=model)


def model_of_tiles(store: Store) -> dict[str, Any] | None:
    """Return the record of the model in a folder of tiles that tessera-flow wrote, else None."""
    try:
        return stated_model(json.loads((store.folder / _RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def stated_version(store: Store, attributes: Mapping[str, Any]) -> str | None:
    """Return the version that a store states, or the configured one if it states none.

    Raises:
        ItemError: it is another one than the configured one.
    """
    stated = str(attributes.get("geoemb:model", "")).rpartition("/model/")[2]
    if not stated or not stated[:1].isdigit():
        return store.version
    stated = normal_version(stated)
    if store.version not in (None, stated):
        raise ItemError(
            f"{store} is dataset {stated}, but geotessera.version is {store.version}: leave it "
            "out, or set geotessera.location to another store."
        )
    return stated


def model_of(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the store states about the model: a record, if tessera-flow wrote the store."""
    if (model := stated_model(attributes.get("provenance"))) is not None:
        return model
    url = attributes.get("geoemb:model")
    return {"url": url} if isinstance(url, str) and url else None
