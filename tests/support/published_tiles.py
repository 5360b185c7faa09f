"""Make the region raster and the tile folders that the published pipeline makes of a shape.

Its converter rasterises the shape on a grid that starts at the shape's own bounds, with as many
pixels as cover them. The arrays of the tiles are on multiples of the pixel size around that grid,
while each `roi.tiff` keeps the position of the converter's grid.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine

PIXEL = 10
CRS = "EPSG:32631"


def ground(left: float, top: float, height: int, width: int) -> np.ndarray:
    """Return (H, W) uint16 values that state the position of each pixel on the ground."""
    columns = np.arange(width) + round(left / PIXEL)
    rows = np.arange(height) - round(top / PIXEL)
    return (1 + (columns % 97)[None, :] + 97 * (rows % 89)[:, None]).astype(np.uint16)


def convert(shape: shapely.Geometry, path: Path) -> Path:
    """Write the raster of a shape, as the published converter does."""
    left, bottom, right, top = shape.bounds
    width, height = math.ceil((right - left) / PIXEL), math.ceil((top - bottom) / PIXEL)
    transform = Affine(PIXEL, 0, left, 0, -PIXEL, top)
    inside = rasterio.features.rasterize(
        [(shape, 255)], (height, width), transform=transform, dtype=np.uint8
    )
    write_raster(path, inside, transform)
    return path


def write_raster(path: Path, values: np.ndarray, transform: Affine, crs: str = CRS) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1,
        dtype=values.dtype, crs=crs, transform=transform,
    ) as target:  # fmt: skip
        target.write(values, 1)


def write_geojson(path: Path, shape: shapely.Geometry) -> None:
    """Write a shape as a region in the CRS of the tiles."""
    document = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{CRS[5:]}"}},
        "features": [
            {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(shape)}
        ],
    }
    path.write_text(json.dumps(document))


def retile(region: Path, folder: Path, size: int, steps: int = 2) -> list[str]:
    """Write the tile folders of a converted region; return their names."""
    with rasterio.open(region) as raster:
        inside, label = (raster.read(1) > 0).astype(np.uint8), raster.transform
    height, width = inside.shape
    left, top = math.floor(label.c / PIXEL) * PIXEL, math.ceil(label.f / PIXEL) * PIXEL
    truth = ground(left, top, height, width)
    names = []
    for y0 in range(0, height, size):
        for x0 in range(0, width, size):
            y1, x1 = min(y0 + size, height), min(x0 + size, width)
            if not inside[y0:y1, x0:x1].any():
                continue
            name = f"{x0}_{y0}_{x1}_{y1}"
            tile = folder / name
            tile.mkdir(parents=True)
            roi, values = (np.zeros((size, size), a.dtype) for a in (inside, truth))
            roi[: y1 - y0, : x1 - x0] = inside[y0:y1, x0:x1]
            values[: y1 - y0, : x1 - x0] = truth[y0:y1, x0:x1] * inside[y0:y1, x0:x1]
            bands = np.broadcast_to(values[None, ..., None], (steps, size, size, 10))
            radar = np.broadcast_to(values[None, ..., None], (1, size, size, 2))
            arrays = {
                "bands": bands,
                "masks": np.broadcast_to(roi[None], (steps, size, size)),
                "doys": np.arange(10, 10 + steps, dtype=np.uint16),
                "sar_ascending": radar.astype(np.int16),
                "sar_ascending_doy": np.array([12], np.int16),
                "sar_descending": np.zeros((0, size, size, 2), np.int16),
                "sar_descending_doy": np.zeros(0, np.int16),
            }
            for key, array in arrays.items():
                np.save(tile / f"{key}.npy", array)
            write_raster(tile / "roi.tiff", roi, label @ Affine.translation(x0, y0))
            names.append(name)
    return names
