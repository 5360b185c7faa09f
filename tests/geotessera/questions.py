"""Stores and questions about them: what is put to the geotessera client and to this program."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from tessera_flow.products.provenance import build_provenance
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.region.grid import Block, RegionGrid, block_id, tiling

from ..support.products_region import WEIGHTS, Region, make_config, write_block
from ..support.published_zarr import ZONES, write_published

PLACES = {
    "utm_31": ("EPSG:32631", 5.9995, 51.5),
    "utm_33_south": ("EPSG:32733", 14.0, -22.6),
    "laea": ("EPSG:3035", 11.9995, 48.0),
}
"""CRS and centre of the regions whose product is written: across the border of two UTM zones, in
the south, and in another CRS across a border."""
SHAPE = (90, 130)


def lonlat(crs: str, x: Any, y: Any) -> list[list[float]]:
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return [[round(float(a), 9), round(float(b), 9)] for a, b in zip(lon, lat, strict=True)]


def published_questions() -> dict[str, dict[str, Any]]:
    """Return the questions about the store of `published_zarr`: points in every kind of pixel."""
    rows = np.array([2, 5, 12, 25, 25, 45, 61, 70, 90, 100, 127])
    columns = np.array([3, 5, 150, 25, 70, 55, 11, 40, 140, 90, 0])
    points: dict[int, list[list[float]]] = {}
    for zone in ZONES:
        x, y = zone.centres()
        points[zone.number] = lonlat(zone.crs, x[columns] + 2, y[rows] - 3)
    beyond = [[5.9, 51.5], [6.1, 51.5], [5.9955, 51.6], [20.0, 0.0]]
    north = points[31] + points[32] + beyond
    border = [5.9935, 51.4965, 6.0065, 51.5035]
    west, east = [*border[:2], 5.9985, border[3]], [6.0015, *border[1:]]
    equator = [13.9935, -0.005, 14.0065, 0.005]
    return {
        "north": {"year": 2024, "points": north, "boxes": [west, east]},
        "south": {"year": 2024, "points": points[33], "boxes": [equator]},
        "first_year": {"year": 2023, "points": points[33] + points[31], "boxes": [equator]},
    }


def write_product(name: str, folder: Path) -> tuple[Region, Path]:
    """Write the product of a region of `PLACES`; its pixels follow from a formula."""
    crs, lon, lat = PLACES[name]
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    left, top = round(x / 10 - SHAPE[1] / 2) * 10, round(y / 10 + SHAPE[0] / 2) * 10
    box = GeoBox(SHAPE, Affine(10, 0, left, 0, -10, top), crs)
    blocks = tuple(Block(block_id(w.y0 // 64, w.x0 // 64), w) for w in tiling(*SHAPE, 64))
    grid = RegionGrid.of("field", box, 64, 1, blocks)
    row, column, band = np.ogrid[0 : SHAPE[0], 0 : SHAPE[1], 0:128]
    codes = ((row * 31 + column * 73 + band * 41 + (row * column) % 19) % 255 - 127).astype(np.int8)
    scales = (((row * 5 + column * 3)[..., 0] % 50 + 16) / 1024).astype(np.float32)
    valid = (row[..., 0] - 40) ** 2 + (column[..., 0] - 30) ** 2 > 15**2
    codes[~valid], scales[~valid] = 0, np.nan
    counts = np.where(valid[..., None], 20, 0).astype(np.uint16).repeat(3, axis=2)
    paths = {}
    for block in grid.blocks:
        window = grid.product_window(block).slices
        paths[block.id] = folder / f"{block.id}.zip"
        write_block(paths[block.id], codes[window], scales[window], counts[window], 25)
    provenance = build_provenance(grid, make_config(128), "field", "y2023", WEIGHTS)
    region = Region(grid, paths, codes, scales, counts, valid, provenance)
    store = folder / "geotessera"
    write_geotessera(store, grid, paths, provenance)
    return region, store


def product_questions(region: Region) -> dict[str, Any]:
    """Return the questions about a product: pixels of the region, also without an embedding."""
    rows, columns = sample_pixels()
    box = region.grid.geobox
    x, y = box.affine @ (columns + 0.6, rows + 0.3)
    points = lonlat(str(box.crs), x, y)
    left, bottom, right, top = box.boundingbox.bbox
    corners = np.array(lonlat(str(box.crs), [left, right, left, right], [bottom, bottom, top, top]))
    box_of_all = [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]
    return {"year": 2023, "points": points, "boxes": [box_of_all]}


def sample_pixels() -> tuple[np.ndarray, np.ndarray]:
    """Return (row, column) of pixels in all parts of the region."""
    number = np.arange(40)
    return (number * 37 + 11) % (SHAPE[0] - 2) + 1, (number * 53 + 7) % (SHAPE[1] - 2) + 1


def content(store: Path) -> str:
    """Return a SHA-256 of what a reader of a store gets: arrays, transforms and the years."""
    total = hashlib.sha256()
    root: Any = zarr.open_group(store, mode="r")
    for name in sorted(root.group_keys()):
        group = root[name]
        total.update(
            f"{name} {group.attrs['proj:code']} {group.attrs['spatial:transform']}".encode()
        )
        for array in ("time", "band", "y", "x", "scales", "embeddings"):
            data = np.ascontiguousarray(group[array][:])
            total.update(f"{array} {data.shape} {data.dtype}".encode())
            total.update(np.nan_to_num(data, nan=-1, posinf=-2).tobytes())
    return total.hexdigest()


def stores(folder: Path) -> Iterator[tuple[Path, dict[str, dict[str, Any]], str]]:
    """Write every store; yield its folder, questions and content."""
    path = write_published(folder / "published")
    yield path, published_questions(), content(path)
    for name in PLACES:
        (folder / name).mkdir()
        region, path = write_product(name, folder / name)
        yield path, {name: product_questions(region)}, content(path)
