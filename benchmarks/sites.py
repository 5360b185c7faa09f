"""Reads of scattered points: range requests and bytes, against the distinct blocks of the files.

    python -m benchmarks.sites [--points 10000] [--edge 10980]

Two Cloud-Optimized GeoTIFFs of the size of a Sentinel-2 tile, a 10 m and a 20 m band in blocks of
512 pixels, are served over HTTP. Pixels of random points in the tile are read on the tile's own
grid and on that of the neighbouring UTM zone. The reference is counted independently of the reader:
the blocks that contain the pixel (20 m bands: and its neighbours, which bilinear resampling needs),
and their bytes as the files state them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from tests.support.servers import serve_files

from tessera_flow.archives.providers import find_provider
from tessera_flow.archives.signing import Access
from tessera_flow.raster.pixels import PixelList
from tessera_flow.raster.reader import Asset, Reader
from tessera_flow.raster.resample import ReadOptions

ORIGIN = (600_000.0, 5_700_000.0)
OWN, NEXT = "EPSG:32631", "EPSG:32632"
BLOCK = 512


@dataclass(frozen=True)
class Reads:
    """Reads of one file.

    Attributes:
        requests, received: range requests, and bytes that the server sent.
        blocks, block_bytes: distinct blocks that the points need, and their size in the file.
        seconds: processor time of the read.
    """

    requests: int
    received: int
    blocks: int
    block_bytes: int
    seconds: float

    def text(self) -> str:
        """Return a line of the report."""
        return (
            f"{self.requests} requests for {self.blocks} blocks "
            f"({self.requests / self.blocks:.3f} per block), {self.received / 1e6:.1f} MB for "
            f"{self.block_bytes / 1e6:.1f} MB ({self.received / self.block_bytes:.3f}), "
            f"{self.seconds:.1f} s of processor time"
        )


def write_band(path: Path, edge: int, pixel: float) -> None:
    """Write a band of noise of 8 bits, which compresses about as a scene does."""
    count = round(10 * edge / pixel)
    values = np.random.default_rng(1).integers(1, 256, (count, count)).astype(np.uint16)
    with rasterio.open(
        path, "w", driver="COG", width=count, height=count, count=1, dtype="uint16", crs=OWN,
        transform=Affine(pixel, 0, ORIGIN[0], 0, -pixel, ORIGIN[1]), compress="deflate",
        level=1, blocksize=BLOCK, overviews="NONE",
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)


def needed_blocks(
    path: Path, x: NDArray[np.float64], y: NDArray[np.float64], reach: float
) -> tuple[int, int]:
    """Return number and bytes of the blocks within `reach` pixels of the file around points."""
    with rasterio.open(path) as dataset:
        columns, rows = ~dataset.transform @ (x, y)
        blocks = set()
        for down in (-reach, reach):
            for right in (-reach, reach):
                row = np.clip(np.floor(rows + down), 0, dataset.height - 1) // BLOCK
                column = np.clip(np.floor(columns + right), 0, dataset.width - 1) // BLOCK
                blocks |= set(zip(row.astype(int), column.astype(int), strict=True))
        size = sum(
            int(dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1))
            for row, column in blocks
        )
    return len(blocks), size


def count_reads(folder: Path, name: str, points: int, edge: int, zone: str, reach: float) -> Reads:
    """Read the pixels of random points in a tile, and count."""
    rng = np.random.default_rng(2)
    x = ORIGIN[0] + 10 * rng.uniform(20, edge - 20, points)
    y = ORIGIN[1] - 10 * rng.uniform(20, edge - 20, points)
    east, north = pyproj.Transformer.from_crs(OWN, zone, always_xy=True).transform(x, y)
    left, top = np.floor(min(east) / 1e5) * 1e5, np.ceil(max(north) / 1e5) * 1e5
    geobox = GeoBox((30_000, 30_000), Affine(10, 0, left, 0, -10, top), zone)
    pairs = np.stack([(top - north) // 10, (east - left) // 10], axis=1).astype(np.int64)
    rows, columns = np.unique(pairs, axis=0).T
    back = pyproj.Transformer.from_crs(zone, OWN, always_xy=True)
    centres = back.transform(left + 10 * (columns + 0.5), top - 10 * (rows + 0.5))
    blocks = needed_blocks(folder / name, np.asarray(centres[0]), np.asarray(centres[1]), reach)
    options = {option.name: option.value for option in find_provider("mpc", "").gdal_options}
    with (
        serve_files(folder) as server,
        Reader(lambda href, fresh=False: Access(href), gdal=options) as reader,
    ):
        start = time.process_time()
        asset = Asset("tile", "B04", f"{server.url}/{name}")
        pixels = PixelList(geobox, rows, columns)
        reader.read_pixels(asset, pixels, "uint16", ReadOptions("bilinear", True))
        seconds = time.process_time() - start
        requests = sum(request.status == 206 for request in server.requests)
    return Reads(requests, server.sent, *blocks, seconds)


CASES = (
    ("10 m band, own zone", "10m.tif", OWN, 0.0),
    ("20 m band, own zone", "20m.tif", OWN, 0.5),
    ("10 m band, neighbouring zone", "10m.tif", NEXT, 1.0),
)


def main() -> None:
    """Print the reads of each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--edge", type=int, default=10_980)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_band(folder / "10m.tif", arguments.edge, 10.0)
        write_band(folder / "20m.tif", arguments.edge, 20.0)
        for title, file, zone, reach in CASES:
            reads = count_reads(folder, file, arguments.points, arguments.edge, zone, reach)
            print(f"{title}, {arguments.points} points: {reads.text()}")


if __name__ == "__main__":
    main()
