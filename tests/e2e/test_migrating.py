"""Unchanged tile folders and checkpoints of the reference through the whole workflow.

`tessera-flow embed` on the same tiles: tests/unit/test_embed_command.py and test_families.py."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from tests.support.golden import GOLDEN, TILES, checkpoint
from tests.support.published_tiles import convert, retile, write_geojson
from tests.support.workflow import (
    LEFT,
    PIXEL,
    TOP,
    leftovers,
    plan,
    run,
    snakemake,
    write_config,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EDGE = 12
"""Edge of the largest recorded tile; the others are smaller, like tiles at the edge of a region."""


def test_the_references_tiles_through_the_workflow(tmp_path: Path) -> None:
    """Each recorded tile is a region of one patch, with the weights of the recorded numbers."""
    folder = tmp_path / "run"
    folder.mkdir()
    shapes = {}
    for name in TILES:
        shapes[name] = height, width = np.load(GOLDEN / "tiles" / name / "masks.npy").shape[1:]
        tile = folder / "tiles" / name / f"0_0_{width}_{height}"
        shutil.copytree(GOLDEN / "tiles" / name, tile)
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", height=height, width=width, count=1,
            dtype="uint8", crs="EPSG:32631", transform=Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP),
        ) as raster:  # fmt: skip
            raster.write(np.ones((1, height, width), np.uint8))
    shutil.copy(checkpoint("v2_student_qk"), folder / "weights.pt")
    write_config(
        folder,
        {
            "regions": {name: {"roi": f"{name}.tif"} for name in TILES},
            "periods": {"then": {"start": "2021-01-01", "end": "2021-12-31"}},
            "source": "tiles",
            "tiles": {"location": "tiles/{region}"},
            "model": {
                "weights": "weights.pt",
                "dtype": "float32",
                "min_observations": {"s2": 0, "s1": 0},
            },
            "grid": {"block_size": EDGE, "patch_size": EDGE},
            "products": {"formats": ["arrays"]},
        },
    )
    assert plan(folder)["import_tiles"] == len(TILES)
    run(folder)
    assert leftovers(folder) == []
    for name in TILES:
        result = np.load(folder / "results" / name / "then" / "stitched_representation.npy")
        expected = dict(np.load(GOLDEN / "v2" / f"student_qk__{name}.npz"))
        defined = ~expected["undefined"]
        assert result.shape == (*shapes[name], 128)
        np.testing.assert_allclose(result[defined], expected["emb"][defined], atol=5e-5, rtol=0)
        assert np.isnan(result[~defined]).all()


def test_what_the_products_state_about_published_tiles(tmp_path: Path) -> None:
    """Tiles off the 10 m lattice, with a vector region: stated on the terminal and in products."""
    folder = tmp_path / "run"
    folder.mkdir()
    shape = shapely.box(600_007.3, 5_699_400.9, 600_456.1, 5_699_998.4)
    retile(convert(shape, folder / "region.tiff"), folder / "tiles", 20)
    shutil.copytree(folder / "tiles/0_0_20_20", folder / "tiles/400_0_420_20")
    write_geojson(folder / "shape.geojson", shape)
    shutil.copy(checkpoint("v2_student_qk"), folder / "weights.pt")
    write_config(
        folder,
        {
            "regions": {"here": {"roi": "shape.geojson"}},
            "periods": {"then": {"start": "2021-01-01", "end": "2021-12-31"}},
            "source": "tiles",
            "tiles": {"location": "tiles"},
            "model": {"weights": "weights.pt"},
            "grid": {"block_size": 40, "patch_size": 20},
            "products": {"formats": ["zarr", "stac", "report"]},
        },
    )
    outside = "Tile folders outside the region, which are not used: 1 (400_0_420_20)."
    assert f"here, then: {outside}" in snakemake(folder, "--dry-run").stdout
    output = run(folder)
    results = folder / "results/here/then"
    item = json.loads((results / "item.json").read_text())["properties"]
    moved, short, last = item["warnings"]
    assert "is 7.300 units right of and 1.600 below the pixels: 9. " in moved
    assert "lacks the last row or column" in short and short.endswith(": 3.")
    assert last == outside
    store = json.loads((results / "embeddings.zarr/zarr.json").read_text())
    assert store["attributes"]["provenance"]["warnings"] == item["warnings"]
    page = html.unescape((results / "report.html").read_text())
    for text in item["warnings"]:
        assert output.count(f"here, then: {text}") == 1
        assert page.count(text) == 3  # in the summary, the methods and the record
    assert "Warnings in the logs" not in page
