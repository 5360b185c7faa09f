"""Write a small store of published embeddings: one UTM grid per tile, like the published one, but
with pixels of 100 m."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from affine import Affine
from pyproj import Transformer

PIXEL = 100.0
YEAR = 2021


@dataclass(frozen=True)
class Tile:
    """A tile in UTM zone `zone` (north), shifted by `shift` metres from multiples of a pixel.

    The first three dimensions are the number of the tile, the row and the column (both below
    128); the others are random.
    """

    lon: int
    lat: int
    zone: int
    shift: float = 0.0

    @property
    def name(self) -> str:
        return f"grid_{self.lon / 100:.2f}_{self.lat / 100:.2f}"

    @property
    def crs(self) -> str:
        return f"EPSG:{32600 + self.zone}"

    @property
    def number(self) -> int:
        return (self.lon // 10 * 7 + self.lat // 10 * 3) % 100

    def grid(self) -> tuple[Affine, tuple[int, int]]:
        """Return transform and (height, width) of the pixels that cover the cell."""
        lon, lat = self.lon / 100, self.lat / 100
        move = Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)
        left, bottom, right, top = move.transform_bounds(
            lon - 0.05, lat - 0.05, lon + 0.05, lat + 0.05
        )
        x0 = np.floor(left / PIXEL) * PIXEL + self.shift
        y0 = np.ceil(top / PIXEL) * PIXEL + self.shift
        width, height = int((right - x0) / PIXEL) + 1, int((y0 - bottom) / PIXEL) + 1
        return Affine(PIXEL, 0, x0, 0, -PIXEL, y0), (height, width)

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return codes (h, w, 128) int8 and scales (h, w) float32; NaN in a square that no other
        tile covers, and along the eastern edge, which the next tile covers partly."""
        _, (height, width) = self.grid()
        random = np.random.default_rng([self.lon % 36000, self.lat])
        codes = random.integers(-127, 128, (height, width, 128)).astype(np.int8)
        rows, columns = np.mgrid[0:height, 0:width]
        for band, values in enumerate((np.full_like(rows, self.number), rows, columns)):
            codes[..., band] = values
        scales = random.uniform(0.01, 0.1, (height, width)).astype(np.float32)
        codes[40:50, 30:40], scales[40:50, 30:40] = 0, np.nan
        codes[:, -4:], scales[:, -4:] = 0, np.nan
        scales[60, 30:33] = 0.0, 3e38, np.inf  # values of published files without an embedding
        return codes, scales


def write_store(folder: Path, tiles: Iterable[Tile], year: int = YEAR) -> Path:
    """Write the files of a store, and its lists for clients of version 0.7 and 0.11."""
    rows: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    for tile in tiles:
        tile_folder = folder / "global_0.1_degree_representation" / str(year) / tile.name
        tile_folder.mkdir(parents=True, exist_ok=True)
        codes, scales = tile.pixels()
        files = {"": codes, "_scales": scales}
        for end, data in files.items():
            np.save(tile_folder / f"{tile.name}{end}.npy", data)
        transform, shape = tile.grid()
        mask = folder / "global_0.1_degree_tiff_all" / f"{tile.name}.tiff"
        mask.parent.mkdir(exist_ok=True)
        with rasterio.open(
            mask, "w", driver="GTiff", height=shape[0], width=shape[1], count=1, dtype="uint8",
            crs=tile.crs, transform=transform,
        ) as target:  # fmt: skip
            target.write(np.ones(shape, np.uint8), 1)
        paths = [tile_folder / f"{tile.name}{end}.npy" for end in files]
        centre = {"lon": tile.lon / 100, "lat": tile.lat / 100}
        sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*paths, mask)]
        sizes = [path.stat().st_size for path in (*paths, mask)]
        rows.append(
            {**centre, "year": year, "hash": sums[0], "scales_hash": sums[1],
             "file_size": sizes[0], "scales_size": sizes[1]}
        )  # fmt: skip
        masks.append({**centre, "hash": sums[2], "file_size": sizes[2]})
    registry = pa.Table.from_pylist(rows)
    pq.write_table(registry, folder / "registry.parquet")
    manifest = registry.select(["year", "lon", "lat", "file_size", "scales_size"])
    manifest = manifest.rename_columns(["year", "lon", "lat", "grid_size", "scales_size"])
    pq.write_table(manifest, folder / "manifest.parquet")
    pq.write_table(pa.Table.from_pylist(masks), folder / "landmasks.parquet")
    return folder
