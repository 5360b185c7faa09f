"""Lay out the map of change: the cosine distance to the previous period."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import Resampling

from ..geotiff.writer import open_raster
from .figures import data_uri, map_png

_EDGE = 600


def change_figure(period: str, path: Path) -> dict[str, Any]:
    """Return the map, the largest value of its legend and a sentence with percentiles.

    Args:
        period: the previous one.
        path: GeoTIFF of `change.write_change`; read at reduced resolution.
    """
    with open_raster(path) as file:
        step = -(-max(file.shape) // _EDGE)
        shape = tuple(-(-n // step) for n in file.shape)
        values = file.read(1, out_shape=shape, resampling=Resampling.nearest)
    distance = values.astype(np.float64)
    known = distance[np.isfinite(distance)]
    if not known.size:
        return {
            "period": period,
            "image": data_uri(map_png(distance, 1.0)),
            "maximum": 1.0,
            "text": "No pixel has an embedding in both.",
        }
    median, high, top = (float(n) for n in np.percentile(known, [50, 95, 99]))
    return {
        "period": period,
        "image": data_uri(map_png(distance, max(top, 1e-4))),
        "maximum": float(f"{max(top, 1e-4):.2g}"),
        "text": f"Median {median:.3f}, 95th percentile {high:.3f}"
        + ("." if step == 1 else f", of one row and column in {step}."),
    }
