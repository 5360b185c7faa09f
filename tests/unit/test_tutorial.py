"""The example of docs/tutorial.md on a small product, and the commands of the page."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from pyproj import Transformer

from tessera_flow.analysis.make_map import MapFiles, make_map
from tessera_flow.cli.main import parser
from tessera_flow.config.maps import Map
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import make_region

ROOT = Path(__file__).parents[2]
TO_LONLAT = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)


def test_inputs_are_compared_with_the_same_pixels_and_folds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region = make_region(tmp_path / "blocks", 100)
    product = tmp_path / "product"
    product.mkdir()
    write_zarr(product / "embeddings.zarr", region.grid, region.blocks, region.provenance)
    kinds = np.where(region.embeddings[..., 3] > 0, "wood", "field")
    random = np.random.default_rng(0)
    rows, columns = random.integers(0, 230, 400), random.integers(0, 170, 400)
    lon, lat = TO_LONLAT.transform(600_005 + 10 * columns, 5_699_995 - 10 * rows)
    table = pa.table({"lon": lon, "lat": lat, "kind": kinds[rows, columns]})
    labels = tmp_path / "labels.csv"
    pyarrow.csv.write_csv(table, labels)
    tile = product / "tiles" / "0_0_170_230"
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

    main = runpy.run_path(str(ROOT / "examples" / "compare_inputs.py"))["main"]
    keys = {"column": "kind", "fold_block": 200.0}
    options = ["--column", "kind", "--fold-block", "200"]
    results = main([str(product), str(labels), *options])
    assert list(results) == ["embeddings", "one image (day 200)", "raw series of the year"]
    assert results["one image (day 200)"] == (1.0, 1.0)  # band 4 determines the class
    assert "accuracy 1.000, balanced 1.000" in capsys.readouterr().out
    settings = Map.model_validate({"labels": str(labels), **keys})
    files = MapFiles.below(tmp_path / "map")
    scores = make_map("kind", product / "embeddings.zarr", settings, files)["accuracy"]["scores"]
    assert results["embeddings"] == (scores["accuracy"], scores["balanced_accuracy"])
    assert scores["accuracy"] > 0.9


def test_demo_labels_are_the_land_cover(tmp_path: Path) -> None:
    write_labels = runpy.run_path(str(ROOT / "examples" / "demo_labels.py"))["write_labels"]
    assert write_labels(tmp_path / "labels.csv") == 1650
    table = pyarrow.csv.read_csv(tmp_path / "labels.csv")
    assert len(set(table["cover"].to_pylist())) == 11


def test_page_names_existing_commands_and_files() -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    commands = re.findall(r"^tessera-flow (.*)$", page, flags=re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        parser().parse_args(command.split())
    for name in re.findall(r"examples/\w+\.py", page):
        assert (ROOT / name).exists()
