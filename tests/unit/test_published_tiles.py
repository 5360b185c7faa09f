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
from tessera_flow.config.empty_block import OnEmptyBlock
from tessera_flow.errors import TileError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.scene_warnings import scene_warnings
from tessera_flow.jobs.state.status import status
from tessera_flow.products.inputs import tile_warnings
from tessera_flow.region.blocks import load_region_grid, read_region
from tessera_flow.region.grid import RegionGrid
from tessera_flow.region.mask import write_mask
from tessera_flow.tile_folders.importer import import_tiles

from ..support.published_tiles import (
    CRS,
    convert,
    ground,
    retile,
    write_geojson,
    write_raster,
)

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
    write_geojson(tmp_path / "shape.geojson", SHAPE)
    retile(convert(SHAPE, tmp_path / "region.tiff"), tmp_path / "tiles", SIZE)
    return tmp_path


MOVED = (
    "Tiles with a position in roi.tiff that is 7.300 units right of and 1.600 below the pixels: "
    "{}. The pixels are on multiples of the pixel size (the published pipeline labels its tiles "
    "with the bounds of the region's shape); the product has their position."
)
SHORT = (
    "Patches with a tile that lacks the last row or column of the region's grid, which has no data "
    "there: {}."
)


def texts(grid: RegionGrid, folder: Path) -> list[str]:
    """Return what the products of imported blocks state about the tiles."""
    return tile_warnings(folder / f"{block.id}.zip" for block in grid.blocks)


def imported(
    folder: Path, config: Config, on_empty_block: OnEmptyBlock = "fail"
) -> tuple[RegionGrid, np.ndarray, np.ndarray]:
    """Import all blocks; return the grid, the first band and the mask of the whole region."""
    grid, _ = load_region_grid(config, "here")
    mask = folder / "mask.tif"
    write_mask(read_region(config, "here"), grid.geobox, mask)
    values, inside = np.zeros(grid.shape, np.uint16), np.zeros(grid.shape, np.uint8)
    for block in grid.blocks:
        out = folder / f"{block.id}.zip"
        import_tiles(
            folder / "tiles", grid, block, mask, out, config.grid.patch_size, on_empty_block
        )
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
    assert "the mask starts at 600007.3, 5699998.4" in caplog.text
    assert "is 7.300 units right of and 1.600 below the pixels: 4." in caplog.text


def test_the_shape_itself_as_the_region(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its grid has one more column than the tiles, which has no data."""
    with caplog.at_level(logging.WARNING):
        grid, values, inside = imported(folder, settings(folder, "shape.geojson"))
    assert grid.shape == (60, 46) and grid.transform[2::3] == (600_000, 5_700_000)
    truth = ground(600_000, 5_700_000, 60, 46)
    np.testing.assert_array_equal(values[:, :45], truth[:, :45])
    assert not inside[:, 45].any() and not values[:, 45].any()
    assert inside[:, 1:45].all()  # the centre of the first column is outside the shape
    assert texts(grid, folder) == [MOVED.format(9), SHORT.format(3)]


@pytest.mark.parametrize("width", [40, 41])
def test_a_last_patch_of_one_column_without_a_tile(tmp_path: Path, width: int) -> None:
    """The tiles end where a patch ends; the grid has a column or row beyond them."""
    shape = shapely.box(600_007, 5_699_603, 600_007 + 10 * width, 5_700_003)
    retile(convert(shape, tmp_path / "region.tiff"), tmp_path / "tiles", SIZE)
    with rasterio.open(tmp_path / "region.tiff") as raster:
        write_geojson(tmp_path / "shape.geojson", shapely.box(*raster.bounds))
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
         r"some outside the 20 x 4 that its name states have data"),
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
        grid, values, _ = imported(folder, settings(folder, "region.tiff"))
    np.testing.assert_array_equal(values, ground(600_000, 5_700_000, 60, 45))
    assert "names are not of the form x0_y0_x1_y1: 1 (backup)" in caplog.text
    assert texts(grid, folder) == [
        "Tiles without a position (roi.tiff missing or without CRS), used as their names state: 9 "
        "(0_0_20_20, 0_20_20_40, 0_40_20_60, 20_0_40_20, 20_20_40_40, ...).",
        "Folders with arrays that are not used, because their names are not of the form "
        "x0_y0_x1_y1: 1 (backup).",
    ]


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


def test_arrays_that_lack_the_last_row_or_column(folder: Path) -> None:
    config = settings(folder, "region.tiff")
    _, expected, whole = imported(folder, config)
    height, width = expected.shape
    for path in (folder / "tiles").iterdir():
        x0, y0, x1, y1 = (int(number) for number in path.name.split("_"))
        # Edge tiles are padded to SIZE: without the padding, and without one pixel more.
        rows = SIZE - (y1 - y0) + 1 if y1 == height else 0
        columns = SIZE - (x1 - x0) + 1 if x1 == width else 0
        shorten(path, rows, columns)
    grid, values, inside = imported(folder, config)
    np.testing.assert_array_equal(values[:-1, :-1], expected[:-1, :-1])
    np.testing.assert_array_equal(inside[:-1, :-1], whole[:-1, :-1])
    assert not inside[-1].any() and not inside[:, -1].any()
    assert texts(grid, folder) == [MOVED.format(9), SHORT.format(5)]


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [("0_0_20_20", 1, 0), ("0_40_20_60", 2, 0), ("40_40_45_60", 1, 17), ("40_40_45_60", 2, 16)],
)
def test_arrays_that_lack_more_are_refused(
    folder: Path, name: str, rows: int, columns: int
) -> None:
    """The message has the size that the name states, also if one row alone could be missing."""
    shorten(folder / "tiles" / name, rows, columns)
    size = f"{SIZE - rows} x {SIZE - columns}"
    width = 20 if name[0] == "0" else 5
    with pytest.raises(TileError, match=rf"{name} has {size} pixels, .* states 20 x {width}, or"):
        imported(folder, settings(folder, "region.tiff"))


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], **profile: Any) -> None:
    """Write the raster of a tile's mask again with other values."""
    with rasterio.open(path) as dataset:
        values, old = dataset.read(1), dataset.profile
    values = change(values)
    with rasterio.open(path, "w", **old | {"dtype": values.dtype} | profile) as target:
        target.write(values, 1)


def test_masks_that_are_1_in_their_padding(folder: Path) -> None:
    """An early version of the published retiler wrote 1 in every pixel of every roi.tiff."""
    config = settings(folder, "region.tiff")
    _, expected, _ = imported(folder, config)
    for path in (folder / "tiles").glob("*/roi.tiff"):
        rewrite(path, np.ones_like)
    grid, values, inside = imported(folder, config)
    np.testing.assert_array_equal(values, expected)
    assert inside.all() and texts(grid, folder) == [MOVED.format(9)]


@pytest.mark.parametrize("name", ["masks", "sar_ascending"])
@pytest.mark.parametrize("mask", [True, False])
def test_observations_in_the_padding_are_refused(folder: Path, name: str, mask: bool) -> None:
    tile = folder / "tiles/40_40_45_60"
    rewrite(tile / "roi.tiff", np.ones_like)
    if not mask:
        (tile / "roi.tiff").unlink()
    values = np.load(tile / f"{name}.npy")
    values[0, 19, 19] = 1
    np.save(tile / f"{name}.npy", values)
    with pytest.raises(TileError, match=r"40_40_45_60 .*outside the 20 x 5 .* have data"):
        imported(folder, settings(folder, "region.tiff"))


@pytest.mark.parametrize(
    ("change", "profile"),
    [
        (lambda a: np.where(a > 0, 2, 0).astype(np.int16), {}),
        (lambda a: np.where(a > 0, 0.25, -3).astype(np.float32), {}),
        (lambda a: np.where(a > 0, 1, np.nan).astype(np.float32), {}),
        (lambda a: np.where(a > 0, 1, 255).astype(np.uint8), {"nodata": 255}),
    ],
)
def test_values_of_masks(
    folder: Path, change: Callable[[np.ndarray], np.ndarray], profile: dict[str, Any]
) -> None:
    """Above 0 is inside; 0, negative, no data and NaN are outside."""
    half = folder / "tiles/0_0_20_20/roi.tiff"
    rewrite(half, lambda a: change(np.where(np.arange(SIZE) < 12, a, 0)), **profile)
    for path in (folder / "tiles").glob("*/roi.tiff"):
        if path != half:
            rewrite(path, change, **profile)
    grid, _, inside = imported(folder, settings(folder, "region.tiff"))
    assert not inside[:20, 12:20].any() and inside.sum() == 60 * 45 - 20 * 8
    assert texts(grid, folder) == [
        MOVED.format(9),
        "Pixels of the region that are outside by the roi.tiff of their tile and have no "
        "embeddings: 160 (in 0_0_20_20).",
    ]


@pytest.mark.parametrize("form", ["bands", "name", "case", "link"])
def test_masks_that_would_not_be_applied_are_refused(folder: Path, form: str) -> None:
    tile = folder / "tiles/0_0_20_20"
    path = tile / "roi.tiff"
    if form == "bands":
        with rasterio.open(path) as dataset:
            values, profile = dataset.read(1), dataset.profile
        with rasterio.open(path, "w", **profile | {"count": 2}) as target:
            target.write(values, 1)
            target.write(values, 2)
    elif form == "link":
        path.unlink()
        path.symlink_to(folder / "unmounted/roi.tiff")
    else:
        path.rename(tile / {"name": "roi.tif", "case": "ROI.TIFF"}[form])
    message = {
        "bands": "has 2 bands, but a mask has one",
        "name": r"contains roi\.tif, but the mask of a tile is roi\.tiff: rename",
        "case": r"contains ROI\.TIFF, but the mask",
        "link": r"roi\.tiff cannot be read as a raster",
    }[form]
    with pytest.raises(TileError, match=message):
        imported(folder, settings(folder, "region.tiff"))


def test_folders_that_no_block_uses_are_stated_once(folder: Path) -> None:
    """The region is the left part of that of the tiles, without its upper left patch."""
    with rasterio.open(folder / "region.tiff") as dataset:
        values, label = dataset.read(1)[:40, :40], dataset.transform
    values[:20, :20] = 0
    write_raster(folder / "part.tiff", values, label)
    shutil.copytree(folder / "tiles/0_0_20_20", folder / "tiles/400_400_420_420")
    (folder / "tiles/20_0_20_20").mkdir()  # states no pixel, and has no array
    config = settings(folder, "part.tiff", block_size=20)
    grid, _, inside = imported(folder, config)
    assert [block.id for block in grid.blocks] == ["b000_001", "b001_000", "b001_001"]
    np.testing.assert_array_equal(inside, values > 0)
    outside = (
        "Tile folders outside the region, which are not used: 7 (0_0_20_20, 0_40_20_60, "
        "20_40_40_60, 400_400_420_420, 40_0_45_20, ...)."
    )
    assert texts(grid, folder) == [MOVED.format(3), outside]
    assert scene_warnings(RunFiles(config)) == [f"here, then: {outside}"]
    with open_block_file(folder / "b001_001.zip") as group:
        assert [fact["number"] for fact in group.attrs["tile_facts"]] == [1, 7]


def test_tiles_without_a_pixel_of_the_region_are_stated(folder: Path) -> None:
    with rasterio.open(folder / "region.tiff") as dataset:
        values, label = dataset.read(1), dataset.transform
    values[:20, :20] = 0
    write_raster(folder / "part.tiff", values, label)
    grid, _, inside = imported(folder, settings(folder, "part.tiff"))
    np.testing.assert_array_equal(inside, values > 0)
    unneeded = "Tile folders without a pixel of the region, which are not used: 1 (0_0_20_20)."
    assert texts(grid, folder) == [MOVED.format(8), unneeded]


def test_a_location_without_a_tile_of_the_region_is_refused(folder: Path) -> None:
    """`on_empty_block: nodata` is for single patches, not for a folder one level too high."""
    (folder / "tiles").rename(folder / "retiled")
    (folder / "tiles").mkdir()
    shutil.copytree(folder / "retiled/0_0_20_20", folder / "tiles/900_0_920_20")
    (folder / "retiled").rename(folder / "tiles/retiled")
    with pytest.raises(
        TileError, match=r"tiles has no tile folder of region here \(folders outside it: 1;"
    ):
        imported(folder, settings(folder, "region.tiff"), on_empty_block="nodata")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_has_the_name_of_a_tile_is_one(folder: Path, kind: str) -> None:
    """A file or a link to nothing is not left out, also with `on_empty_block: nodata`."""
    tile = folder / "tiles/0_0_20_20"
    shutil.rmtree(tile)
    if kind == "file":
        tile.write_bytes(b"packed")
    else:
        tile.symlink_to(folder / "unmounted")
    with pytest.raises(TileError, match=r"0_0_20_20 is incomplete: bands\.npy, .* missing"):
        imported(folder, settings(folder, "region.tiff"), on_empty_block="nodata")


def test_a_linked_tile_is_read(folder: Path) -> None:
    tile = folder / "tiles/0_0_20_20"
    tile.rename(folder / "elsewhere")
    tile.symlink_to(folder / "elsewhere")
    _, values, _ = imported(folder, settings(folder, "region.tiff"))
    np.testing.assert_array_equal(values, ground(600_000, 5_700_000, 60, 45))


def test_blocks_of_one_region_have_tiles_of_one_label(folder: Path) -> None:
    """Each block by itself has tiles of one label."""
    for name in ("40_40_45_60", "40_20_45_40", "40_0_45_20"):
        moved(folder / "tiles" / name / "roi.tiff", lambda t: Affine.translation(1, 0) @ t)
    with pytest.raises(TileError, match="were made for different regions"):
        imported(folder, settings(folder, "region.tiff"))


def test_missing_tiles_days_and_other_files_are_recorded(folder: Path) -> None:
    tiles = folder / "tiles"
    shutil.rmtree(tiles / "0_0_20_20")
    for name in ("20_0_40_20", "40_0_45_20"):
        np.save(tiles / name / "doys.npy", np.array([10, 10], np.uint16))
    np.save(tiles / "20_0_40_20/sar_ascending_doy.npy", np.array([30, 20, 10], np.int16))
    radar = np.load(tiles / "20_0_40_20/sar_ascending.npy")
    np.save(tiles / "20_0_40_20/sar_ascending.npy", np.repeat(radar, 3, axis=0))
    np.save(tiles / "20_0_40_20/mask_optimized.npy", np.zeros(3))
    (tiles / "20_0_40_20/._bands.npy").touch()
    config = settings(folder, "region.tiff")
    grid, _, inside = imported(folder, config, on_empty_block="nodata")
    assert not inside[:20, :20].any() and inside.sum() == 60 * 45 - 400
    assert texts(grid, folder) == [
        MOVED.format(8),
        "Patches of the region without a tile folder, which have no embeddings: 1.",
        "Tiles with days that are not in date order, or cover more than a year (the models expect "
        "date order): 1 (20_0_40_20).",
        "Tiles with days that occur more than once, each used as a date of its own: 2 (20_0_40_20, "
        "40_0_45_20).",
        "Tiles with other arrays or rasters, which are not used: 1 (20_0_40_20).",
    ]
    run = RunFiles(config)
    for block in grid.blocks:
        path = run.embeddings_file("here", "then", block.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / f"{block.id}.zip", path)
    assert scene_warnings(run) == []
    expected = [f"here, then: {text}" for text in texts(grid, folder)]
    assert scene_warnings(run, of_blocks=True) == expected
    warned = [line for line in status(run).splitlines() if line.startswith("Warning: ")]
    assert "The checkpoint x.pt does not exist" in warned.pop(0)
    assert warned == [f"Warning: {text}" for text in expected]
