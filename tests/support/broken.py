"""Create runs with errors, and check the messages that a user sees."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
import torch

from .pipeline import write_polygon
from .scenes import optical
from .workflow import CHECKPOINT, LEFT, TOP, archive, box, document, write_config

SHAPE = (20, 40)
"""Rows and columns of the scenes, which cover one and a half blocks."""


def one_row(folder: Path, columns: int, **settings: Any) -> list[dict[str, Any]]:
    """Write the configuration of a region of 20 rows of pixels, in blocks of 25 pixels.

    Only Sentinel-2 is used. Return the scenes, which cover the first 40 columns.
    """
    folder.mkdir(exist_ok=True)
    box(folder / "roi.geojson", (0, columns), (0, 20))
    random = np.random.default_rng(1)
    items = [
        optical(folder / "scenes", f"{day}T10:00:00", random.integers(1, 9000, (*SHAPE, 10)))
        for day in ("2021-06-03", "2021-06-13")
    ]
    archive(folder, items)
    shutil.copy(CHECKPOINT, folder / "weights.pt")
    configuration = document(folder, "2021-06-01", "2021-06-30")
    configuration["sentinel1"] = {"enabled": False}
    configuration["products"] = {"formats": ["arrays"]}
    write_config(folder, configuration | settings)
    return items


def shown(output: str, pattern: str) -> None:
    """Assert that the message `pattern` is shown where the job fails and in the final summary.

    No Python traceback may be shown.
    """
    parts = output.split("Failed jobs:")
    assert [len(re.findall(pattern, part)) for part in parts] == [1, 1], output
    assert "Traceback" not in output, output


def patched(finished_run: Path, folder: Path) -> Path:
    """Copy `finished_run` without its embeddings and products."""
    shutil.copytree(finished_run, folder)
    shutil.rmtree(folder / "results")
    for name in ("embeddings", "job_log"):
        shutil.rmtree(folder / "work" / "here" / "then" / name)
    return folder


def damaged_checkpoint(folder: Path, kind: str) -> Path:
    """Write a checkpoint with the damage `kind`: `cut`, `text`, `keys` or `resnet`."""
    path = folder / f"{kind}.pt"
    if kind == "cut":
        path.write_bytes(CHECKPOINT.read_bytes()[:100_000])
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "keys":
        checkpoint = torch.load(CHECKPOINT, weights_only=True)
        state = next(v for v in checkpoint.values() if isinstance(v, dict) and len(v) > 20)
        del state[next(iter(state))]
        torch.save(checkpoint, path)
    else:
        torch.save({"model": {"conv1.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}}, path)
    return path


def region_without_crs(folder: Path) -> Path:
    """Write a shapefile without its .prj file."""
    path = write_polygon(folder / "roi.geojson", shapely.box(LEFT, TOP - 200, LEFT + 200, TOP))
    meta, _, geometry, fields = pyogrio.raw.read(path)
    meta["crs"] = None
    pyogrio.raw.write(folder / "no_crs.shp", geometry, fields, meta["fields"],
                      geometry_type="Polygon", driver="ESRI Shapefile")  # fmt: skip
    return folder / "no_crs.shp"
