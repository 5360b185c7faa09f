"""Write small scenes with known pixel values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tessera_flow.demo.archive import write_sentinel1_scene, write_sentinel2_scene
from tessera_flow.sensors.sentinel2 import BANDS

from .pipeline import CRS, ORIGIN, utc

SIZES = {band: 10.0 for band in BANDS} | {"SCL": 10.0}
"""Pixel size of all assets in m; at 10 m, pixels are read without resampling."""


def optical(
    folder: Path,
    when: str,
    bands: np.ndarray | int,
    scl: np.ndarray | int = 4,
    shape: tuple[int, int] = (40, 50),
    **options: Any,
) -> dict[str, Any]:
    """Write a Sentinel-2 scene and return its STAC item.

    Args:
        folder: folder for the files.
        when: sensing time (UTC).
        bands: (H, W, 10) in the order of the stack, or a number; band i is then number + i.
        scl: (H, W) SCL codes, or one code.
        shape: (H, W) if `bands` is a number.
        options: arguments of `write_sentinel2_scene`.
    """
    if isinstance(bands, int):
        bands = np.broadcast_to(bands + np.arange(10, dtype=np.uint16), (*shape, 10))
    scl = np.full(bands.shape[:2], scl, np.uint8) if np.isscalar(scl) else scl
    options = {"crs": CRS, "origin": ORIGIN, "mgrs_tile": "31UFT", "pixel_sizes": SIZES} | options
    return write_sentinel2_scene(
        folder,
        bands={b: np.ascontiguousarray(bands[..., i], np.uint16) for i, b in enumerate(BANDS)},
        scl=scl.astype(np.uint8),
        datetime=utc(when),
        blocksize=128,
        **{"baseline": "03.01", **options},
    )


def radar(
    folder: Path,
    when: str,
    vv: np.ndarray | float | None,
    vh: np.ndarray | float | None,
    orbit_state: str = "ascending",
    shape: tuple[int, int] = (40, 50),
    **options: Any,
) -> dict[str, Any]:
    """Write a Sentinel-1 scene of gamma0 linear power and return its STAC item."""

    def image(power: np.ndarray | float | None) -> np.ndarray | None:
        return None if power is None else np.broadcast_to(power, shape).astype(np.float32)

    options = {"crs": CRS, "origin": ORIGIN} | options
    return write_sentinel1_scene(
        folder,
        vv=image(vv),
        vh=image(vh),
        datetime=utc(when),
        orbit_state=orbit_state,
        blocksize=128,
        **options,
    )
