"""Find the Zarr stores below some folders, and check that their embeddings can be combined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from ...errors import TileError
from ..stores.cube import CUBE
from .sample import open_store

STORE_NAME = "embeddings.zarr"


@dataclass(frozen=True)
class PeriodStore:
    """The embeddings of a region and period.

    Attributes:
        path: of the store.
        group: the store.
        time: index of the period in it.
        record: provenance of the period.
    """

    path: Path
    group: zarr.Group
    time: int
    record: Mapping[str, Any]

    @property
    def labels(self) -> tuple[str, str]:
        """The names of region and period."""
        return str(self.record["region"]), str(self.record["period"])

    @property
    def model(self) -> tuple[Any, ...]:
        """What identifies the model."""
        model = self.record.get("model", {})
        return tuple(model.get(key) for key in ("family", "name", "sha256", "dim", "statistics"))


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


def open_stores(paths: Sequence[Path]) -> list[PeriodStore]:
    """Open several stores with embeddings of one model; a store of several periods is opened for
    each of them.

    Raises:
        TileError: a path is not a store, or the models differ.
    """
    stores = [store for path in paths for store in _periods(path)]
    for store in stores:
        if store.model != stores[0].model:
            raise TileError(
                f"{stores[0].path} and {store.path} have embeddings of different models, which "
                "cannot be compared: sample them into different tables."
            )
    return stores


def _periods(path: Path) -> Iterator[PeriodStore]:
    group = open_store(path, cube=True)
    attributes: Mapping[str, Any] = group.attrs.asdict()
    if CUBE not in attributes:
        yield PeriodStore(path, group, 0, attributes.get("provenance", {}))
    for time, entry in enumerate(attributes.get(CUBE, ())):
        yield PeriodStore(path, group, time, entry["provenance"])
