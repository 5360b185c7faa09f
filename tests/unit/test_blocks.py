"""Blocks of a region, and the cache that keeps parsing fast."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from tessera_flow.config.configuration import Config, load_config
from tessera_flow.config.sections import GridSettings, Region
from tessera_flow.jobs.block_map import COLOURS, render_blocks
from tessera_flow.region import blocks, gridding
from tessera_flow.region.blocks import load_region_grid
from tessera_flow.region.grid import RegionGrid, Window, subsample, tiling
from tessera_flow.region.gridding import make_grid
from tessera_flow.region.mask import mask_reader
from tessera_flow.region.roi import read_roi

from ..support.pipeline import CRS, ORIGIN, write_polygon

LEFT, TOP = ORIGIN
RING = shapely.Point(LEFT + 1000, TOP - 1000).buffer(990) - shapely.Point(
    LEFT + 1000, TOP - 1000
).buffer(700)


def config(folder: Path, roi: Path, **grid) -> Config:
    return load_config(
        {
            "regions": {"here": {"roi": str(roi), "crs": CRS}},
            "periods": {"then": {"start": "2021-01-01", "end": "2021-12-31"}},
            "model": {"weights": "x.pt"},
            "grid": {"block_size": 20, **grid},
            "paths": {"work": str(folder / "work")},
        }
    )


def test_blocks_are_exactly_those_with_a_pixel(tmp_path: Path) -> None:
    roi = write_polygon(tmp_path / "r.geojson", RING)
    chosen = config(tmp_path, roi)
    grid = make_grid("here", chosen.regions["here"], chosen.grid)
    mask = mask_reader(read_roi(roi), grid.geobox)(Window(0, 0, *grid.geobox.shape))
    expected = [w for w in tiling(*grid.geobox.shape, 20) if mask[w.slices].any()]
    assert [block.window for block in grid.blocks] == expected
    assert len(expected) < len(list(tiling(*grid.geobox.shape, 20)))
    covered = np.zeros_like(mask)
    for block in grid.blocks:
        covered[block.window.slices] = True
    assert covered[mask].all()
    assert RegionGrid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


def test_the_map_of_the_blocks_shows_the_region_inside_them(tmp_path: Path) -> None:
    """Full colour where a pixel lies inside the region, pale in the rest of its block, white
    where there is no block, as the mask of the region says."""
    roi = read_roi(write_polygon(tmp_path / "r.geojson", RING))
    chosen = config(tmp_path, tmp_path / "r.geojson")
    grid = make_grid("here", chosen.regions["here"], chosen.grid)
    states = {block.id: "cpu" for block in grid.blocks} | {grid.blocks[3].id: "failed"}
    render_blocks(grid, roi, states, tmp_path / "map.png")
    with rasterio.open(tmp_path / "map.png") as source:
        picture = np.moveaxis(source.read(), 0, 2)
    mask = mask_reader(roi, grid.geobox)(Window(0, 0, *grid.geobox.shape))
    cell = (picture.shape[1] - 1) // -(-mask.shape[1] // 20)
    assert cell > 20
    begun = {(block.window.y0 // 20, block.window.x0 // 20): block.id for block in grid.blocks}
    seen = set()
    for y, x in np.ndindex(mask.shape):
        block = begun.get((y // 20, x // 20))
        place = picture[int((y + 0.5) * cell / 20), int((x + 0.5) * cell / 20)]
        if tuple(place) == (90, 90, 90) or _near_edge(mask, y, x):
            continue  # a line, or a pixel that the finer picture divides
        if block is None:
            expected = (255, 255, 255)
        elif mask[y, x]:
            expected = COLOURS[states[block]]
        else:
            expected = tuple(round(255 - 0.3 * (255 - c)) for c in COLOURS[states[block]])
        seen.add(expected)
        assert np.abs(place.astype(int) - expected).max() <= 1, (y, x)
    assert len(seen) == 5


def _near_edge(mask: np.ndarray, y: int, x: int) -> bool:
    around = np.pad(mask, 1)[y : y + 3, x : x + 3]
    return bool(around.any() != around.all())


def test_the_plan_is_cached_by_content_and_settings(tmp_path: Path, monkeypatch) -> None:
    roi = write_polygon(tmp_path / "r.geojson", RING)
    made = []
    real = gridding.make_grid
    monkeypatch.setattr(gridding, "make_grid", lambda *a: made.append(1) or real(*a))
    first, digest = load_region_grid(config(tmp_path, roi), "here")
    assert load_region_grid(config(tmp_path, roi), "here") == (first, digest)
    assert len(made) == 1
    os.utime(roi, (1, 1))  # touched, same content
    assert load_region_grid(config(tmp_path, roi), "here") == (first, digest)
    assert load_region_grid(config(tmp_path, roi, patch_size=7), "here") == (first, digest)
    assert len(made) == 1
    assert load_region_grid(config(tmp_path, roi, block_size=40), "here")[0].block_size == 40
    assert len(made) == 2
    write_polygon(roi, RING.buffer(50))
    _, changed = load_region_grid(config(tmp_path, roi, block_size=40), "here")
    assert changed != digest
    assert len(made) == 3
    (tmp_path / "work" / "plan" / "regions" / "here.json").write_text("{ broken")
    assert load_region_grid(config(tmp_path, roi, block_size=40), "here")[1] == changed


@pytest.mark.parametrize("n", [1, 2, 3])
def test_subsampled_centres_stay_where_they_were(tmp_path: Path, n: int) -> None:
    roi = write_polygon(tmp_path / "r.geojson", RING)
    chosen = config(tmp_path, roi)
    geobox = make_grid("here", chosen.regions["here"], chosen.grid).geobox
    small = subsample(geobox, n)
    assert small.shape == tuple(-(-s // n) for s in geobox.shape)
    assert small.affine @ (4.5, 3.5) == pytest.approx(geobox.affine @ (4 * n + 0.5, 3 * n + 0.5))


def test_a_large_region_is_planned_quickly_and_only_its_border_is_drawn(
    tmp_path: Path, monkeypatch
) -> None:
    """100 x 100 blocks of 2000 px: a mask of the region would have 4e10 pixels."""
    roi = write_polygon(
        tmp_path / "r.geojson", shapely.box(LEFT, TOP - 2_000_000, LEFT + 2_000_000, TOP)
    )
    drawn = []
    real = gridding.mask_reader

    def counting(*arguments):
        read = real(*arguments)
        return lambda window: drawn.append(window) or read(window)

    monkeypatch.setattr(gridding, "mask_reader", counting)
    chosen = config(tmp_path, roi, block_size=2000)
    grid = make_grid("here", chosen.regions["here"], chosen.grid)
    assert len(grid.blocks) == 10_000
    assert len(drawn) < 450


@pytest.mark.parametrize(("east", "warned"), [(8.5, True), (6.5, False)])
def test_a_region_wider_than_a_zone_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, east: float, warned: bool
) -> None:
    """Zone 31 is that of 0 to 6 degrees; its meridian is 3."""
    strip = shapely.box(2.0, 50.0, east, 50.002)
    roi = write_polygon(tmp_path / "strip.geojson", strip, "EPSG:4326")
    region = Region(roi=str(roi), crs="EPSG:32631")
    with caplog.at_level("WARNING"):
        make_grid("strip", region, GridSettings(resolution=500.0, block_size=500))
    assert ("strip is wider than one UTM zone: it reaches 5." in caplog.text) == warned
