"""A simulated patches file for benchmarks."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import zarr

from tessera_flow.block_file import create_block_file, create_series
from tessera_flow.ingest.retile import TIME_CHUNK, write_needed

from .tiles import smooth_fields

DATES = 120
"""Sentinel-2 dates of a year under two orbits."""
RADAR_DATES = 30
"""Dates of each direction of Sentinel-1."""


OPTICAL_DAYS = np.linspace(2, 362, DATES).astype(np.uint16)
RADAR_DAYS = np.linspace(3, 358, RADAR_DATES).astype(np.int16)


def write_patches(path: Path, edge: int, patches: int, seed: int = 0) -> Path:
    """Write a block of square patches side by side, unless it exists.

    A pixel has 40 to 70 valid steps of 120 Sentinel-2 dates, under clouds that come in fields;
    a quarter of the pixels have no descending Sentinel-1 steps and so 30 steps, the others 60,
    without a few gaps. Values have the noise of real ones, so that they compress like them.
    """
    if path.exists():
        return path
    rng = np.random.default_rng(seed)
    windows = [[0, edge * number, edge, edge] for number in range(patches)]
    year = datetime.date(2023, 1, 1).toordinal() - 1
    dates = {
        stream: [datetime.date.fromordinal(year + int(day)).isoformat() for day in days]
        for stream, days in (
            ("sentinel2", OPTICAL_DAYS),
            ("ascending", RADAR_DAYS),
            ("descending", RADAR_DAYS),
        )
    }
    attributes = {
        "shape": [edge, edge * patches],
        "patch_size": edge,
        "patches": windows,
        "dates": dates,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_block_file(path, attributes) as target:
        for number in range(patches):
            group = target.create_group(f"0_{edge * number}")
            _write_optical(rng, group, edge)
            arrays = {
                "doys": OPTICAL_DAYS,
                "roi": np.ones((edge, edge), np.uint8),
            }
            for orbit in ("ascending", "descending"):
                echo = 5200 + 500 * smooth_fields(rng, 2, edge, edge).transpose(1, 2, 0)
                echo = echo + rng.normal(0, 300, (RADAR_DATES, edge, edge, 2)) - [0, 1500]
                echo[rng.random(echo.shape[:3]) < 0.01] = 0
                if orbit == "descending":
                    echo[:, : edge // 4] = 0
                arrays[f"sar_{orbit}"] = echo.astype(np.int16)
                arrays[f"sar_{orbit}_doy"] = RADAR_DAYS
            for name, values in arrays.items():
                chunks = (TIME_CHUNK, *values.shape[1:]) if name.startswith("sar") else values.shape
                create_series(group, name, values.shape, chunks, values.dtype)[...] = values
    return path


def _write_optical(rng: np.random.Generator, group: zarr.Group, edge: int) -> None:
    ground = 1500 + 800 * smooth_fields(rng, 10, edge, edge).transpose(1, 2, 0)
    # The share of clear dates of a pixel varies in space.
    share = 0.46 + 0.06 * np.clip(smooth_fields(rng, 1, edge, edge)[0], -1.5, 1.5)
    images, cover = [], []
    for start in range(0, DATES, TIME_CHUNK):
        days = np.arange(start, min(start + TIME_CHUNK, DATES))
        clouds = smooth_fields(rng, len(days), edge, edge) / 3
        clouds += rng.random((len(days), 1, 1)) - clouds.mean((1, 2), keepdims=True)
        clear = clouds % 1 < share
        season = 0.7 + 0.6 * np.sin(days / DATES * np.pi)[:, None, None, None]
        values = ground * season + rng.normal(0, 60, (len(days), edge, edge, 10))
        values += np.where(clear, 0, 4000)[..., None]
        images.append(np.clip(values, 1, 12000).astype(np.uint16))
        cover.append(clear)
    valid = np.concatenate(cover)
    bands = np.concatenate(images)
    write_needed(group, DATES, np.ones((edge, edge), bool), valid.__getitem__, bands.__getitem__)
    chunks = (TIME_CHUNK, edge, edge)
    create_series(group, "masks", valid.shape, chunks, np.bool_)[...] = valid
