"""Find the Zarr stores below some folders, and check that their embeddings can be combined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr

from ..errors import TileError
from .sample import open_store

STORE_NAME = "embeddings.zarr"


def find_stores(paths: Sequence[Path]) -> list[Path]:
    """Return the stores that are named, or are in a folder of results, of a region, or of a
    region and period; each once.

    Raises:
        TileError: a path does not exist, or has no store.
    """
    stores: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise TileError(f"{path} does not exist: check the path.")
        below = [path / STORE_NAME] if (path / STORE_NAME).is_dir() else []
        for pattern in (f"*/{STORE_NAME}", f"*/*/{STORE_NAME}"):
            below = below or sorted(p for p in path.glob(pattern) if p.is_dir())
        stores |= dict.fromkeys(below or [path])  # `open_store` refuses what is no store
    return list(stores)


def open_stores(paths: Sequence[Path]) -> dict[Path, zarr.Group]:
    """Open several stores with embeddings of one model.

    Raises:
        TileError: a path is not a store, or the models differ.
    """
    groups = {path: open_store(path) for path in paths}
    first = next(iter(groups))
    for path, group in groups.items():
        if _model(group) != _model(groups[first]):
            raise TileError(
                f"{first} and {path} have embeddings of different models, which cannot be "
                "compared: sample them into different tables."
            )
    return groups


def labels(group: zarr.Group) -> tuple[str, str]:
    """Return the names of region and period of a store."""
    record: Any = group.attrs["provenance"]
    return str(record["region"]), str(record["period"])


def _model(group: zarr.Group) -> tuple[Any, ...]:
    record: Any = group.attrs.asdict().get("provenance", {})
    model = record.get("model", {})
    return tuple(model.get(key) for key in ("family", "name", "sha256", "dim", "statistics"))
