"""Search an archive of a few scenes, and compare what is listed and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tessera_flow.config.configuration import Config
from tessera_flow.jobs.files import RunFiles

from .pipeline import ORIGIN, configuration, ingest, manifest, stacked

LEFT, TOP = ORIGIN
SHAPE = (40, 50)
START, END = "2021-06-01", "2021-06-30"
PASSWORD, TOKEN = "hunter2", "t0ken-abc"

Items = list[dict[str, Any]]


def relocated(items: Items, folder: Path, prefix: str, suffix: str = "") -> Items:
    """Return the items with `folder` in hrefs replaced by `prefix`, and `suffix` appended."""
    text = json.dumps(items)
    moved: Items = json.loads(text.replace(f"{folder.absolute().as_posix()}/", prefix))
    for item in moved:
        for asset in item["assets"].values():
            if asset["href"].startswith(prefix):
                asset["href"] += suffix
    return moved


def located(folder: Path, roi: Path, location: object, **sections: Any) -> Config:
    """Return a configuration with `location` for both sensors."""
    source = {"location": str(location)}
    sections["sentinel2"] = source | sections.get("sentinel2", {})
    sections["sentinel1"] = source | sections.get("sentinel1", {})
    return configuration(folder, roi, [], START, END, **sections)


def search(folder: Path, roi: Path, location: object, **sections: Any) -> RunFiles:
    """Run only the search, for Sentinel-2 only."""
    sections = {"sentinel1": {"enabled": False}, **sections}
    return ingest(located(folder, roi, location, **sections), until="items")


def ids(run_files: RunFiles, sensor: str = "sentinel2") -> list[str]:
    return [item.id for item in manifest(run_files, sensor).items]


def outcome(run_files: RunFiles) -> dict[str, Any]:
    """Return the order of the manifest and the stack of both sensors."""
    return {
        sensor: (ids(run_files, sensor), stacked(run_files, sensor))
        for sensor in ("sentinel2", "sentinel1")
    }


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    for sensor, (order, stack) in expected.items():
        assert actual[sensor][0] == order
        assert actual[sensor][1].keys() == stack.keys()
        for name, array in stack.items():
            np.testing.assert_array_equal(actual[sensor][1][name], array, err_msg=name)


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        assert PASSWORD not in text
        assert TOKEN not in text
