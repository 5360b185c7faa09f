"""Maps of classes and numbers: their pixels, accuracy and files."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tessera_flow.analysis.class_names import write_class_names
from tessera_flow.analysis.folds import make_folds, spatial_blocks
from tessera_flow.analysis.labels import read_labels
from tessera_flow.analysis.make_map import MapFiles, make_map
from tessera_flow.analysis.pixels import label_pixels
from tessera_flow.config.maps import Map
from tessera_flow.jobs.resources import MAP_RATES, NEEDS, map_minutes
from tessera_flow.products.checksums import sha256_of
from tessera_flow.products.reading.sample import open_store

from ..support.labelled_region import (
    NAMES,
    Labelled,
    labelled_region,
    random_cells,
    write_points,
)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return labelled_region(tmp_path_factory.mktemp("product"))


def settings(labels: Path, **keys: Any) -> Map:
    values = {"column": "cover", "crs": "EPSG:32631", "fold_block": 200.0, **keys}
    return Map.model_validate({"labels": str(labels), **values})


def embeddings_at(product: Labelled, cells: list[tuple[int, int]]) -> np.ndarray:
    rows, columns = np.array(cells).T
    region = product.region
    return region.embeddings[rows, columns] * region.scales[rows, columns, None]


def test_class_map_and_accuracy_are_those_of_scikit_learn(
    product: Labelled, tmp_path: Path
) -> None:
    """Each fold and the map are computed again, with scikit-learn alone."""
    cells = random_cells(400)
    truth = np.array([product.classes[cell] for cell in cells])
    labels = write_points(tmp_path / "labels.csv", cells, [NAMES[c] for c in truth])
    files = MapFiles.below(tmp_path / "map")
    record = make_map("cover", product.store, settings(labels), files)

    with files.labels.open() as handle:
        rows = list(csv.DictReader(handle))
    fold = np.array([int(row["fold"]) for row in rows])
    assert set(fold) == {1, 2, 3, 4, 5}
    x = embeddings_at(product, cells)
    predicted = np.empty_like(truth)
    for n in set(fold):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(x[fold != n].astype(float), truth[fold != n])
        predicted[fold == n] = model.predict(x[fold == n])
    assert [row["predicted"] for row in rows] == [NAMES[p] for p in predicted]
    scores = record["accuracy"]["scores"]
    assert scores["accuracy"] == pytest.approx((predicted == truth).mean())
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert record["accuracy"]["confusion"] == confusion_matrix(truth, predicted).tolist()
    assert 0.9 < scores["accuracy"] < 1

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(x.astype(float), truth)
    valid = product.region.valid
    pixels = product.region.embeddings[valid] * product.region.scales[valid][:, None]
    with rasterio.open(files.map) as raster, rasterio.open(files.uncertainty) as doubt:
        result, percent = raster.read(1), doubt.read(1)
        assert raster.transform == product.region.grid.product_geobox.affine
        assert raster.crs.to_epsg() == 32631 and (raster.nodata, doubt.nodata) == (0, 255)
    np.testing.assert_array_equal(result > 0, valid)
    expected = model.predict_proba(pixels)
    assert (result[valid] == expected.argmax(axis=1) + 1).mean() > 0.9999
    assert np.abs(percent[valid] - 100 * (1 - expected.max(axis=1))).max() < 0.51
    assert (percent[~valid] == 255).all()
    assert (result == product.classes + 1)[valid].mean() > 0.9
    for file in (files.map, files.uncertainty):
        assert cog_validate(file, quiet=True)[0]


def test_names_colours_and_areas_are_in_the_files(product: Labelled, tmp_path: Path) -> None:
    cells = random_cells(100)
    labels = write_points(
        tmp_path / "labels.csv", cells, [(10, 20, 31)[product.classes[c]] for c in cells]
    )
    files = MapFiles.below(tmp_path / "map")
    record = make_map("cover", product.store, settings(labels, method="nearest"), files)
    assert [c["value"] for c in record["classes"]] == [10, 20, 31]  # whole numbers keep their value
    with rasterio.open(files.map) as raster:
        result = raster.read(1)
        assert json.loads(raster.tags()["CLASSES"]) == {"10": "10", "20": "20", "31": "31"}
        colours = raster.colormap(1)
    for entry in record["classes"]:
        assert "#{:02x}{:02x}{:02x}".format(*colours[entry["value"]][:3]) == entry["colour"]
        assert (result == entry["value"]).sum() == entry["map_pixels"]
        assert entry["map_km2"] == pytest.approx(entry["map_pixels"] * 1e-4)
    assert colours[0][3] == 0
    tool = shutil.which("gdalinfo")
    if tool is None:
        pytest.skip("this machine has no gdalinfo")
    before = sha256_of(files.names)
    line = [tool, "-json", "-stats", str(files.map)]
    document = json.loads(subprocess.run(line, capture_output=True, check=True).stdout)
    band = document["bands"][0]
    assert "STATISTICS_MEAN" in files.names.read_text()
    assert sha256_of(files.names) == before  # statistics change no name
    text = subprocess.run([tool, str(files.map)], capture_output=True, check=True, text=True).stdout
    assert re.search(r"10: 10\n", text) and "no data" in text, text
    assert band["colorInterpretation"] == "Palette"
    table = document["rat"]["row"]
    assert [row["f"][:3] for row in table] == [
        [c["value"], c["name"], c["map_pixels"]] for c in record["classes"]
    ]


def test_names_of_classes_are_xml_whatever_they_are(tmp_path: Path) -> None:
    names = ["a & b", "<wood>", "form\x0cfeed", "bell\x07"]
    write_class_names(tmp_path / "map.tif.aux.xml", names, [1, 2, 3, 4], [0, 0, 0, 0])
    root = ElementTree.parse(tmp_path / "map.tif.aux.xml").getroot()
    shown = ["no data", "a & b", "<wood>", "form\ufffdfeed", "bell\ufffd"]
    assert [entry.text for entry in root.iter("Category")] == shown
    assert [row.findall("F")[1].text for row in root.iter("Row")] == shown[1:]


def test_number_map_is_that_of_scikit_learn(product: Labelled, tmp_path: Path) -> None:
    cells = random_cells(300, seed=2)
    truth = np.array([product.numbers[cell] for cell in cells])
    labels = write_points(tmp_path / "labels.csv", cells, truth, "biomass")
    files = MapFiles.below(tmp_path / "map")
    keys = settings(labels, column="biomass", predict="number")
    record = make_map("biomass", product.store, keys, files)
    with files.labels.open() as handle:
        rows = list(csv.DictReader(handle))
    fold = np.array([int(row["fold"]) for row in rows])
    x = embeddings_at(product, cells).astype(float)
    predicted = np.empty_like(truth)
    for n in set(fold):
        scaler = StandardScaler().fit(x[fold != n])
        model = Ridge().fit(scaler.transform(x[fold != n]), truth[fold != n])
        predicted[fold == n] = model.predict(scaler.transform(x[fold == n]))
    np.testing.assert_allclose(
        [float(r["predicted"]) for r in rows], predicted, rtol=1e-4, atol=1e-5
    )
    scores = record["accuracy"]["scores"]
    assert scores["rmse"] == pytest.approx(np.sqrt(((predicted - truth) ** 2).mean()), rel=1e-4)
    assert scores["r2"] == pytest.approx(r2_score(truth, predicted), rel=1e-4)
    assert scores["r2"] > 0.95
    valid = product.region.valid
    with rasterio.open(files.map) as raster, rasterio.open(files.uncertainty) as doubt:
        result, spread = raster.read(1), doubt.read(1)
    assert np.isnan(result[~valid]).all() and np.isnan(spread[~valid]).all()
    errors = (result - product.numbers)[valid]
    assert r2_score(product.numbers[valid], result[valid]) > 0.95
    # Of pixels that were not labels, about 95% are within two standard errors.
    assert 0.9 < (np.abs(errors) < 2 * spread[valid]).mean() <= 1
    assert (spread[valid] >= scores["rmse"]).all()
    assert cog_validate(files.map, quiet=True)[0]
    assert record["map"]["low"] == pytest.approx(result[valid].min())


@pytest.mark.parametrize("predict", ["class", "number"])
@pytest.mark.parametrize("method", ["linear", "nearest", "random_forest"])
def test_every_method_is_reproducible_with_any_number_of_threads(
    product: Labelled, tmp_path: Path, method: str, predict: str
) -> None:
    cells = random_cells(150, seed=3)
    values = [product.classes[c] if predict == "class" else product.numbers[c] for c in cells]
    labels = write_points(tmp_path / "labels.csv", cells, values)
    keys = settings(labels, method=method, predict=predict, trees=8, folds=2)
    hashes = []
    for threads in (1, 3):
        files = MapFiles.below(tmp_path / str(threads))
        record = make_map("m", product.store, keys, files, threads)
        paths = (files.map, files.uncertainty, files.labels, files.record, files.names)
        hashes.append([sha256_of(path) for path in paths])
    assert hashes[0] == hashes[1]
    score = record["accuracy"]["scores"]["accuracy" if predict == "class" else "r2"]
    assert score > (0.8 if predict == "class" else 0.3)
    assert record["parameters"]["seed"] == 0


def test_learning_curve_grows_with_the_labels(product: Labelled, tmp_path: Path) -> None:
    cells = random_cells(620, seed=4)
    labels = write_points(tmp_path / "labels.csv", cells, [product.classes[c] for c in cells])
    files = MapFiles.below(tmp_path / "map")
    record = make_map("cover", product.store, settings(labels), files)
    curve = record["accuracy"]["learning_curve"]
    sizes = [point["labels"] for point in curve["points"]]
    assert sizes == [5, 10, 20, 50, 100, 200]
    means = [point["mean"] for point in curve["points"]]
    assert means[0] < means[-1] <= 1 and all(p["low"] <= p["mean"] <= p["high"] for p in
                                              curve["points"])  # fmt: skip
    assert means[-1] == pytest.approx(record["accuracy"]["scores"]["balanced_accuracy"], abs=0.03)


def test_a_spatial_block_is_in_one_fold(product: Labelled, tmp_path: Path) -> None:
    cells = random_cells(500, seed=1)
    labels = write_points(tmp_path / "labels.csv", cells, [product.classes[c] for c in cells])
    keys = settings(labels)
    read = read_labels(keys)
    pixels = label_pixels(open_store(product.store), read, 100)
    blocks = spatial_blocks(pixels, 20)
    expected = {}
    for row, column, block in zip(pixels.rows, pixels.columns, blocks, strict=True):
        assert expected.setdefault((row // 20, column // 20), block) == block
    folds = make_folds(pixels, read, keys, 10.0)
    assert folds.number == 5 and folds.blocks == len(set(expected.values())) == 29
    for block in set(blocks):
        assert len(set(folds.fold[blocks == block])) == 1


def test_a_random_class_has_the_accuracy_of_chance(product: Labelled, tmp_path: Path) -> None:
    """Labels by field, without any relation to the embeddings: neighbours are not tested."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 2, (6, 5))
    cells = random_cells(500, seed=6)
    values = [int(noise[row // 20, column // 20]) for row, column in cells]
    labels = write_points(tmp_path / "labels.csv", cells, values)
    files = MapFiles.below(tmp_path / "map")
    record = make_map("cover", product.store, settings(labels, method="nearest"), files)
    assert record["accuracy"]["scores"]["balanced_accuracy"] < 0.62


def test_provenance_is_recorded(product: Labelled, tmp_path: Path) -> None:
    cells = random_cells(60)
    labels = write_points(tmp_path / "labels.csv", cells, [product.classes[c] for c in cells])
    files = MapFiles.below(tmp_path / "map")
    make_map("cover", product.store, settings(labels, penalty=2.5, seed=7), files)
    record = json.loads(files.record.read_text())
    assert record["labels"]["sha256"] == sha256_of(labels)
    assert record["labels"]["file"] == "labels.csv"
    assert record["method"] == "logistic regression"
    assert record["parameters"] == {
        "penalty": 2.5, "folds": 5, "fold_block": 200.0, "pixels_per_polygon": 100, "seed": 7,
    }  # fmt: skip
    assert record["product"] == json.loads(json.dumps(product.region.provenance.to_json()))
    assert record["software"]["scikit-learn"]
    with rasterio.open(files.map) as raster:
        tags = raster.tags()
    assert tags["LABELS_SHA256"] == record["labels"]["sha256"]
    assert json.loads(tags["PROVENANCE"]) == record["product"]


def test_time_of_a_map_grows_with_its_region_and_method() -> None:
    base = NEEDS["label_map"].minutes
    block = 2000**2
    assert map_minutes(1, block, ["linear"], 2) == base + 1
    country = 2500 * block
    assert map_minutes(1, country, ["linear", "random_forest"], 2) == base + round(
        2 * country / (MAP_RATES["random_forest"] * 2) / 60 + 0.5
    )
    assert map_minutes(2, block, ["nearest"], 1) == 2 * map_minutes(1, block, ["nearest"], 1)
