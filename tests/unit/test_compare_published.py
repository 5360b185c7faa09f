"""Comparison with a published Zarr store, in a folder and on a server, and the page of it."""

from __future__ import annotations

import base64
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from tessera_flow.analysis.compare import _histogram
from tessera_flow.analysis.difference_cells import DifferenceCells
from tessera_flow.cli.main import main
from tessera_flow.products.geotiff.writer import open_raster
from tessera_flow.region.grid import Window

from ..support.published_zarr import HUGE, WITHOUT_CODES, ZONES, write_published
from ..support.servers import FileServer, running

ZONE_31, ZONE_33 = ZONES[0], ZONES[2]
PART = np.s_[2:110, 3:150]
"""The pixels of a zone that the product has."""
RECORD = {
    "model": {"name": "tessera_v1_1.pt", "family": "v1.1", "sha256": "ab" * 32, "dtype": "int8"},
    "software": {"tessera-flow": "0.1.0"},
    "min_observations": {"s2": 1},
    "sources": [{"sensor": "sentinel2", "provider": "mpc", "collection": "sentinel-2-l2a"}],
    "period_start": "2024-01-01",
    "period_end": "2024-12-31",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published") / "store")


def published(zone: Any, year: int = 2024) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return codes (h, w, 128) and scales of the part of a zone; NaN without an embedding."""
    codes, scales = zone.pixels(year)
    scales[HUGE] = scales[WITHOUT_CODES] = np.nan
    scales[~np.isfinite(scales)] = np.nan
    return np.moveaxis(codes, 0, -1)[PART], scales[PART]


def changed(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return codes of which every seventh is another one."""
    result = codes.copy()
    flat = result.reshape(-1)
    flat[::7] = np.where(flat[::7] > 0, flat[::7] - 2, flat[::7] + 1)
    return result


def write_product(folder: Path, zone: Any, south: bool = False, **record: Any) -> Path:
    """Write a product whose scales are those of the zone, and whose first two rows are empty."""
    folder.mkdir()
    codes, scales = published(zone)
    scales[:2] = np.nan
    left, top = zone.origin
    top += 10_000_000 if south else 0
    transform = Affine(10, 0, left, 0, -10, top) @ Affine.translation(PART[1].start, PART[0].start)
    document = (
        RECORD
        | record
        | {
            "transform": list(transform)[:6],
            "crs": zone.crs.replace("326", "327") if south else zone.crs,
        }
    )
    stem = folder / "stitched_representation"
    np.save(stem.with_suffix(".npy"), changed(codes))
    np.save(f"{stem}_scales.npy", scales)
    stem.with_suffix(".json").write_text(json.dumps(document))
    return folder


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["compare", *map(str, arguments), "--json", "--sample", "200"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def check_numbers(result: dict[str, Any], zone: Any, swapped: bool = False) -> None:
    codes, scales = published(zone)
    own = np.isfinite(scales)
    own[:2] = False
    both = own & np.isfinite(scales)
    in_store, in_product = int(np.isfinite(scales).sum()), int(own.sum())
    cover = result["coverage"]
    names = ("in_b", "in_a") if swapped else ("in_a", "in_b")
    assert (cover[names[0]], cover[names[1]]) == (in_product, in_store)
    assert cover["in_both"] == both.sum() > 5000
    assert cover["overlap"] == scales.size
    equal = changed(codes)[both] == codes[both]
    assert 0.8 < equal.mean() < 0.9
    np.testing.assert_allclose(result["codes"]["equal"], equal.mean())
    first, second = changed(codes)[both].astype(float), codes[both].astype(float)
    norm = np.linalg.norm
    cosines = (first * second).sum(axis=1) / norm(first, axis=1) / norm(second, axis=1)
    np.testing.assert_allclose(result["cosines"]["mean"], cosines.mean(), atol=1e-9)


@pytest.mark.parametrize(("zone", "south"), [(ZONE_31, False), (ZONE_33, False), (ZONE_33, True)])
def test_a_product_and_a_store(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], zone: Any, south: bool
) -> None:
    """Also south of the equator, where a product has another northing than the store."""
    product = write_product(tmp_path / "product", zone, south)
    result = run_json(capsys, product, store)
    check_numbers(result, zone)
    findings = {finding["name"]: finding for finding in result["diagnosis"]}
    assert findings["published dataset"]["b"] == "v1.1, 2024"
    assert findings["family"]["state"] == findings["period"]["state"] == "same"
    assert findings["weights (SHA-256)"]["state"] == "unknown"
    cell = findings["recurrent cell"]
    assert cell["state"] == "different" and "October 2026" in cell["meaning"]
    assert "% of equal codes do not fit this." in cell["meaning"]  # 86 % of them are equal
    check_numbers(run_json(capsys, store, product), zone, swapped=True)


def test_a_store_on_a_server(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    product = write_product(tmp_path / "product", ZONE_31)
    monkeypatch.setenv("STORE_TOKEN", "verysecret")
    server = FileServer(folder=store.parent)
    with running(server):
        result = run_json(capsys, product, f"{server.url}/store?token=${{STORE_TOKEN}}")
        check_numbers(result, ZONE_31)
        assert result["b"] == f"{server.url}/store (utm31, 2024)"
        assert "verysecret" not in json.dumps(result)
        assert all("token=verysecret" in path for path in server.paths)
        sent = server.sent
    stored = sum(
        file.stat().st_size for name in ("embeddings", "scales")
        for file in (store / "utm31" / name / "c" / "1").rglob("*") if file.is_file()
    )  # fmt: skip
    assert sent < 1.6 * stored  # the product has 79 % of the zone's pixels


def test_the_year_is_stated_or_that_of_the_product(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    product = write_product(tmp_path / "product", ZONE_31, period_end="2025-06-30")
    assert main(["compare", str(product), str(store)]) == 1
    assert "2024-01-01 to 2025-06-30, is no calendar year" in capsys.readouterr().err
    result = run_json(capsys, product, store, "--year", "2023")
    codes, scales = ZONE_31.pixels(2023)
    codes, other = np.moveaxis(codes, 0, -1)[PART], changed(published(ZONE_31)[0])
    both = np.isfinite(published(ZONE_31)[1]) & np.isfinite(scales[PART])
    both[:2] = False
    np.testing.assert_allclose(result["codes"]["equal"], (codes[both] == other[both]).mean())


def without_record(product: Path) -> None:
    path = product / "stitched_representation.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: document[key] for key in ("transform", "crs")}))


def in_another_crs(product: Path) -> None:
    path = product / "stitched_representation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crs": "EPSG:28992"}))


def in_another_zone(product: Path) -> None:
    path = product / "stitched_representation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crs": "EPSG:32650"}))


def shifted(product: Path) -> None:
    path = product / "stitched_representation.json"
    document = json.loads(path.read_text())
    document["transform"][2] += 5
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("edit", "more", "message"),
    [
        (without_record, [], "is not known: state the year by --year"),
        (in_another_crs, [], "is in no UTM zone (its CRS is EPSG:28992)"),
        (in_another_zone, [], "has no embeddings in UTM zone 50"),
        (shifted, [], "shifted by"),
        (lambda _: None, ["--year", "2019"], "has no embeddings of 2019; it has 2023, 2024"),
    ],
)
def test_what_cannot_be_compared_with_a_store(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    edit: Callable[[Path], None], more: list[str], message: str,
) -> None:  # fmt: skip
    product = write_product(tmp_path / "product", ZONE_31)
    edit(product)
    assert main(["compare", str(product), str(store), *more]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("b", "message"),
    [
        ("STORE", "Both A and B are published Zarr stores"),
        ("http://127.0.0.1:1/none?token=${NOT_SET}", "NOT_SET of the environment is not set"),
        ("s3://bucket/store", "s3://bucket/store cannot be read: stores are read from http(s)"),
    ],
)
def test_stores_that_cannot_be_opened(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], b: str, message: str
) -> None:
    a = store if b == "STORE" else write_product(tmp_path / "product", ZONE_31)
    assert main(["compare", str(a), b.replace("STORE", str(store))]) == 1
    assert message in capsys.readouterr().err


def test_a_year_needs_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    product = write_product(tmp_path / "product", ZONE_31)
    assert main(["compare", str(product), str(product), "--year", "2024"]) == 1
    assert "--year is of a published Zarr store" in capsys.readouterr().err


def test_a_damaged_store_is_an_error(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = write_published(tmp_path / "store")
    root = zarr.open_group(copied / "utm31", mode="r+")
    del root["scales"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(copied)
    product = write_product(tmp_path / "product", ZONE_31)
    assert main(["compare", str(product), str(copied)]) == 1
    assert "has no array scales" in capsys.readouterr().err


def images(page: str) -> list[NDArray[np.uint8]]:
    found = []
    for text in re.findall(r'href="data:image/png;base64,([^"]+)"', page):
        with MemoryFile(base64.b64decode(text)) as memory, open_raster(memory.name) as file:
            found.append(file.read())
    return found


def test_page(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    product = write_product(tmp_path / "pro<b>duct", ZONE_31)
    page = tmp_path / "comparison.html"
    result = run_json(capsys, product, store, "--html", page)
    text = page.read_text(encoding="utf-8")
    assert "<b>duct" not in text and "pro&lt;b&gt;duct" in text
    assert "default-src 'none'" in text and not re.search(r"(src|href)=\"?https?:", text)
    assert f"mean cosine {result['cosines']['mean']:.4f}" in text
    assert f"{100 * result['codes']['equal']:.2f} %" in text
    assert "recurrent cell: different. All embeddings published as v1.1 before October 2026" in text
    for finding in result["diagnosis"]:
        assert f"<tr><td>{finding['name']}</td>" in text
    scales = published(ZONE_31)[1]
    both = np.isfinite(scales)
    both[:2] = False
    difference, coverage = images(text)
    assert (difference[3] == np.where(both, 255, 0)).all()
    colours = {tuple(colour) for colour in np.moveaxis(coverage, 0, -1)[both]}
    assert colours == {(80, 96, 112)}
    assert {tuple(c) for c in np.moveaxis(coverage, 0, -1)[:2][np.isfinite(scales[:2])]} == {
        (59, 82, 139)
    }
    bars = result["cosines"]["histogram"]
    titles = [int(n) for n in re.findall(r"<title>pixels, [^:]*: ([0-9]+)</title>", text)]
    assert titles == bars["pixels"] and len(titles) == 40
    assert sum(titles) + bars["below"] == both.sum()
    assert bars["below"] <= 0.001 * both.sum()
    # Again: its own page is replaced, no other file is.
    run_json(capsys, product, store, "--html", page)
    page.write_text("<html>of the user</html>")
    assert main(["compare", str(product), str(store), "--html", str(page)]) == 1
    assert "is no page of a comparison" in capsys.readouterr().err
    assert page.read_text() == "<html>of the user</html>"


def test_bars_of_the_histogram() -> None:
    counts = np.zeros(20_001, np.int64)
    counts[20_000], counts[19_999], counts[19_921], counts[0] = 5000, 7, 30, 2
    bars = _histogram(counts)
    np.testing.assert_allclose((bars.low, bars.width), (0.992, 2e-4))
    assert bars.pixels == [30] + [0] * 38 + [5007] and bars.below == 2
    counts[20_000], counts[19_999] = 0, 0  # the bars reach to -1
    bars = _histogram(counts)
    assert sum(bars.pixels) + bars.below == 32 and bars.low >= -1.06


def test_cells_are_means_of_their_pixels() -> None:
    random = np.random.default_rng(0)
    shape = (50, 37)
    distance, in_a, in_b = (
        random.random(shape),
        random.random(shape) < 0.2,
        random.random(shape) < 0.2,
    )
    distance[~(in_a & in_b)] = np.nan
    cells = DifferenceCells(shape, 10)
    for y, x in ((0, 0), (0, 20), (30, 0), (30, 20)):
        part = np.s_[y : min(50, y + (30 if y == 0 else 20)), x : 20 if x == 0 else 37]
        window = Window(y, x, *distance[part].shape)
        cells.add(window, distance[part], in_a[part], in_b[part])
    assert cells.step == 5
    for row, column in np.ndindex(10, 8):
        part = np.s_[5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
        known = distance[part][np.isfinite(distance[part])]
        mean = known.mean() if known.size else np.nan
        np.testing.assert_allclose(cells.distance()[row, column], mean)
        expected = in_a[part].any() | 2 * in_b[part].any()
        assert cells.coverage()[row, column] == (3 if (in_a & in_b)[part].any() else expected)
