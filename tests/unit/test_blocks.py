"""Blocks of a region, and their cache, which keeps parsing fast."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import shapely

from tessera_flow.config.configuration import Config, load_config
from tessera_flow.config.sections import GridSettings, Region
from tessera_flow.errors import RegionError
from tessera_flow.region import gridding
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


def grid_of(settings: Config) -> RegionGrid:
    region = settings.regions["here"]
    return make_grid("here", read_roi(region.roi), region, settings.grid)


def test_blocks_are_exactly_those_with_a_pixel_of_the_region(tmp_path: Path) -> None:
    roi = write_polygon(tmp_path / "r.geojson", RING)
    settings = config(tmp_path, roi)
    grid = grid_of(settings)
    mask = mask_reader(read_roi(roi), grid.geobox)(Window(0, 0, *grid.geobox.shape))
    expected = [w for w in tiling(*grid.geobox.shape, 20) if mask[w.slices].any()]
    assert [block.window for block in grid.blocks] == expected
    assert len(expected) < len(list(tiling(*grid.geobox.shape, 20)))
    covered = np.zeros_like(mask)
    for block in grid.blocks:
        covered[block.window.slices] = True
    assert covered[mask].all()
    assert RegionGrid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


def test_region_grid_is_cached_by_content_and_settings(tmp_path: Path, monkeypatch) -> None:
    roi = write_polygon(tmp_path / "r.geojson", RING)
    calls = []
    original = gridding.make_grid
    monkeypatch.setattr(gridding, "make_grid", lambda *a: calls.append(1) or original(*a))
    first, digest = load_region_grid(config(tmp_path, roi), "here")
    assert load_region_grid(config(tmp_path, roi), "here") == (first, digest)
    assert len(calls) == 1
    os.utime(roi, (1, 1))  # new time stamp, same content
    assert load_region_grid(config(tmp_path, roi), "here") == (first, digest)
    assert load_region_grid(config(tmp_path, roi, patch_size=7), "here") == (first, digest)
    assert len(calls) == 1
    assert load_region_grid(config(tmp_path, roi, block_size=40), "here")[0].block_size == 40
    assert len(calls) == 2
    write_polygon(roi, RING.buffer(50))
    _, changed = load_region_grid(config(tmp_path, roi, block_size=40), "here")
    assert changed != digest
    assert len(calls) == 3
    (tmp_path / "work" / "plan" / "regions" / "here.json").write_text("{ broken")
    assert load_region_grid(config(tmp_path, roi, block_size=40), "here")[1] == changed


@pytest.mark.parametrize("n", [1, 2, 3])
def test_subsampled_pixels_keep_their_centres(tmp_path: Path, n: int) -> None:
    roi = write_polygon(tmp_path / "r.geojson", RING)
    settings = config(tmp_path, roi)
    geobox = grid_of(settings).geobox
    small = subsample(geobox, n)
    assert small.shape == tuple(-(-s // n) for s in geobox.shape)
    assert small.affine @ (4.5, 3.5) == pytest.approx(geobox.affine @ (4 * n + 0.5, 3 * n + 0.5))


def test_large_region_is_rasterised_only_at_its_border(tmp_path: Path, monkeypatch) -> None:
    """100 x 100 blocks of 2000 px: a mask of the region would have 4e10 pixels."""
    roi = write_polygon(
        tmp_path / "r.geojson", shapely.box(LEFT, TOP - 2_000_000, LEFT + 2_000_000, TOP)
    )
    windows = []
    original = gridding.mask_reader

    def counting(*arguments):
        read = original(*arguments)
        return lambda window: windows.append(window) or read(window)

    monkeypatch.setattr(gridding, "mask_reader", counting)
    settings = config(tmp_path, roi, block_size=2000)
    grid = grid_of(settings)
    assert len(grid.blocks) == 10_000
    assert len(windows) < 450


def test_too_many_blocks_are_refused(tmp_path: Path) -> None:
    roi = write_polygon(tmp_path / "r.geojson", shapely.box(LEFT, TOP - 20_000, LEFT + 20_000, TOP))
    with pytest.raises(RegionError, match=r"2000 x 2000 .* are 4000000 blocks .*block_size"):
        grid_of(config(tmp_path, roi, block_size=1))


@pytest.mark.parametrize(("east", "warned"), [(8.5, True), (6.5, False)])
def test_region_wider_than_a_utm_zone_logs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, east: float, warned: bool
) -> None:
    """Zone 31 is from 0 to 6 degrees; its central meridian is at 3 degrees."""
    strip = shapely.box(2.0, 50.0, east, 50.002)
    roi = write_polygon(tmp_path / "strip.geojson", strip, "EPSG:4326")
    region = Region(roi=str(roi), crs="EPSG:32631")
    with caplog.at_level("WARNING"):
        make_grid(
            "strip", read_roi(region.roi), region, GridSettings(resolution=500.0, block_size=500)
        )
    assert ("strip is wider than one UTM zone: it reaches 5." in caplog.text) == warned
