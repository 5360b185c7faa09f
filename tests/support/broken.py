"""Runs that something is wrong with, and what a user is to see of it."""

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
"""Rows and columns of the scene that covers the first block and a half."""


def one_row(folder: Path, columns: int, **settings: Any) -> list[dict[str, Any]]:
    """A region of 20 rows of pixels, in blocks of 25, with Sentinel-2 alone; returns the
    scenes, which cover its first 40 columns."""
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


def shown(output: str, sentence: str) -> None:
    """The user sees the sentence (a regular expression) where the job fails and again in the
    summary at the end, and no Python traceback."""
    parts = output.split("What failed, and why:")
    assert [len(re.findall(sentence, part)) for part in parts] == [1, 1], output
    assert "Traceback" not in output, output


def patched(finished_run: Path, folder: Path) -> Path:
    """`finished_run` with inference and products left to do."""
    shutil.copytree(finished_run, folder)
    shutil.rmtree(folder / "results")
    for name in ("embeddings", "job_log"):
        shutil.rmtree(folder / "work" / "here" / "then" / name)
    return folder


def damaged_checkpoint(folder: Path, kind: str) -> Path:
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
    """A shapefile without its .prj."""
    path = write_polygon(folder / "roi.geojson", shapely.box(LEFT, TOP - 200, LEFT + 200, TOP))
    meta, _, geometry, fields = pyogrio.raw.read(path)
    meta["crs"] = None
    pyogrio.raw.write(folder / "no_crs.shp", geometry, fields, meta["fields"],
                      geometry_type="Polygon", driver="ESRI Shapefile")  # fmt: skip
    return folder / "no_crs.shp"
