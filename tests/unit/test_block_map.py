"""The map of a region's blocks and their GeoJSON."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely

from tessera_flow.jobs.plan.block_features import blocks_geojson
from tessera_flow.jobs.plan.block_map import render_blocks
from tessera_flow.region.mask import write_mask
from tessera_flow.region.roi import read_roi

from ..support.pipeline import write_polygon
from .test_blocks import LEFT, RING, TOP, config, grid_of

SVG = "{http://www.w3.org/2000/svg}"


def drawn(path: Path) -> tuple[ElementTree.Element, float, float, tuple[float, float]]:
    """Return an SVG, the size of its map, and where the upper left corner of the grid is in it."""
    root = ElementTree.parse(path).getroot()
    frame = next(e for e in root.iter(f"{SVG}rect") if e.get("fill") == "none")
    group = next(e for e in root.iter(f"{SVG}g") if e.get("class") == "grid")
    left, top = map(float, re.findall(r"[\d.]+", group.get("transform", "")))
    return root, float(frame.get("width", 0)), float(frame.get("height", 0)), (left, top)


def squares(root: ElementTree.Element, state: str) -> list[tuple[float, ...]]:
    """Return (x, y, width, height) of the blocks of a state."""
    paths = [e.get("d", "") for e in root.iter(f"{SVG}path") if e.get("class") == state]
    number = r"(-?[\d.]+)"
    return [
        tuple(map(float, match))
        for path in paths
        for match in re.findall(rf"M{number} {number}h{number}v{number}", path)
    ]


def polygon(path: str) -> shapely.Geometry:
    """Return the polygon of the outline's path."""
    rings = [
        [tuple(map(float, point.split())) for point in ring.strip(" Mz").split(" L")]
        for ring in path.split("z")
        if ring.strip()
    ]
    return shapely.Polygon(rings[0], rings[1:])


@pytest.mark.parametrize("kind", ["vector", "raster"])
def test_map_of_blocks_shows_the_region(tmp_path: Path, kind: str) -> None:
    """Each block is at its place in the colour of its state; the outline has the region's area and
    hole; the scale bar is as long as it says."""
    roi = read_roi(write_polygon(tmp_path / "r.geojson", RING))
    settings = config(tmp_path, tmp_path / "r.geojson")
    grid = grid_of(settings)
    if kind == "raster":
        write_mask(roi, grid.geobox, tmp_path / "mask.tif")
        roi = read_roi(tmp_path / "mask.tif")
    states = {block.id: "cpu" for block in grid.blocks} | {grid.blocks[3].id: "failed"}
    render_blocks(grid, roi, states, tmp_path / "map.svg", "here & there")
    root, width, height, (left, top) = drawn(tmp_path / "map.svg")
    rows, columns = grid.geobox.shape
    scale = (width - 2 * left) / columns
    assert height - 2 * top == pytest.approx(rows * scale, abs=0.2)
    for state in ("cpu", "failed"):
        expected = [
            (b.window.x0, b.window.y0, b.window.width, b.window.height)
            for b in grid.blocks
            if states[b.id] == state
        ]
        shown = np.array(squares(root, state)) / scale
        assert np.abs(shown - np.array(expected)).max() < 0.05
    assert not squares(root, "done")
    outline = next(e for e in root.iter(f"{SVG}path") if e.get("class") == "outline")
    shape = polygon(outline.get("d", ""))
    assert shape.area / scale**2 * 100 == pytest.approx(RING.area, rel=0.02)
    assert len(shape.interiors) == len(RING.interiors) == 1
    texts = [e.text or "" for e in root.iter(f"{SVG}text")]
    assert "Blocks of here & there" in texts and f"failed: {1:,}" in texts
    bar = next(e for e in root.iter(f"{SVG}path") if e.get("class") == "scale")
    length = float(re.findall(r"h([\d.]+)", bar.get("d", ""))[0]) / scale * 10
    label = next(t for t in texts if re.fullmatch(r"\d+ k?m", t))
    metres = int(label.split()[0]) * (1000 if label.endswith("km") else 1)
    assert length == pytest.approx(metres, rel=0.01)
    degrees = [t for t in texts if t.endswith(("°N", "°E"))]
    assert len(degrees) >= 4 and len(degrees) == len(set(degrees))
    for text in degrees:
        centre = {"N": 51.44, "E": 4.43}[text[-1]]
        assert float(text[:-2]) == pytest.approx(centre, abs=0.1)


def test_map_of_two_small_sites_far_apart(tmp_path: Path) -> None:
    """Sites of 100 m, 40 km apart, would be two pixels: each has a circle around it."""
    sites = [shapely.box(LEFT + dx, TOP - 8000, LEFT + dx + 100, TOP - 7900) for dx in (0, 40_000)]
    path = write_polygon(tmp_path / "r.geojson", shapely.union_all(sites))
    settings = config(tmp_path, path, block_size=500)
    grid = grid_of(settings)
    assert len(grid.blocks) == 2
    states = {block.id: "gpu" for block in grid.blocks}
    render_blocks(grid, read_roi(path), states, tmp_path / "map.svg")
    root, width, height, (left, _) = drawn(tmp_path / "map.svg")
    circles = [float(e.get("cx", 0)) for e in root.iter(f"{SVG}circle")]
    assert circles == pytest.approx([0, width - 2 * left], abs=2)
    assert 0.25 * width < height < width
    assert "5 km" in [e.text for e in root.iter(f"{SVG}text")]


def test_blocks_as_geojson(tmp_path: Path) -> None:
    """The corners of the blocks in longitude and latitude, and their states."""
    settings = config(tmp_path, write_polygon(tmp_path / "r.geojson", RING))
    grid = grid_of(settings)
    states = {block.id: "done" for block in grid.blocks}
    (tmp_path / "blocks.geojson").write_text(blocks_geojson(grid, "y2021", states))
    _, _, geometry, _ = pyogrio.raw.read(tmp_path / "blocks.geojson")
    assert len(geometry) == len(grid.blocks)
    to_grid = pyproj.Transformer.from_crs(4326, grid.crs, always_xy=True).transform
    a, _, c, _, e, f = grid.transform
    for block, wkb in zip(grid.blocks, geometry, strict=True):
        w = block.window
        found = shapely.transform(shapely.from_wkb(wkb), to_grid, interleaved=False).bounds
        expected = (
            c + a * w.x0,
            f + e * (w.y0 + w.height),
            c + a * (w.x0 + w.width),
            f + e * w.y0,
        )
        assert found == pytest.approx(expected, abs=0.05)
    assert pyogrio.read_info(tmp_path / "blocks.geojson")["crs"] == "EPSG:4326"
    assert {"region", "period", "block", "state"} <= set(
        pyogrio.read_info(tmp_path / "blocks.geojson")["fields"]
    )
