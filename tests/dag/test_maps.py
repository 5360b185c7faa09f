"""Maps in the workflow: their jobs, what reruns them, and labels that are refused before a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from tessera_flow.cli.main import main
from tests.support.labelled_region import write_points
from tests.support.workflow import change, plan, product_bytes, run, snakemake, write_config

MAP = {"label_map": 1, "label_map_page": 1}
MAPS = {"label_map": 2, "label_map_page": 2}


def with_maps(folder: Path, **keys: object) -> None:
    """Add a map of classes and one of numbers to a run of 40 x 50 pixels."""
    random = np.random.default_rng(0)
    cells = [(int(r), int(c)) for r, c in zip(random.permutation(40), random.permutation(50)[:40],
                                              strict=True)]  # fmt: skip
    kinds = ["left" if column < 25 else "right" for _, column in cells]
    write_points(folder / "kinds.csv", cells, kinds)
    write_points(folder / "heights.csv", cells, [row * 0.5 for row, _ in cells], "height")
    common = {"crs": "EPSG:32631", "fold_block": 100.0, "folds": 3}
    kinds_map = {"labels": str(folder / "kinds.csv"), "column": "cover", **common, **keys}
    heights = {"labels": str(folder / "heights.csv"), "column": "height", "predict": "number"}
    change(folder, {"maps": {"kinds": kinds_map, "heights": {**heights, **common}}})


def test_maps_are_added_and_rerun_by_their_labels_only(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_maps(finished)
    assert plan(finished) == MAPS
    run(finished)
    assert plan(finished) == {}
    folder = finished / "results" / "here" / "then" / "maps"
    record = json.loads((folder / "kinds" / "map.json").read_text())
    assert record["product"]["region"] == "here" and record["product"]["period"] == "then"
    item = json.loads((folder / "kinds" / "item.json").read_text())
    assert [c["title"] for c in item["assets"]["map"]["classification:classes"]] == [
        "left", "right",
    ]  # fmt: skip
    assert item["properties"]["scores"] == record["accuracy"]["scores"]
    assert main(["info", "--verify", str(finished / "results")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"maps/kinds: 5 files, .* as recorded", shown), shown
    assert re.search(r"maps/kinds: 2 files, .* as recorded", shown), shown

    labels = finished / "kinds.csv"
    text = labels.read_text()
    labels.write_text(text)  # another time of modification
    assert plan(finished) == {}
    labels.write_text(text.replace("left", "west", 1))
    assert plan(finished) == MAP
    labels.write_text(text)
    assert plan(finished) == {}
    moved = finished / "moved.csv"
    labels.rename(moved)
    change(finished, {"maps.kinds.labels": str(moved)})
    assert plan(finished) == {}
    for keys, jobs in (
        ({"maps.kinds.penalty": 3.0}, MAP),
        ({"maps.kinds.penalty": None, "maps.kinds.trees": 7}, {}),
        ({"maps.kinds.method": "random_forest"}, MAP),
        ({"maps.kinds.trees": None, "maps.kinds.method": None}, {}),
        ({"products.zarr_chunk": 10}, {"stitch_zarr": 1} | MAPS),
        ({"products.zarr_chunk": None, "maps": None}, {}),
    ):
        change(finished, keys)
        assert plan(finished) == jobs, keys


def test_damaged_maps_are_made_again(finished: Path) -> None:
    with_maps(finished)
    change(finished, {"products.formats": ["preview"]})  # the store is made for the maps
    (finished / "results" / "here" / "then" / "preview.png").unlink()
    assert plan(finished) == {"preview": 1} | MAPS
    run(finished)
    before = product_bytes(finished)
    folder = finished / "results" / "here" / "then" / "maps" / "kinds"
    names = folder / "map.tif.aux.xml"
    names.write_text(names.read_text().replace("</PAMDataset>", "<Metadata /></PAMDataset>"))
    assert plan(finished) == {}  # as by statistics of GDAL
    with (folder / "uncertainty.tif").open("r+b") as handle:
        handle.truncate(100)
    assert plan(finished) == MAP
    run(finished)
    assert product_bytes(finished) == before


def test_labels_are_read_before_anything_is_computed(finished: Path) -> None:
    with_maps(finished)
    settings = yaml.safe_load((finished / "config.yaml").read_text())
    for change_, message in (
        ({"column": "covre"}, "has no column covre: did you mean cover?"),
        ({"labels": "none.csv"}, "The labels none.csv cannot be read"),
        ({"crs": None}, "give their CRS with maps.kinds.crs, such as EPSG:32631"),
        ({"periods": ["now"]}, "maps.kinds.periods has 'now' (text), which is not defined under"),
        ({"colum": "a"}, "Unknown key maps.kinds.colum: did you mean maps.kinds.column?"),
        ({"method": "forest"}, "maps.kinds.method is 'forest'"),
    ):
        document = json.loads(json.dumps(settings, default=str))
        document["maps"]["kinds"] |= change_
        write_config(finished, document)
        done = snakemake(finished, "--dry-run")
        assert done.returncode != 0 and message in done.stdout, done.stdout
        assert "Traceback" not in done.stdout
