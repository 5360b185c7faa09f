"""Fixtures: a region, an archive of scenes on disk, and the outcome of reading it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..support.pipeline import configuration, ingest, write_box
from ..support.scenes import optical, radar
from ..support.search_run import (
    END,
    LEFT,
    SHAPE,
    START,
    TOP,
    Items,
    outcome,
    relocated,
)
from ..support.servers import FileServer, serve_files


def write_roi(folder: Path) -> Path:
    return write_box(folder / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    """Return a region of exactly the 50 x 40 pixels of the scenes."""
    return write_roi(tmp_path)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return tmp_path / "scenes"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Items]:
    """Return the folder and the items of `archive`, written once. Do not change them."""
    scenes = tmp_path_factory.mktemp("sources") / "scenes"
    rng = np.random.default_rng(7)

    def noise() -> np.ndarray:
        return rng.integers(1, 10_000, (*SHAPE, 10)).astype(np.uint16)

    cloudy = np.full(SHAPE, 4, np.uint8)
    cloudy[:, 20:] = 9
    items = [
        optical(scenes, f"{END}T23:59:59", noise(), baseline="05.11"),
        optical(scenes, "2021-06-10T10:00:00", noise(), cloudy, mgrs_tile="31UFU"),
        optical(scenes, "2021-06-10T10:00:20", noise(), mgrs_tile="31UFT"),
        optical(scenes, "2021-06-01T10:00:00", noise()),
        optical(scenes, "2021-07-01T00:00:00", noise()),
        optical(scenes, "2021-06-20T10:00:00", noise(), origin=(LEFT + 90_000, TOP)),
        radar(scenes, "2021-06-15T17:00:00", rng.uniform(0.01, 1, SHAPE), 0.02),
        radar(scenes, "2021-06-12T05:00:00", rng.uniform(0.01, 1, SHAPE), 0.03, "descending"),
    ]
    return scenes, items


@pytest.fixture
def archive(made: tuple[Path, Items], scenes: Path) -> Items:
    """Return optical scenes of three days (one day with two scenes), two radar scenes, one scene
    after the period and one outside the region; their files are below `scenes`."""
    folder, items = made
    shutil.copytree(folder, scenes)
    return relocated(items, folder, f"{scenes.absolute().as_posix()}/")


@pytest.fixture(scope="session")
def expected(made: tuple[Path, Items]) -> dict[str, Any]:
    """Return the outcome of an item collection with absolute paths. Do not change it."""
    folder, items = made[0].parent, made[1]
    roi = write_roi(folder)
    result = outcome(ingest(configuration(folder / "paths", roi, items, START, END)))
    order, stack = result["sentinel2"]
    assert order == [items[i]["id"] for i in (3, 1, 2, 0)]
    assert stack["dates"] == ["2021-06-01", "2021-06-10", "2021-06-30"]
    assert stack["masks"].all() and stack["bands"].any(axis=(1, 2)).all()
    assert result["sentinel1"][0] == [items[i]["id"] for i in (7, 6)]
    return result


@pytest.fixture
def server(scenes: Path) -> Iterator[FileServer]:
    with serve_files(scenes) as running:
        yield running
