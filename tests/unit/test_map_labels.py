"""What becomes of each label of a map, and labels that are refused."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely

from tessera_flow.analysis.folds import make_folds
from tessera_flow.analysis.label_files import labels_sha256
from tessera_flow.analysis.labels import read_labels
from tessera_flow.analysis.make_map import MapFiles, make_map
from tessera_flow.analysis.pixels import label_pixels
from tessera_flow.config.maps import Map
from tessera_flow.errors import LabelError, RegionError
from tessera_flow.products.reading.sample import open_store
from tessera_flow.region.roi import read_roi

from ..support.labelled_region import (
    LEFT,
    NAMES,
    TOP,
    Labelled,
    labelled_region,
    random_cells,
    write_points,
)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return labelled_region(tmp_path_factory.mktemp("product"))


def settings(labels: Path, **keys: Any) -> Map:
    values = {"column": "cover", "fold_block": 200.0, **keys}
    if labels.suffix == ".csv":
        values.setdefault("crs", "EPSG:32631")
    return Map.model_validate({"labels": str(labels), **values})


def square(row: float, column: float, height: float, width: float) -> shapely.Polygon:
    left, top = LEFT + 10 * column, TOP - 10 * row
    return shapely.box(left, top - 10 * height, left + 10 * width, top)


def write_polygons(path: Path, polygons: list[Any], values: list[Any]) -> Path:
    pyogrio.raw.write(
        str(path),
        shapely.to_wkb(np.array(polygons, dtype=object)),
        [np.array(values, dtype=object)],
        ["cover"],
        geometry_type="Polygon",
        crs="EPSG:32631",
        driver="GPKG",
    )
    return path


def test_every_label_is_counted(product: Labelled, tmp_path: Path) -> None:
    good = random_cells(60)
    cells: list[tuple[float, float]] = [*good, (2, 2), (-5, 3), (3, 2000), good[0], good[1]]
    names = [NAMES[product.classes[c]] for c in good]
    other = NAMES[(NAMES.index(names[1]) + 1) % 3]
    labels = write_points(
        tmp_path / "labels.csv",
        [*cells, good[2], (float("nan"), float("nan"))],
        [*names, "wood", "wood", "crop", names[0], other, "", "wood"],
    )
    files = MapFiles.below(tmp_path / "map")
    record = make_map("cover", product.store, settings(labels), files)["labels"]
    assert record["number"] == 67 and record["pixels"] == 59
    assert record["states"] == {
        "ok": 59, "no value": 1, "no coordinates": 1, "outside": 2, "no embedding": 1,
        "pixel taken": 1, "conflict": 2,
    }  # fmt: skip
    assert sum(record["states"].values()) == record["number"]
    assert record["conflicts"] == [{"row": good[1][0], "column": good[1][1], "labels": [2, 65]}]
    with files.labels.open() as handle:
        rows = list(csv.DictReader(handle))
    assert [rows[n]["state"] for n in (0, 1, 60, 61, 62, 63, 64, 65, 66)] == [
        "ok", "conflict", "no embedding", "outside", "outside", "pixel taken", "conflict",
        "no value", "no coordinates",
    ]  # fmt: skip
    assert [row["fold"] == "" for row in rows] == [row["state"] != "ok" for row in rows]


def test_numbers_in_one_pixel_are_averaged(product: Labelled, tmp_path: Path) -> None:
    cells = random_cells(30)
    numbers = [product.numbers[c] for c in cells]
    labels = write_points(
        tmp_path / "labels.csv", [*cells, cells[4], cells[5]], [*numbers, 100.0, float("nan")]
    )
    read = read_labels(settings(labels, predict="number"))
    pixels = label_pixels(open_store(product.store), read, 100)
    assert (len(pixels.rows), pixels.averaged) == (30, 1)
    value = pixels.values[pixels.owner == 4]
    assert value == pytest.approx([(numbers[4] + 100) / 2])
    assert pixels.counts() == {"ok": 30, "no value": 1, "pixel taken": 1}


def test_pixels_of_a_polygon_are_in_one_fold(product: Labelled, tmp_path: Path) -> None:
    """Also of one that crosses the border of spatial blocks, and at most some of each."""
    polygons, values = [], []
    for row in range(20, 120, 10):
        for column in range(0, 100, 10):
            polygons.append(square(row + 5.2, column, 9.6, 10))  # crosses a border of fields
            values.append(NAMES[product.classes[row, column]])
    labels = write_polygons(tmp_path / "labels.gpkg", polygons, values)
    keys = settings(labels, fold_block=150.0)
    read = read_labels(keys)
    assert read.classes == NAMES and read.polygons
    pixels = label_pixels(open_store(product.store), read, 12)
    assert pixels.capped == 100 and set(pixels.used) <= set(range(13))
    folds = make_folds(pixels, read, keys, 10.0)
    for owner in set(pixels.owner):
        assert len(set(folds.fold[pixels.owner == owner])) == 1
    position = set(zip(pixels.rows.tolist(), pixels.columns.tolist(), strict=True))
    assert len(position) == len(pixels.rows)  # neighbours overlap, but no pixel is used twice
    again = label_pixels(open_store(product.store), read, 12)
    np.testing.assert_array_equal(again.rows, pixels.rows)


def test_states_of_polygons(product: Labelled, tmp_path: Path) -> None:
    polygons = [
        square(50, 50, 3, 3), square(51, 51, 3, 3), square(5, 5, 4, 4), square(-50, 0, 10, 10),
        square(60.6, 60.6, 0.3, 0.3), square(118, 10, 50, 2), square(80, 80, 2, 2),
        square(80, 80, 2, 2), None,
    ]  # fmt: skip
    values = ["a", "a", "a", "a", "a", "b", "a", "b", "b"]
    labels = write_polygons(tmp_path / "labels.gpkg", polygons, values)
    read = read_labels(settings(labels))
    pixels = label_pixels(open_store(product.store), read, 100)
    assert pixels.states.tolist() == [
        "ok", "ok", "no embedding", "outside", "no pixel", "ok", "conflict", "conflict",
        "no coordinates",
    ]  # fmt: skip
    assert pixels.used.tolist() == [9, 5, 0, 0, 0, 4, 0, 0, 0]  # 4 pixels are in both
    assert len(pixels.conflicts) == 4


@pytest.mark.parametrize(
    ("values", "keys", "message"),
    [
        (["wood"] * 40, {}, "all 40 points that can be used have the class wood"),
        ([1.5] * 40, {"predict": "number"}, "have the number 1.5"),
        (["wood", "7"] * 20, {}, r"both numbers \(row 2: 7\) and text \(row 1: wood\)"),
        ([0.5, 1.5] * 20, {}, "numbers with a fraction .*set predict to number"),
        (["wood", "crop"] * 20, {"predict": "number"}, "is not a number.*set predict to class"),
        ([1.5] * 39 + [-1.797e308], {"predict": "number"}, r"-1.797e\+308 \(row 40\).*no data"),
        (["wood", "crop"] * 20, {"column": "Covr"}, "has no column Covr: did you mean cover?"),
        (["wood", "crop"] * 20, {"column": "zzz"}, "no column zzz: its columns are x, y, cover"),
        (["wood", "crop"] * 2, {}, "4 points can be used, fewer than the 5 folds"),
        (["wood", "crop"] * 20, {"fold_block": 5000.0}, "in 1 spatial blocks of 5000 m, fewer"),
        (list(range(300)), {}, "300 different classes, more than 255"),
        (["", ""] * 20, {}, r"None of the 40 points can be used \(40 without a class"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    product: Labelled, tmp_path: Path, values: list[Any], keys: dict[str, Any], message: str
) -> None:
    labels = write_points(tmp_path / "labels.csv", random_cells(len(values)), values)
    files = MapFiles.below(tmp_path / "map")
    with pytest.raises(LabelError, match=message):
        make_map("cover", product.store, settings(labels, **keys), files)
    assert not (tmp_path / "map").exists()


def test_labels_outside_the_product_are_named(product: Labelled, tmp_path: Path) -> None:
    labels = write_points(tmp_path / "labels.csv", [(n, 5000) for n in range(20)], ["a", "b"] * 10)
    with pytest.raises(LabelError, match=r"20 outside the product\)\. The product covers x 600000"):
        make_map("m", product.store, settings(labels), MapFiles.below(tmp_path / "map"))


def test_messages_about_the_file_name_the_keys_of_the_configuration(tmp_path: Path) -> None:
    labels = write_points(tmp_path / "labels.csv", [(1, 1), (2, 2)], ["a", "b"])
    keys = Map.model_validate({"labels": str(labels), "column": "cover"})
    with pytest.raises(LabelError, match=r"give their CRS with maps\.cover\.crs, such as"):
        read_labels(keys, "maps.cover.")
    with pytest.raises(LabelError, match="give their CRS with --crs"):
        read_labels(keys)
    missing = Map.model_validate({"labels": str(tmp_path / "no.csv"), "column": "cover"})
    with pytest.raises(LabelError, match="does not exist"):
        read_labels(missing)
    with pytest.raises(LabelError, match="cannot be read"):
        labels_sha256(tmp_path / "no.csv")


def test_what_makes_an_accuracy_doubtful_is_stated(
    product: Labelled, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A class in one block only, names that differ in case, a class without an embedding."""
    cells = random_cells(80)
    names: list[Any] = [NAMES[product.classes[c]] for c in cells]
    cells += [(100, 90), (101, 90), (1, 1)]
    names += ["Wood", "Wood", "ice"]
    labels = write_points(tmp_path / "labels.csv", cells, names)
    with caplog.at_level(logging.WARNING):
        files = MapFiles.below(tmp_path / "map")
        record = make_map("cover", product.store, settings(labels), files)
    text = " ".join(record["warnings"])
    assert "All labels of Wood are in one spatial block" in text
    assert "almost the same, and which are kept apart: Wood and wood" in text
    assert "No label of ice can be used: the map does not contain it." in text
    assert [entry["name"] for entry in record["classes"]] == ["Wood", *NAMES]
    assert record["classes"][0]["producers_accuracy"] == 0
    assert "one spatial block" in caplog.text


def test_a_shapefile_counts_with_all_its_files(tmp_path: Path) -> None:
    names = ("a.shp", "a.dbf", "a.shx")
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    before = labels_sha256(tmp_path / "a.shp")
    (tmp_path / "a.dbf").write_bytes(b"2")
    assert labels_sha256(tmp_path / "a.shp") != before


@pytest.mark.parametrize("name", ["pipe.csv", "zero.csv", "pipe.shp", "large.gpkg"])
def test_labels_that_never_end_are_refused(tmp_path: Path, name: str) -> None:
    """They are hashed whenever the workflow is read: a pipe from an archive, a link to a device, a
    part of a shapefile, a sparse file."""
    path = tmp_path / name
    if name == "pipe.csv":
        os.mkfifo(path)
    elif name == "pipe.shp":
        path.touch()
        os.mkfifo(path.with_suffix(".shx"))
    elif name == "zero.csv":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 2**40)
    with pytest.raises(LabelError, match=r"is a device, pipe or socket|more than the limit"):
        labels_sha256(path)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("x,y,c," + ",".join(f"k{n}" for n in range(20_000)), "has 20003 names of columns"),
        ("x,y,c" + "c" * 200_000, "has no names of columns"),
        ("x,y,c\n" + "a" * 200_000, "cannot be read as a table"),
    ],
)
def test_text_that_is_no_table(tmp_path: Path, first: str, message: str) -> None:
    """Long fields ended in a traceback, and 300,000 names were each compared with all others."""
    path = tmp_path / "labels.csv"
    path.write_text(f"{first}\n1,2,forest\n")
    with pytest.raises(LabelError, match=message):
        read_labels(Map(labels=str(path), column="c"))


def test_nested_metadata_of_geoparquet(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    table = pa.table({"c": ["a"]}).replace_schema_metadata({"geo": "[" * 100_000})
    pq.write_table(table, path)
    with pytest.raises(LabelError, match="its GeoParquet metadata is damaged"):
        read_labels(Map(labels=str(path), column="c"))
    with pytest.raises(RegionError, match="GeoParquet"):
        read_roi(str(path))
