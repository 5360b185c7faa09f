"""Numbers of `preprocessing: corrected` against `as_published` (docs/fidelity.md).

python benchmarks/fidelity.py [--bands bands.npy]

Prints, for each place where the two differ, how many pixels differ and by how much. The landscape
is generated, or the first date of a tile's `bands.npy` (T, H, W, 10). Scenes are made from it, in
the grid of the region or in that of the neighbouring UTM zone, and read by the code that the
workflow uses, and with GDAL's defaults as odc-stac sets them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import numpy as np
import pyproj
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.warp import reproject

from tessera_flow.raster.resample import ReadOptions, read_window
from tessera_flow.sensors.sentinel2 import BOA_OFFSET, remove_offset

REGION, NEIGHBOUR = "EPSG:32631", "EPSG:32632"
LEFT, TOP, PIXEL = 664_000, 5_612_120, 10
BANDS = ("B04", "B02", "B03", "B08")
"""With 10 m pixels, in the order of `bands.npy`."""


def landscape(size: int = 400) -> np.ndarray:
    """Return (4, H, W) digital numbers of fields with borders, texture and dark water."""
    random = np.random.default_rng(0)
    fields = random.integers(0, 60, (size // 25 + 1,) * 2).repeat(25, 0).repeat(25, 1)
    fields = fields[:size, :size]
    means = np.array([[600, 430, 710, 2600]]) * random.uniform(0.5, 1.6, (60, 4))
    means[:4] = 60, 90, 70, 20  # water, whose reflectance may be below 0
    noise = random.normal(0, 1, (4, size, size)) * np.array([40, 30, 35, 120])[:, None, None]
    values = np.moveaxis(means[fields], -1, 0) + noise
    return np.rint(np.clip(values, -80, 15_000)).astype(np.int32)


def describe(name: str, one: np.ndarray, other: np.ndarray, used: np.ndarray) -> None:
    """Print the share of values that differ, and quantiles of the absolute difference."""
    difference = np.abs(one.astype(np.int64) - other.astype(np.int64))[used]
    differing = difference[difference > 0]
    if not differing.size:
        print(f"| {name} | 0 | | | |")
        return
    share = 100 * differing.size / difference.size
    median, high = np.median(differing), np.percentile(differing, 99)
    print(f"| {name} | {share:.2f} | {median:.0f} | {high:.0f} | {differing.max()} |")


def write(path: Path, values: np.ndarray, transform: Affine, crs: str) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1,
        dtype="uint16", crs=crs, transform=transform,
    ) as target:  # fmt: skip
        target.write(values.astype(np.uint16), 1)
    return path


def read(path: Path, geobox: GeoBox, declare_nodata: bool) -> np.ndarray:
    result = np.zeros(geobox.shape, np.uint16)
    with rasterio.open(path) as dataset:
        slices, values = read_window(dataset, geobox, ReadOptions("bilinear", declare_nodata))
    result[slices] = values
    return result


def read_with_defaults(path: Path, geobox: GeoBox) -> np.ndarray:
    """Read a scene as odc-stac does: GDAL's approximate transformer and kernel scale."""
    result = np.zeros(geobox.shape, np.uint16)
    with rasterio.open(path) as dataset:
        reproject(
            rasterio.band(dataset, 1), result, dst_transform=geobox.affine, dst_crs=REGION,
            resampling=Resampling.bilinear,
        )  # fmt: skip
    return result


def offset(truth: np.ndarray) -> None:
    """Compare both rules for scenes of baseline 04.00, whose digital numbers are 1000 too large."""
    stored = np.clip(truth + BOA_OFFSET, 0, None).astype(np.uint16)
    one, other = remove_offset(stored), remove_offset(stored, "as_published")
    describe("offset, scenes after 25 January 2022", one, other, stored > 0)
    dark = stored <= BOA_OFFSET
    describe("... of these, pixels of reflectance 0 or less", one, other, dark)


def duplicate(truth: np.ndarray) -> None:
    """Compare an acquisition of 2021 with its copy of baseline 05.00.

    Here the copy is used and its offset removed. The published code orders both by date, cloud
    cover and id, so that the copy may come first, and removes no offset before 26 January 2022.
    """
    stored = np.clip(truth + BOA_OFFSET, 0, None).astype(np.uint16)
    describe("duplicate, if the copy is first", remove_offset(stored), stored, stored > 0)
    original = np.clip(truth, 0, None).astype(np.uint16)
    describe("duplicate, if the original is first", remove_offset(stored), original, original > 0)


def swath_edge(truth: np.ndarray, folder: Path) -> None:
    """Compare 20 m pixels at the edge of a swath, in a file that declares no value as no data."""
    height, width = (n // 2 * 2 for n in truth.shape[1:])
    coarse = truth[3, :height:2, :width:2].clip(1) + BOA_OFFSET
    outside = np.add.outer(np.arange(height // 2), 2 * np.arange(width // 2)) < width // 2
    path = write(folder / "edge.tif", np.where(outside, 0, coarse),
                 Affine(2 * PIXEL, 0, LEFT, 0, -2 * PIXEL, TOP), REGION)  # fmt: skip
    geobox = GeoBox((height, width), Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP), REGION)
    corrected, published = read(path, geobox, True), read(path, geobox, False)
    used = corrected > 0
    describe("edge of a swath, 20 m band", corrected, published, used)


def neighbouring_zone(truth: np.ndarray, folder: Path) -> None:
    """Compare a scene of the neighbouring UTM zone, read exactly and with GDAL's defaults."""
    height, width = truth.shape[1:]
    move = pyproj.Transformer.from_crs(REGION, NEIGHBOUR, always_xy=True)
    x, y = move.transform(LEFT + PIXEL * width / 2, TOP - PIXEL * height / 2)
    left = round((x - PIXEL * width / 2) / PIXEL) * PIXEL
    top = round((y + PIXEL * height / 2) / PIXEL) * PIXEL
    inner = GeoBox((height // 2, width // 2), Affine(PIXEL, 0, LEFT + PIXEL * (width // 4), 0,
                   -PIXEL, TOP - PIXEL * (height // 4)), REGION)  # fmt: skip
    for band in ("B04", "B08"):
        values = truth[BANDS.index(band)]
        path = write(folder / "zone.tif", values.clip(1), Affine(PIXEL, 0, left, 0, -PIXEL, top),
                     NEIGHBOUR)  # fmt: skip
        exact, default = read(path, inner, True), read_with_defaults(path, inner)
        describe(f"neighbouring zone, {band}", exact, default, exact > 0)
        part = inner[: inner.height // 2, : inner.width // 2]
        rows, columns = (slice(0, n) for n in part.shape)
        quarter = f"... {band} read with a quarter of the window"
        used = exact[rows, columns] > 0
        describe(
            f"{quarter}, GDAL's defaults", read_with_defaults(path, part), default[rows, columns],
            used,
        )  # fmt: skip
        describe(f"{quarter}, here", read(path, part, True), exact[rows, columns], used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bands", type=Path, help="bands.npy of a tile folder")
    arguments = parser.parse_args()
    if arguments.bands is None:
        truth = landscape()
    else:
        bands = np.load(arguments.bands, mmap_mode="r")
        date = int(np.argmax((bands[..., 0] > 0).reshape(len(bands), -1).sum(axis=1)))
        truth = np.moveaxis(np.asarray(bands[date, ..., : len(BANDS)]), -1, 0).astype(np.int32)
    print("| what | % differ | median DN | 99 % | largest |\n|---|---|---|---|---|")
    offset(truth)
    duplicate(truth)
    with tempfile.TemporaryDirectory() as folder:
        neighbouring_zone(truth, Path(folder))
        swath_edge(truth, Path(folder))


if __name__ == "__main__":
    main()
