"""Write a small Zarr store in the published layout, with everything that marks a missing embedding.

Needs numpy, pyproj and zarr only. The content follows from formulas, so that it is the same with
any version of them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pyproj import Transformer
from zarr.codecs import BloscCodec

PIXEL = 10.0
YEARS = (2023, 2024)
SHAPE = (128, 160)
SHARD, CHUNK = 64, 32
WATER = np.s_[20:30, 20:30]
UNWRITTEN = np.s_[40:50, 50:60]
WITHOUT_CODES = np.s_[60:62, 10:12]
HUGE = (5, 5)
ABSENT = np.s_[64:128, 128:160]
"""A shard without objects in `embeddings` and `scales`."""


@dataclass(frozen=True)
class Zone:
    """A zone of the store: its grid is `SHAPE` around (lon, lat).

    It has embeddings up to 0.0003 degrees beyond its borders, as tiles reach over them.
    """

    number: int
    lon: float
    lat: float

    @property
    def crs(self) -> str:
        return f"EPSG:{32600 + self.number}"

    @property
    def origin(self) -> tuple[float, float]:
        """(left, top) in `crs`; southern northings are negative."""
        move = Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)
        x, y = move.transform(self.lon, self.lat)
        return (
            round(x / PIXEL - SHAPE[1] / 2) * PIXEL,
            round(y / PIXEL + SHAPE[0] / 2) * PIXEL,
        )

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x (W,) and y (H,) of the pixels."""
        left, top = self.origin
        x = left + PIXEL * (np.arange(SHAPE[1]) + 0.5)
        return x, top - PIXEL * (np.arange(SHAPE[0]) + 0.5)

    def pixels(self, year: int) -> tuple[np.ndarray, np.ndarray]:
        """Return codes (128, H, W) int8 and scales (H, W) float32 as stored."""
        band, row, column = np.ogrid[0:128, 0 : SHAPE[0], 0 : SHAPE[1]]
        mixed = band * 37 + row * 101 + column * 59 + self.number * 11 + year + (band * row) % 17
        codes = (mixed % 255 - 127).astype(np.int8)
        steps = (row[0] * 7 + column[0] * 3 + self.number) % 64
        scales = ((steps + 16) / 1024).astype(np.float32)
        x, y = np.meshgrid(*self.centres())
        lon, _ = Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True).transform(x, y)
        west = self.number * 6 - 186
        outside = (lon < west - 0.0003) | (lon > west + 6.0003)
        if year == YEARS[0] and self.number == 33:
            outside[:] = True  # this year was never written
        scales[outside] = np.inf
        scales[WATER] = np.nan
        scales[UNWRITTEN] = np.inf
        scales[ABSENT] = np.inf
        if not outside[HUGE]:
            scales[HUGE] = 5e5
        codes[:, ~np.isfinite(scales)] = 0
        codes[(slice(None), *WITHOUT_CODES)] = 0
        return codes, scales


ZONES = (Zone(31, 5.9955, 51.5), Zone(32, 6.0045, 51.5), Zone(33, 14.0, 0.0))


def write_published(folder: Path, version: str = "1.1") -> Path:
    """Write the store."""
    root = zarr.create_group(folder, zarr_format=3)
    root.attrs.update(
        {
            "geoemb:type": "pixel",
            "geoemb:dimensions": 128,
            "geoemb:model": f"https://geotessera.org/model/{version}",
            "geoemb:data_type": "int8",
            "geoemb:gsd": PIXEL,
            "geoemb:spatial_layout": "utm_zones",
            "geoemb:build_version": "test",
            "geoemb:quantization": {
                "method": "per_pixel_scale",
                "original_dtype": "float32",
                "quantized_dtype": "int8",
                "scale": {"type": "array", "array_name": "scales", "nodata": "+inf"},
            },
        }
    )
    for zone in ZONES:
        _write_zone(root, zone)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(folder, zarr_format=3)
    return folder


def _write_zone(root: zarr.Group, zone: Zone) -> None:
    group = root.create_group(f"utm{zone.number:02d}")
    height, width = SHAPE
    arrays = {
        "embeddings": ((128,), np.int8, 0, ["time", "band", "y", "x"]),
        "scales": ((), np.float32, np.inf, ["time", "y", "x"]),
    }
    for name, (bands, dtype, fill, names) in arrays.items():
        group.create_array(
            name,
            shape=(len(YEARS), *bands, *SHAPE),
            chunks=(1, *bands, CHUNK, CHUNK),
            shards=(1, *bands, SHARD, SHARD),
            dtype=dtype,
            fill_value=fill,
            compressors=BloscCodec(cname="zstd", clevel=3),
            dimension_names=names,
        )
    x, y = zone.centres()
    axes: dict[str, Any] = {
        "x": x, "y": y, "time": np.array(YEARS, np.int32), "band": np.arange(128, dtype=np.int32),
    }  # fmt: skip
    for name, values in axes.items():
        group.create_array(name, data=values, dimension_names=[name])
    for index, year in enumerate(YEARS):
        codes, scales = zone.pixels(year)
        group["embeddings"][index] = codes
        group["scales"][index] = scales
    left, top = zone.origin
    group.attrs.update(
        {
            "proj:code": zone.crs,
            "spatial:dimensions": ["y", "x"],
            "spatial:transform_type": "affine",
            "spatial:transform": [PIXEL, 0.0, left, 0.0, -PIXEL, top],
            "spatial:shape": [height, width],
            "spatial:bbox": [left, top - PIXEL * height, left + PIXEL * width, top],
            "spatial:registration": "pixel",
        }
    )
