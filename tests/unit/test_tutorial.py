"""The example of docs/tutorial.md on a small product, and the commands of the page."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import rasterio
from pyproj import Transformer
from rio_cogeo.cogeo import cog_validate

from tessera_flow.cli.main import parser
from tessera_flow.products.zarr_store import write_zarr

from ..support.products_region import make_region

ROOT = Path(__file__).parents[2]
TO_LONLAT = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)


def test_accuracies_and_class_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    region = make_region(tmp_path / "blocks", 100)
    store = tmp_path / "embeddings.zarr"
    write_zarr(store, region.grid, region.blocks, region.provenance)
    kinds = np.where(region.embeddings[..., 3] > 0, "wood", "field")
    random = np.random.default_rng(0)
    rows, columns = random.integers(0, 230, 400), random.integers(0, 170, 400)
    lon, lat = TO_LONLAT.transform(600_005 + 10 * columns, 5_699_995 - 10 * rows)
    table = pa.table({"lon": lon, "lat": lat, "kind": kinds[rows, columns]})
    pyarrow.csv.write_csv(table, tmp_path / "labels.csv")
    tile = tmp_path / "tiles" / "0_0_170_230"
    tile.mkdir(parents=True)
    bands = random.integers(1, 9000, (2, 230, 170, 10)).astype(np.uint16)
    masks = np.ones((2, 230, 170), np.uint8)
    masks[0, ::2] = 0  # the second day is the clearer one
    bands[1, ..., 4] = np.where(kinds == "wood", 5000, 1000)
    for name, data in {
        "bands": bands, "masks": masks, "doys": np.array([30, 200], np.uint16),
        "sar_ascending": np.zeros((0, 230, 170, 2), np.int16),
        "sar_ascending_doy": np.zeros(0, np.int16),
        "sar_descending": np.zeros((0, 230, 170, 2), np.int16),
        "sar_descending_doy": np.zeros(0, np.int16),
    }.items():  # fmt: skip
        np.save(tile / f"{name}.npy", data)

    main = runpy.run_path(str(ROOT / "examples" / "classify.py"))["main"]
    out = tmp_path / "classes.tif"
    arguments = [store, tmp_path / "labels.csv", "--column", "kind", "--out", out]
    results = main([str(a) for a in [*arguments, "--tiles", tile.parent]])
    assert list(results) == ["embeddings", "one image (day 200)", "raw series of the year"]
    assert results["embeddings"][0] > 0.9
    assert results["one image (day 200)"][0] == 1.0  # band 4 determines the class
    assert "accuracy 1.000, balanced 1.000" in capsys.readouterr().out
    assert cog_validate(out, quiet=True)[0]
    with rasterio.open(out) as raster:
        assert raster.crs.to_epsg() == 32631 and raster.nodata == 0
        assert raster.transform == region.grid.product_geobox.affine
        assert raster.tags()["CLASSES"] == "field,wood"
        result = raster.read(1)
    np.testing.assert_array_equal(result > 0, region.valid)
    expected = np.where(kinds == "wood", 2, 1)
    assert (result == expected)[region.valid].mean() > 0.9


def test_demo_labels_are_the_land_cover(tmp_path: Path) -> None:
    write_labels = runpy.run_path(str(ROOT / "examples" / "demo_labels.py"))["write_labels"]
    assert write_labels(tmp_path / "labels.csv") == 1650
    table = pyarrow.csv.read_csv(tmp_path / "labels.csv")
    assert len(set(table["cover"].to_pylist())) == 11


def test_page_names_existing_commands_and_files() -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    commands = re.findall(r"^tessera-flow (.*)$", page, flags=re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        parser().parse_args(command.split())
    for name in re.findall(r"examples/\w+\.py", page):
        assert (ROOT / name).exists()
