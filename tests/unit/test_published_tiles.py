"""Tile folders as the published pipeline makes them, whose labels are off the 10 m lattice.

Each pixel states its position on the ground, so a displaced product is seen.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from tessera_flow.block_file import open_block_file
from tessera_flow.config.configuration import Config, load_config
from tessera_flow.errors import TileError
from tessera_flow.region.blocks import load_region_grid, read_region
from tessera_flow.region.grid import RegionGrid
from tessera_flow.region.mask import write_mask
from tessera_flow.tile_folders.importer import import_tiles

from ..support.published_tiles import CRS, convert, ground, retile, write_raster

SIZE = 20
SHAPE = shapely.box(600_007.3, 5_699_400.9, 600_456.1, 5_699_998.4)
"""45 x 60 pixels; the lattice around it has 46 x 60."""


def settings(folder: Path, roi: str, **more: Any) -> Config:
    region = {"roi": str(folder / roi), **more.pop("region", {})}
    return load_config(
        {
            "regions": {"here": region},
            "periods": {"then": {"start": "2021-01-01", "end": "2021-12-31"}},
            "source": "tiles",
            "tiles": {"location": str(folder / "tiles")},
            "model": {"weights": "x.pt"},
            "grid": {"block_size": 40, "patch_size": SIZE, **more},
            "paths": {"work": str(folder / "work")},
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shape, its raster and its tile folders."""
    document = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{CRS[5:]}"}},
        "features": [
            {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(SHAPE)}
        ],
    }
    (tmp_path / "shape.geojson").write_text(json.dumps(document))
    retile(convert(SHAPE, tmp_path / "region.tiff"), tmp_path / "tiles", SIZE)
    return tmp_path


def imported(folder: Path, config: Config) -> tuple[RegionGrid, np.ndarray, np.ndarray]:
    """Import all blocks; return the grid, the first band and the mask of the whole region."""
    grid, _ = load_region_grid(config, "here")
    mask = folder / "mask.tif"
    write_mask(read_region(config, "here"), grid.geobox, mask)
    values, inside = np.zeros(grid.shape, np.uint16), np.zeros(grid.shape, np.uint8)
    for block in grid.blocks:
        out = folder / f"{block.id}.zip"
        import_tiles(folder / "tiles", grid, block, mask, out, config.grid.patch_size)
        with open_block_file(out) as group:
            attributes: dict[str, Any] = group.attrs.asdict()
            for y0, x0, h, w in attributes["patches"]:
                y, x = block.window.y0 + y0, block.window.x0 + x0
                values[y : y + h, x : x + w] = group[f"{y0}_{x0}/bands"][0, ..., 0]
                inside[y : y + h, x : x + w] = group[f"{y0}_{x0}/roi"][:]
    return grid, values, inside


def test_products_are_where_the_pixels_are(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the raster as the region, every pixel is used."""
    with caplog.at_level(logging.WARNING):
        grid, values, inside = imported(folder, settings(folder, "region.tiff"))
    assert grid.shape == (60, 45) and inside.all()
    assert grid.transform == (10, 0, 600_000, 0, -10, 5_700_000)
    np.testing.assert_array_equal(values, ground(600_000, 5_700_000, 60, 45))
    assert "region.tiff starts at 600007.3, 5699998.4" in caplog.text
    assert "are 7.300 units right of and 1.600 below the pixels" in caplog.text


def test_the_shape_itself_as_the_region(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its grid has one more column than the tiles, which has no data."""
    with caplog.at_level(logging.WARNING):
        grid, values, inside = imported(folder, settings(folder, "shape.geojson"))
    assert grid.shape == (60, 46) and grid.transform[2::3] == (600_000, 5_700_000)
    truth = ground(600_000, 5_700_000, 60, 46)
    np.testing.assert_array_equal(values[:, :45], truth[:, :45])
    assert not inside[:, 45].any() and not values[:, 45].any()
    assert inside[:, 1:45].all()  # the centre of the first column is outside the shape
    assert "lack the last column or row of this region's grid of 46 x 60 px" in caplog.text


@pytest.mark.parametrize("width", [40, 41])
def test_a_last_patch_of_one_column_without_a_tile(tmp_path: Path, width: int) -> None:
    """The tiles end where a patch ends; the grid has a column or row beyond them."""
    shape = shapely.box(600_007, 5_699_603, 600_007 + 10 * width, 5_700_003)
    retile(convert(shape, tmp_path / "region.tiff"), tmp_path / "tiles", SIZE)
    with rasterio.open(tmp_path / "region.tiff") as raster:
        box = shapely.box(*raster.bounds)
    document = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{CRS[5:]}"}},
        "features": [
            {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(box)}
        ],
    }
    (tmp_path / "shape.geojson").write_text(json.dumps(document))
    grid, values, _ = imported(tmp_path, settings(tmp_path, "shape.geojson"))
    assert grid.shape == (41, width + 1)
    truth = ground(600_000, 5_700_010, 41, width + 1)
    np.testing.assert_array_equal(values[:40, :width], truth[:40, :width])
    assert not values[40:].any() and not values[:, width:].any()


def test_the_grid_of_the_label_is_refused(folder: Path) -> None:
    """`align: roi` would state a position up to a pixel from the pixels."""
    config = settings(folder, "region.tiff", region={"align": "roi"})
    with pytest.raises(TileError, match=r"no multiples .* set regions\.here\.align to grid"):
        imported(folder, config)
    for path in (folder / "tiles").glob("*/roi.tiff"):
        path.unlink()
    with pytest.raises(TileError, match=r"set regions\.here\.align to grid"):
        imported(folder, config)


def test_exported_tiles_keep_the_grid_of_the_region(folder: Path) -> None:
    """Tiles that this software exported with `align: roi` are where they state."""
    names = [path.name for path in (folder / "tiles").iterdir()]
    (folder / "tiles/b000_000.json").write_text(json.dumps({"tiles": names}))
    config = settings(folder, "region.tiff", region={"align": "roi"})
    grid, values, inside = imported(folder, config)
    assert grid.transform[2::3] == (600_007.3, 5_699_998.4) and inside.all()
    np.testing.assert_array_equal(values, ground(600_000, 5_700_000, 60, 45))
    with pytest.raises(TileError, match=r"set regions\.here\.align to roi"):
        imported(folder, settings(folder, "region.tiff"))


def moved(path: Path, change: Callable[[Affine], Affine], crs: str = CRS) -> None:
    with rasterio.open(path) as raster:
        values, transform = raster.read(1), raster.transform
    write_raster(path, values, change(transform), crs)


@pytest.mark.parametrize(
    ("change", "crs", "message"),
    [
        (
            lambda t: Affine.translation(10, 0) @ t,
            CRS,
            r"starts at 600017\.3, 5699998\.4 in EPSG:32631, but column 0, row 0 .*"
            r"is at 600000\.0, 5700000\.0 in EPSG:32631: set regions\.here\.roi and crs",
        ),
        (lambda t: t, "EPSG:32632", r"in EPSG:32632, but .*set regions\.here\.roi and crs"),
        (lambda t: Affine.translation(-8, 0) @ t, CRS, r"starts at 599999\.3.*here\.align"),
        (
            lambda t: Affine(20, 0, t.c, 0, -20, t.f), CRS,
            r"pixels of 20 x -20 units .* has 10 x -10: set grid\.resolution",
        ),
        (lambda t: Affine.translation(1, 0) @ t, CRS, "were made for different regions"),
    ],
)  # fmt: skip
def test_labels_elsewhere_are_refused(
    folder: Path, change: Callable[[Affine], Affine], crs: str, message: str
) -> None:
    moved(folder / "tiles/0_0_20_20/roi.tiff", change, crs)
    with pytest.raises(TileError, match=message):
        imported(folder, settings(folder, "region.tiff"))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: (t / "0_0_20_20").rename(t / "5_0_25_20"), {},
         r"from column 5, row 0, .*multiples of 20 px: set grid\.patch_size"),
        (lambda t: (t / "20_0_40_20").rename(t / "20_0_39_20"), {},
         r"covers 19 x 20 px .* there it has 20 x 20 px\. .*correct the folder's name"),
        (lambda t: (t / "40_0_45_20").rename(t / "40_0_43_20"), {},
         r"covers 3 x 20 px .* there it has 5 x 20 px\. The grid of the region has 45 x 60 px"),
        (lambda t: shutil.copytree(t / "40_0_45_20", t / "40_0_44_20"), {},
         r"cover the same pixels: remove one"),
        (lambda t: (t / "40_0_45_20").rename(t / "40_0_44_20"), {},
         r"some outside the 20 x 4 that its name states are used"),
        (lambda t: shutil.rmtree(t / "0_20_20_40"), {}, "1 of its patches have no tile folder"),
        (lambda t: None, {"patch_size": 40}, r"covers 20 x 20 px .*there it has 40 x 40 px"),
        (lambda t: None, {"patch_size": 10, "block_size": 40},
         r"covers 20 x 20 px .*there it has 10 x 10 px\. Set grid\.patch_size"),
    ],
)  # fmt: skip
def test_names_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[Path], object], options: dict[str, int], message: str
) -> None:
    change(folder / "tiles")
    with pytest.raises(TileError, match=message):
        imported(folder, settings(folder, "region.tiff", **options))


def test_all_bad_tiles_of_a_block_are_listed(folder: Path) -> None:
    for name in ("0_0_20_20", "20_0_40_20"):
        (folder / "tiles" / name / "bands.npy").write_bytes(b"x")
    with pytest.raises(TileError, match="2 tiles of block b000_000 cannot be used") as error:
        imported(folder, settings(folder, "region.tiff"))
    assert str(error.value).count("bands.npy cannot be used") == 2


def test_folders_of_other_names_and_tiles_without_position_are_stated(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder / "tiles/0_0_20_20", folder / "tiles/backup")
    for path in (folder / "tiles").glob("*/roi.tiff"):
        path.unlink()
    with caplog.at_level(logging.WARNING):
        _, values, _ = imported(folder, settings(folder, "region.tiff"))
    np.testing.assert_array_equal(values, ground(600_000, 5_700_000, 60, 45))
    assert "names are not of the form x0_y0_x1_y1 (backup)" in caplog.text
    assert "4 tiles state no position" in caplog.text


def shorten(tile: Path, rows: int, columns: int) -> None:
    """Remove the last rows and columns of the arrays of a tile."""
    height, width = np.load(tile / "bands.npy").shape[1:3]
    y, x = slice(0, height - rows), slice(0, width - columns)
    for path in tile.glob("*.npy"):
        values = np.load(path)
        if values.ndim > 1:
            np.save(path, np.ascontiguousarray(values[:, y, x]))
    with rasterio.open(tile / "roi.tiff") as dataset:
        values, transform = dataset.read(1)[y, x], dataset.transform
    write_raster(tile / "roi.tiff", values, transform)


def test_arrays_that_lack_the_last_row_or_column(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(folder, "region.tiff")
    _, expected, whole = imported(folder, config)
    height, width = expected.shape
    for path in (folder / "tiles").iterdir():
        x0, y0, x1, y1 = (int(number) for number in path.name.split("_"))
        # Edge tiles are padded to SIZE: without the padding, and without one pixel more.
        rows = SIZE - (y1 - y0) + 1 if y1 == height else 0
        columns = SIZE - (x1 - x0) + 1 if x1 == width else 0
        shorten(path, rows, columns)
    caplog.clear()
    _, values, inside = imported(folder, config)
    np.testing.assert_array_equal(values[:-1, :-1], expected[:-1, :-1])
    np.testing.assert_array_equal(inside[:-1, :-1], whole[:-1, :-1])
    assert not inside[-1].any() and not inside[:, -1].any()
    assert "the last row or column has no data" in caplog.text


@pytest.mark.parametrize(("name", "rows"), [("0_0_20_20", 1), ("0_40_20_60", 2)])
def test_arrays_that_lack_more_are_refused(folder: Path, name: str, rows: int) -> None:
    shorten(folder / "tiles" / name, rows, 0)
    with pytest.raises(TileError, match=rf"{name} has {SIZE - rows} x 20 pixels, but its name"):
        imported(folder, settings(folder, "region.tiff"))
