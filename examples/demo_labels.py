"""Write labels for the demo from the simulated landscape: points with their land cover.

python examples/demo_labels.py labels.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from pyproj import Transformer

from tessera_flow.demo import build
from tessera_flow.demo.landscape import Cover, build_landscape
from tessera_flow.demo.scenes import CRS, MARGIN, Region

PER_CLASS = 150


def write_labels(path: Path, height: int = 160, width: int = 200) -> int:
    """Write up to 150 pure pixels of each land cover; return the number of points."""
    region = Region(height, width, build.SEED)
    rows, columns = region.scene_shape
    cells = build_landscape(2 * rows, 2 * columns, build.SEED).cover
    quarters = cells.reshape(rows, 2, columns, 2).transpose(0, 2, 1, 3).reshape(rows, columns, 4)
    cover = quarters[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    pure = (cover == cover[..., :1]).all(axis=-1)
    left, _, _, top = region.bounds
    to_lonlat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    random = np.random.default_rng(0)
    points = []
    for kind in Cover:
        y, x = np.nonzero(pure & (cover[..., 0] == kind))
        if len(y) < 20:
            continue
        selected = random.permutation(len(y))[:PER_CLASS]
        lon, lat = to_lonlat.transform(
            left + 10 * (x[selected] + 0.5), top - 10 * (y[selected] + 0.5)
        )
        points += [(a, b, kind.name.lower()) for a, b in zip(lon, lat, strict=True)]
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["lon", "lat", "cover"])
        writer.writerows(points)
    return len(points)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(f"{arguments.out}: {write_labels(arguments.out)} points")
