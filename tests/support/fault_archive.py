"""A small archive for tests of failing servers, and functions that read a slice of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tessera_flow.block_file import open_block_file
from tessera_flow.config.configuration import Config
from tessera_flow.dates import Slice
from tessera_flow.ingest.download import download_sentinel1, download_sentinel2
from tessera_flow.jobs.files import RunFiles
from tessera_flow.region.grid import Window
from tessera_flow.scenes.search import Manifest, SourceItem

from ..support.pipeline import ORIGIN, manifest

LEFT, TOP = ORIGIN


SHAPE = (200, 200)
WINDOW = Window(0, 0, 140, 150)
MONTH = Slice.from_name("2021-06-01_2021-06-30")
HOST = "http://scenes.blob.core.windows.net"
"""Host that Planetary Computer signs URLs for; the server of the test is its proxy."""

SETTINGS = {"attempts": 8, "threads": 8, "timeout": 1.0, "max_missing_percent": 50.0}


@dataclasses.dataclass(frozen=True)
class Archive:
    """Scenes of two optical days (one with two scenes) and two radar days, and their manifests."""

    folder: Path
    config: Config
    layout: RunFiles
    scenes: Path

    @property
    def mask(self) -> Path:
        return Path(self.layout.paths.roi.format(region="here"))

    def list_of(self, sensor: str) -> Path:
        return Path(self.layout.paths.items.format(region="here", period="then", sensor=sensor))

    def items(self, sensor: str = "sentinel2") -> tuple[SourceItem, ...]:
        return manifest(self.layout, sensor).items


def read(
    archive: Archive,
    output: Path,
    sensor: str = "sentinel2",
    items: Path | None = None,
    **settings: Any,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Download one slice; return the bytes of each array, and the attributes."""
    common: dict[str, Any] = {
        "manifest_path": items or archive.list_of(sensor),
        "roi_path": archive.mask,
        "window": WINDOW,
        "time_slice": MONTH,
        "output": output,
        "source": getattr(archive.config, sensor),
        "settings": archive.config.download.model_copy(update=settings),
    }
    if sensor == "sentinel2":
        download_sentinel2(**common, preprocessing="corrected")
    else:
        download_sentinel1(**common)
    with open_block_file(output) as group:
        arrays = {name: np.asarray(array[:]).tobytes() for name, array in group.arrays()}
        return arrays, dict(group.attrs)


def both(archive: Archive, folder: Path) -> dict[str, bytes]:
    """Download a slice of both sensors; return the bytes of each array."""
    return {
        f"{sensor}/{name}": data
        for sensor in ("sentinel2", "sentinel1")
        for name, data in read(archive, folder / f"{sensor}.zip", sensor)[0].items()
    }


def one_asset(archive: Archive, key: str = "B05", index: int = 1) -> tuple[str, str]:
    """Return (item id, path of the URL) of an asset."""
    item = archive.items()[index]
    return item.id, item.stac["assets"][key]["href"].removeprefix(HOST)


def write_items(archive: Archive, path: Path, items: Any) -> Path:
    Manifest("sentinel2", tuple(items), ()).write(path)
    return path
