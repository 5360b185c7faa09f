"""The explorer of the report: its data, and its JavaScript against NumPy."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
from affine import Affine

from tessera_flow.products.report import explorer
from tessera_flow.products.report.explorer import nodes, page_data, read_explorer

from ..support.products_region import Region, make_region

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")

WHOLE = [{"left": 0, "row": 0, "column": 0, "height": 10**6, "width": 10**6}]
SCRIPT = """
const data = readData(JSON.parse(input));
const rows = pixels.map((pixel) => Array.from(similarities(data, pixel)));
const places = pixels.map((pixel) => placeOf(data, pixel));
const texts = pixels.map((pixel) => textOf(data, pixel));
const colours = Array.from(coloured(Float32Array.from([NaN, 0.5, 0.75, 1, 2]), [0.5, 1]));
const range = rangeOf(Float32Array.from([...Array(101).keys()].map((n) => n / 100).concat(NaN)));
const middle = middleOf(data);
output = JSON.stringify({ rows, places, texts, colours, range, middle }, (key, value) =>
  Number.isNaN(value) ? "nan" : value);
"""


def in_node(data: dict[str, Any], pixels: list[int]) -> dict[str, Any]:
    """Run the functions of the page on the data of the page."""
    source = files("tessera_flow.products.report").joinpath("explorer.js").read_text()
    program = """
    const vm = require("vm");
    const stdin = JSON.parse(require("fs").readFileSync(0, "utf8"));
    const context = { ...stdin, atob, output: "" };
    vm.runInNewContext(stdin.source + stdin.script, context);
    process.stdout.write(context.output);
    """
    given = {
        "source": source, "script": SCRIPT, "input": json.dumps(data), "pixels": pixels
    }  # fmt: skip
    done = subprocess.run(
        ["node", "-e", program], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def cosines(region: Region, step: int, pixel: int) -> np.ndarray:
    """Return the cosine of a pixel of the thinned grid with all others, NaN without an embedding.
    Computed from the stored embeddings."""
    values = region.embeddings[::step, ::step].astype(np.float64)
    values[~region.valid[::step, ::step]] = np.nan
    flat = values.reshape(-1, values.shape[-1])
    norms = np.linalg.norm(flat, axis=1)
    return np.asarray(flat @ flat[pixel] / norms / norms[pixel])


@pytest.mark.parametrize("block_size", [50, 500])
def test_similarity_in_the_page_is_the_cosine_of_the_codes(tmp_path: Path, block_size: int) -> None:
    region = make_region(tmp_path, block_size)
    result = read_explorer(region.grid, region.blocks, region.provenance)
    assert result is not None and result.exact and result.step == 1
    assert result.deviation[1] < 1e-12
    np.testing.assert_array_equal(result.valid, region.valid)
    height, width = region.valid.shape
    pixels = [150, 120 * width + 3, (height - 1) * width + width - 1]
    shown = in_node(page_data(result, region.grid), pixels)
    for pixel, row in zip(pixels, shown["rows"], strict=True):
        values = np.array([np.nan if v == "nan" else v for v in row])
        np.testing.assert_allclose(values, cosines(region, 1, pixel), atol=1e-6)
    to_degrees = pyproj.Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    for pixel, place in zip(pixels, shown["places"], strict=True):
        y, x = divmod(pixel, width)
        assert (place["row"], place["column"]) == (y, x)
        assert (place["x"], place["y"]) == (600_005 + 10 * x, 5_699_995 - 10 * y)
        lon, lat = to_degrees.transform(place["x"], place["y"])
        assert (place["lon"], place["lat"]) == pytest.approx((lon, lat), abs=2e-7)
    transparent, dark, green, light, beyond = np.array(shown["colours"]).reshape(5, 4).tolist()
    assert (transparent, dark) == ([0, 0, 0, 0], [68, 1, 84, 255])
    assert (green, light, beyond) == ([33, 145, 140, 255], [253, 231, 37, 255], light)
    assert shown["range"] == pytest.approx([0.02, 1])
    # The middle of the grid is in the hole of the region's mask or beside it.
    assert region.valid.reshape(-1)[shown["middle"]]


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_thinned_grid_of_leading_components(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page says about the deviation holds for a pixel that was not in its sample."""
    monkeypatch.setattr(explorer, "EDGE", 60)
    monkeypatch.setattr(explorer, "CODE_BYTES", 10_000)
    region = make_region(tmp_path, 64, dtype=dtype)
    result = read_explorer(region.grid, region.blocks, region.provenance)
    assert result is not None and not result.exact
    number = int(region.valid[::4, ::4].sum())
    assert (result.step, result.codes.shape) == (4, (number, 10_000 // number))
    np.testing.assert_array_equal(result.valid, region.valid[::4, ::4])
    mean, largest = result.deviation
    assert 0 < mean < 0.01 and mean < largest < 0.1
    pixel = int(np.flatnonzero(result.valid)[7])
    shown = in_node(page_data(result, region.grid), [pixel])
    values = np.array([np.nan if v == "nan" else v for v in shown["rows"][0]])
    expected = cosines(region, 4, pixel)
    np.testing.assert_allclose(values, expected, atol=2 * largest)
    assert np.nanmean(np.abs(values - expected)) < 3 * mean
    assert shown["places"][0]["column"] % 4 == 0


@pytest.mark.parametrize(
    ("crs", "left", "top", "edge"),
    [
        ("EPSG:32633", 350_000, 6_800_000, 30_000),  # 300 km at 60 degrees north
        ("EPSG:32701", 172_000, 8_000_000, 2_000),  # across the antimeridian, in the south
        ("EPSG:3031", 1_000_000, 1_100_000, 3_000),
    ],
)
def test_degrees_are_those_of_the_pixel(crs: str, left: int, top: int, edge: int) -> None:
    transform = Affine(10, 0, left, 0, -10, top)
    data = {
        "height": 100, "width": 100, "step": edge // 100, "panels": WHOLE, "shape": [edge, edge],
        "transform": list(transform)[:6], "nodes": nodes(transform, crs, edge, edge),
        "valid": base64.b64encode(bytes([255] * 1250)).decode(), "size": 1, "weights": [1],
        "codes": base64.b64encode(bytes([1] * 10_000)).decode(), "crs": crs,
    }  # fmt: skip
    pixels = [0, 57, 99, 4_343, 5_050, 9_999]
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    for place, text in zip(*map(in_node(data, pixels).get, ("places", "texts")), strict=True):
        lon, lat = to_degrees.transform(place["x"], place["y"])
        assert (place["lon"], place["lat"]) == pytest.approx((lon, lat), abs=2.5e-5)
        metres = pyproj.Geod(ellps="WGS84").inv(lon, lat, place["lon"], place["lat"])[2]
        assert metres < 1
        assert text.startswith(f"{abs(place['lat']):.5f}° {'N' if lat > 0 else 'S'}, ")


def test_no_degrees_beside_a_pole() -> None:
    assert nodes(Affine(10, 0, -500_000, 0, -10, 500_000), "EPSG:3031", 100_000, 100_000) is None
    data = {
        "height": 2, "width": 2, "step": 1, "panels": WHOLE, "shape": [2, 2],
        "transform": [10, 0, -5, 0, -10, 5],
        "nodes": None, "valid": base64.b64encode(b"\xf0").decode(), "size": 1, "weights": [1],
        "codes": base64.b64encode(bytes([1] * 4)).decode(), "crs": "EPSG:3031",
    }  # fmt: skip
    assert in_node(data, [3])["texts"] == ["x 10, y -10 in EPSG:3031; row 1, column 1"]


def test_data_are_small_for_any_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of the codes are limited, not the number of pixels alone."""
    monkeypatch.setattr(explorer, "CODE_BYTES", 50_000)
    region = make_region(tmp_path, 500, valid=np.ones((90, 90), bool))
    result = read_explorer(region.grid, region.blocks, region.provenance)
    assert result is not None
    assert len(json.dumps(page_data(result, region.grid))) < 50_000 * 4 / 3 + 5_000


def test_far_sites_are_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise most of the image is the empty space between them."""
    valid = np.zeros((100, 300), bool)
    valid[:20, :40] = valid[60:100, 260:] = True
    monkeypatch.setattr(explorer, "EDGE", 50)
    region = make_region(tmp_path, 20, valid=valid)
    result = read_explorer(region.grid, region.blocks, region.provenance)
    assert result is not None and result.step == 2  # the whole grid would need 6
    parts = [np.s_[60:100:2, 260:300:2], np.s_[0:20:2, 0:40:2]]
    assert [(p.left, p.height, p.width) for p in result.panels] == [(0, 20, 20), (24, 10, 20)]
    expected = np.zeros((20, 44), bool)
    expected[:, :20], expected[:10, 24:] = valid[parts[0]], valid[parts[1]]
    np.testing.assert_array_equal(result.valid, expected)
    codes = np.concatenate([
        np.concatenate([region.embeddings[parts[0]][row], region.embeddings[parts[1]][row]])
        if row < 10 else region.embeddings[parts[0]][row] for row in range(20)
    ])  # fmt: skip
    np.testing.assert_array_equal(result.codes, codes)
    pixels = [3 * 44 + 5, 9 * 44 + 24, 44 + 43]
    shown = in_node(page_data(result, region.grid), pixels)
    places = [(place["row"], place["column"]) for place in shown["places"]]
    assert places == [(66, 270), (18, 0), (2, 38)]
    other = region.embeddings[18, 0].astype(float)
    first = region.embeddings[66, 270].astype(float)
    cosine = first @ other / np.linalg.norm(first) / np.linalg.norm(other)
    assert shown["rows"][0][pixels[1]] == pytest.approx(cosine, abs=1e-6)


def test_no_explorer_without_embeddings(tmp_path: Path) -> None:
    nothing = np.zeros((20, 20, 16), np.float32)
    valid = np.ones((20, 20), bool)
    region = make_region(tmp_path, 500, dtype="float32", valid=valid, values=nothing)
    assert read_explorer(region.grid, region.blocks, region.provenance) is None
