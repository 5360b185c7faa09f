"""A download fetches only the blocks of files that the region intersects."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from tessera_flow.block_file import open_block_file

from ..support.pipeline import ORIGIN, configuration, ingest, write_polygon
from ..support.scenes import SIZES, optical
from ..support.servers import serve_files

LEFT, TOP = ORIGIN
SHAPE = (600, 600)
HEAD = 32768


def block_ranges(
    path: Path, rows: tuple[int, int], columns: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return byte ranges of the blocks of a file that a window intersects."""
    ranges = []
    with rasterio.open(path) as dataset:
        for (row, column), window in dataset.block_windows(1):
            if (
                window.row_off < rows[1]
                and window.row_off + window.height > rows[0]
                and window.col_off < columns[1]
                and window.col_off + window.width > columns[0]
            ):
                block = f"{column}_{row}"
                start = int(dataset.get_tag_item(f"BLOCK_OFFSET_{block}", "TIFF", bidx=1))
                size = int(dataset.get_tag_item(f"BLOCK_SIZE_{block}", "TIFF", bidx=1))
                ranges.append((start, start + size))
    return ranges


@pytest.mark.parametrize(
    ("pixel", "rows", "columns"),
    [
        (10.0, (300, 380), (130, 250)),  # of a scene aligned with the grid
        (20.0, (150, 190), (65, 125)),  # of a scene with a coarser resolution
    ],
)
def test_only_blocks_within_the_bounding_box_of_the_region_are_fetched(
    tmp_path: Path, pixel: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    """The region is a triangle in the first block and a small corner of the second."""
    rng = np.random.default_rng(2)
    size = int(6000 / pixel)
    bands = rng.integers(1, 10_000, (size, size, 10)).astype(np.uint16)
    scene = optical(
        tmp_path / "scenes", "2021-06-03T10:00:00", bands, shape=(size, size),
        pixel_sizes=dict.fromkeys(SIZES, pixel),
    )  # fmt: skip
    triangle = shapely.Polygon(
        [(LEFT + 1300, TOP - 3000), (LEFT + 2500, TOP - 3000), (LEFT + 1300, TOP - 3800)]
    )
    corner_of_grid = shapely.box(LEFT + 4990, TOP - 4990, LEFT + 5000, TOP - 4980)
    roi = write_polygon(tmp_path / "roi.geojson", shapely.MultiPolygon([triangle, corner_of_grid]))
    with serve_files(tmp_path / "scenes") as server:
        remote = json.loads(json.dumps([scene]).replace(str(tmp_path / "scenes"), server.url))
        config = configuration(
            tmp_path, roi, remote, "2021-06-01", "2021-06-30",
            sentinel1={"enabled": False}, grid={"block_size": 250},
        )  # fmt: skip
        layout = ingest(config, until="stack")
        requests = server.requests
    first, _ = layout.grids["here"].blocks
    assert (first.window.height, first.window.width) == (199, 250)
    for key in ("B04", "B11", "SCL"):
        file = next((tmp_path / "scenes").rglob(f"*_{key}_*"))
        blocks = block_ranges(file, rows, columns)
        corner = (int(498 * 10 / pixel), int(500 * 10 / pixel))
        far = block_ranges(file, corner, corner)
        assert 1 <= len(blocks) < 5
        ranges = [
            tuple(map(int, re.findall(r"\d+", request.headers["range"])))
            for request in requests
            if f"_{key}_" in request.path
        ]
        for start, stop in ranges:
            # A block, or several consecutive ones.
            assert start == 0 or (start, stop + 1) in joined(blocks) + joined(far)
        sent = sum(stop + 1 - start for start, stop in ranges)
        assert sent <= 2 * HEAD + sum(b - a for a, b in {*blocks, *far}) + 64 * len(ranges)
    with open_block_file(layout.stack_files("here", "then", "b000_000")["sentinel2"]) as group:
        red = np.asarray(group["bands"][0, ..., 0])
        assert red.any() and not red[81:].any() and not red[:, 121:].any()
        if pixel == 10.0:
            np.testing.assert_array_equal(red[0, :119], bands[300, 130:249, 0])


def joined(blocks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges that a request may have: from the start of a block to the end of one."""
    return [(a, b) for a, _ in blocks for _, b in blocks if a < b]
