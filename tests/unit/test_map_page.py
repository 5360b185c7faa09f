"""`tessera-flow map`, and the page of a map."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rasterio.io import MemoryFile

from tessera_flow.analysis.learning_curve import curve_chart
from tessera_flow.cli.main import main
from tessera_flow.products.geotiff.writer import open_raster

from ..support.labelled_region import NAMES, Labelled, labelled_region, random_cells, write_points


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return labelled_region(tmp_path_factory.mktemp("product"))


def arguments(store: Path, labels: Path, out: Path, *more: str) -> list[str]:
    where = ["--crs", "EPSG:32631", "--fold-block", "200", "--column", "cover"]
    return ["map", str(store), str(labels), "--out", str(out), *where, *more]


def images(page: str) -> list[np.ndarray]:
    result = []
    for text in re.findall(r'href="data:image/png;base64,([^"]+)"', page):
        with MemoryFile(base64.b64decode(text)) as memory, open_raster(memory.name) as file:
            result.append(file.read())
    return result


def test_page_of_classes(
    product: Labelled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = random_cells(200)
    names = [NAMES[product.classes[c]] for c in cells]
    names[0] = "<b>wood</b>"
    labels = write_points(tmp_path / "labels.csv", [*cells, (-3, 0), cells[1]], [*names, "a", "a"])
    out = tmp_path / "cover"
    assert main(arguments(product.store.parent, labels, out, "--method", "nearest")) == 0
    printed = capsys.readouterr().out
    assert "labels: 199 ok, 1 outside, 2 conflict" in printed
    record = json.loads((out / "map.json").read_text())
    assert f"accuracy {record['accuracy']['scores']['accuracy']:.4g}" in printed
    page = (out / "map.html").read_text()
    assert f"<h1>Map cover: {product.region.provenance.region}" in page
    assert f"Accuracy {record['accuracy']['scores']['accuracy']:.3f}" in page
    assert "&lt;b&gt;wood&lt;/b&gt;" in page and "<b>wood" not in page
    assert "All labels of &lt;b&gt;wood" in page  # warned: in one spatial block
    assert not re.search(r'(src|href)="(https?:)?//', page) and "<script" not in page
    for name in re.findall(r'<a href="([^"]+)"', page):
        assert (out / name).exists(), name
    for row in record["accuracy"]["confusion"]:
        for number in row:
            assert f">{number:,}</td>" in page
    shown, doubt = images(page)
    with open_raster(out / "map.tif") as raster:
        values, table = raster.read(1), raster.colormap(1)
    for value, colour in table.items():
        if (values == value).any():
            assert (np.moveaxis(shown, 0, -1)[values == value] == colour).all()
    assert (doubt[3] == np.where(values > 0, 255, 0)).all()
    row, column = cells[1]
    assert f"<tr><td>{row}</td><td>{column}</td><td>2, 202</td></tr>" in page
    # Once more: its own files are replaced, those of others are not.
    assert main(arguments(product.store, labels, out)) == 0
    assert json.loads((out / "map.json").read_text())["method"] == "logistic regression"


def test_page_of_numbers(product: Labelled, tmp_path: Path) -> None:
    cells = random_cells(100)
    labels = write_points(tmp_path / "labels.csv", cells, [product.numbers[c] for c in cells])
    out = tmp_path / "biomass"
    assert main(arguments(product.store, labels, out, "--predict", "number", "--seed", "3")) == 0
    record = json.loads((out / "map.json").read_text())
    page = (out / "map.html").read_text()
    assert f"RMSE {record['accuracy']['scores']['rmse']:.4g}" in page
    assert "Confusion" not in page and "leverage" in page
    assert "seed 3" in page and record["labels"]["sha256"] in page
    assert f">{record['map']['low']:.4g}</text>" in page
    assert (images(page)[0][3] > 0).sum() == record["map"]["pixels"] == 11600


def test_files_of_others_are_not_replaced(
    product: Labelled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    labels = write_points(mine / "label_states.csv", random_cells(40), ["a", "b"] * 20)
    before = labels.read_bytes()
    assert main(arguments(product.store, labels, mine)) == 1
    assert "mine has no complete map" in capsys.readouterr().err
    assert labels.read_bytes() == before
    assert [path.name for path in mine.iterdir()] == ["label_states.csv"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "map.tif").write_text("a map")
    (other / "map.json").write_text('{"product": "a shop"}')
    assert main(arguments(product.store, labels, other)) == 1
    assert "other has no complete map" in capsys.readouterr().err
    assert (other / "map.tif").read_text() == "a map"


def test_a_map_gets_its_name_as_one_folder(
    product: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    labels = write_points(tmp_path / "labels.csv", random_cells(40), ["a", "b"] * 20)
    out = tmp_path / "cover"
    assert main(arguments(product.store, labels, out)) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_: object) -> None:
        raise TypeError

    # The page is the last file: what fails before it leaves the earlier map as it was.
    monkeypatch.setattr("tessera_flow.analysis.page.write_page", fail)
    with pytest.raises(TypeError):
        main(arguments(product.store, labels, out, "--seed", "5"))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    (out / "notes.txt").write_text("mine")
    assert main(arguments(product.store, labels, out)) == 1
    assert "cover has the file notes.txt" in capsys.readouterr().err
    monkeypatch.chdir(out)
    assert main(arguments(product.store, labels, Path())) == 1
    assert "--out is the current folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--penalty", "0"], "penalty is 0.0 (number), but must be greater than 0"),
        (["--folds", "1"], "folds is 1 (whole number), but must be at least 2"),
        (["--threads", "0"], "--threads 0: give a number of at least 1"),
        (["--y", "latitude"], "name the columns of the coordinates with --x and --y"),
    ],
)
def test_bad_options_have_a_message(
    product: Labelled,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    labels = write_points(tmp_path / "labels.csv", random_cells(40), ["a", "b"] * 20)
    assert main(arguments(product.store, labels, tmp_path / "out", *more)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_chart_of_a_learning_curve() -> None:
    chart = curve_chart([(5, 0.5, 0.4, 0.6), (50, 0.9, 0.9, 0.9), (500, 1.0, 1.0, 1.0)], "score")
    ticks = dict((text, y) for y, text in chart.ticks)
    assert list(ticks) == ["0.4", "0.6", "0.8", "1.0"]
    first, middle, last = chart.dots
    assert first.low == ticks["0.4"] and last.y == ticks["1.0"]
    assert middle.x - first.x == pytest.approx(last.x - middle.x, abs=0.2)  # a logarithmic axis
    assert curve_chart([(5, -3.0, -9.0, 0.1)], "r2").ticks[0][1] == "-1.0"
