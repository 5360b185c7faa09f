"""Periods of one region: shared colours, map of change, index page, order."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tessera_flow.config.configuration import Config, Period
from tessera_flow.jobs.files import RunFiles
from tessera_flow.products.geotiff.change import write_change
from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.report.change_map import change_figure
from tessera_flow.products.report.index import write_index
from tessera_flow.products.report.page import write_report

from ..support.products_region import Region, check, landscape, make_region, write_block

SHAPE = (60, 50)


def two_periods(folder: Path, dtype: str = "int8", block_size: int = 25) -> tuple[Region, Region]:
    """Return a region in two periods: in the second, one half is another landscape, and a corner
    has no embedding."""
    values = landscape(*SHAPE, 16)
    full = np.ones(SHAPE, bool)
    first = make_region(folder / "a", block_size, dtype=dtype, values=values, valid=full)
    changed = values.copy()
    changed[30:] = landscape(*SHAPE, 16, seed=5)[30:]
    valid = np.ones(SHAPE, bool)
    valid[:5, :5] = False
    second = make_region(folder / "b", block_size, dtype=dtype, values=changed, valid=valid)
    second.provenance = replace(second.provenance, period="y2024")
    return first, second


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_change_is_the_cosine_distance(tmp_path: Path, dtype: str) -> None:
    first, second = two_periods(tmp_path, dtype)
    path = tmp_path / "change.tif"
    write_change(path, second.grid, second.blocks, second.provenance, first.blocks, "y2023")
    one, other = (region.embeddings.astype(np.float64) for region in (first, second))
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    with np.errstate(invalid="ignore"):
        expected = 1 - (one * other).sum(axis=-1) / norms
    with rasterio.open(path) as file:
        values = file.read(1)
        assert file.tags()["PREVIOUS_PERIOD"] == "y2023" and np.isnan(file.nodata)
        assert file.descriptions == ("cosine_distance",)
    np.testing.assert_array_equal(np.isfinite(values), second.valid)
    np.testing.assert_allclose(values[second.valid], expected[second.valid], atol=6e-5)
    assert values[:30][second.valid[:30]].max() == 0 and np.median(values[30:]) > 0.05
    figure = change_figure("y2023", path)
    known = values[second.valid]
    median, high = np.percentile(known, [50, 95])
    assert figure["text"] == f"Median {median:.3f}, 95th percentile {high:.3f}."


def test_previews_of_two_periods_have_the_same_colours(tmp_path: Path) -> None:
    first, second = two_periods(tmp_path)
    images = {}
    for name, region, reference in (
        ("one", first, None),
        ("two", second, ("y2023", first.blocks)),
        ("alone", second, None),
    ):
        inputs = (region.grid, region.blocks, region.provenance)
        tif = tmp_path / f"{name}.tif"
        write_preview(tif, tmp_path / f"{name}.png", *inputs, reference=reference)
        with rasterio.open(tif) as file:
            images[name] = file.read()
            period = file.tags()["PCA_PERIOD"]
        assert period == ("y2024" if name == "alone" else "y2023")
    same = second.valid.copy()
    same[30:] = False
    np.testing.assert_array_equal(images["two"][:, same], images["one"][:, same])
    assert (images["alone"][:, same] != images["one"][:, same]).any()
    assert images["two"][3, 0, 0] == 0, "without an embedding: transparent"


def test_reference_without_embeddings_is_replaced_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = two_periods(tmp_path, block_size=100)
    write_block(
        first.blocks["b000_000"], np.zeros((*SHAPE, 16), np.int8),
        np.full(SHAPE, np.nan, np.float32), np.zeros((*SHAPE, 3), np.uint16), 25,
    )  # fmt: skip
    inputs = (second.grid, second.blocks, second.provenance)
    write_preview(
        tmp_path / "a.tif", tmp_path / "a.png", *inputs, reference=("y2023", first.blocks)
    )
    write_preview(tmp_path / "b.tif", tmp_path / "b.png", *inputs)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "Period y2023 of region field has no embedding" in caplog.text


def test_report_and_index_of_two_periods(tmp_path: Path) -> None:
    first, second = two_periods(tmp_path)
    for name, region in (("y2023", first), ("y2024", second)):
        folder = tmp_path / name
        folder.mkdir()
        inputs = (region.grid, region.blocks, region.provenance)
        write_preview(folder / "p.tif", folder / "p.png", *inputs)
        check(region, folder)
    change = tmp_path / "change.tif"
    write_change(change, second.grid, second.blocks, second.provenance, first.blocks, "y2023")
    write_report(
        tmp_path / "report.html", second.grid, second.blocks, second.provenance,
        tmp_path / "y2024/checks.json", tmp_path / "y2024/p.png", [], {}, tmp_path / "logs",
        reference="y2023", change=("y2023", change),
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert "<h2>Change since y2023</h2>" in text and 'href="#change"' in text
    assert "They are fitted to period y2023 of this region" in text
    script = "<b>field"
    runs = [(script, "y2023"), (script, "y2024")]
    folders = [tmp_path / period for _, period in runs]
    write_index(
        tmp_path / "index.html", runs, [f / "checks.json" for f in folders],
        [f / "p.png" for f in folders],
    )  # fmt: skip
    page = (tmp_path / "index.html").read_text()
    state = json.loads((tmp_path / "y2023/checks.json").read_text())
    assert state["headline"] in page and f'class="{state["state"]}"' in page
    assert page.count('<a href="%3Cb%3Efield/y2024/report.html">') == 2
    assert "<b>" not in page and "1 region, 2 reports" in page and "<script" not in page


def days(start: str, end: str) -> Period:
    return Period(start=datetime.date.fromisoformat(start), end=datetime.date.fromisoformat(end))


def test_previous_and_reference_period() -> None:
    files = RunFiles.__new__(RunFiles)
    files.config = Config.model_validate(
        {
            "regions": {
                "a": {"roi": "a.geojson"},
                "b": {"roi": "b.geojson", "periods": ["y2023", "s2023"]},
            },
            "periods": {
                "y2021": {"start": "2021-01-01", "end": "2021-12-31"},
                "y2023": {"start": "2023-01-01", "end": "2023-12-31"},
                "s2022": {"start": "2022-04-01", "end": "2022-09-30"},
                "s2023": {"start": "2023-04-01", "end": "2023-09-30"},
                "moved": {"start": "2023-10-15", "end": "2024-10-14"},
                "y2020": {"start": "2020-01-01", "end": "2020-12-31"},
            },
            "model": {"weights": "nano.pt"},
        }
    )
    previous = {name: files.previous_period("a", name) for name in files.config.periods}
    assert previous == {
        "y2020": None, "y2021": "y2020", "y2023": "y2021", "s2022": None, "s2023": "s2022",
        "moved": "y2021",  # y2023 has not ended before it starts
    }  # fmt: skip
    assert files.previous_period("b", "s2023") is None
    assert (files.reference_period("a"), files.reference_period("b")) == ("y2021", "y2023")
