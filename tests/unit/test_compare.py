"""Comparison of two products; the expected numbers are computed here from complete arrays."""

from __future__ import annotations

import json
import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from tessera_flow.analysis.compare import compare, overlap
from tessera_flow.analysis.compared import open_embeddings
from tessera_flow.analysis.diagnosis import diagnose
from tessera_flow.analysis.structure import neighbour_overlap
from tessera_flow.cli.main import main
from tessera_flow.errors import RegionError, TileError
from tessera_flow.products.geotiff.writer import Placement
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import Region, landscape, make_region, write_block, write_numpy

DIM, SHAPE = 16, (90, 70)


def region_of(folder: Path, values: np.ndarray, valid: np.ndarray, **options: Any) -> Region:
    folder.mkdir(parents=True)
    return make_region(folder, 40, DIM, values=values, valid=valid, **options)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two regions of which B has noise and other pixels; A as a store, B as arrays."""
    folder = tmp_path_factory.mktemp("compared")
    random = np.random.default_rng(3)
    values = landscape(*SHAPE, DIM)
    noise = random.normal(0, 0.05 * values.std(), values.shape)
    valid_a, valid_b = random.random(SHAPE) < 0.9, random.random(SHAPE) < 0.8
    a = region_of(folder / "a", values, valid_a)
    b = region_of(folder / "b", (values + noise).astype(values.dtype), valid_b)
    counts = b.counts.copy()
    counts[::3, :, 0] += 2  # more Sentinel-2 observations in a third of the rows
    b = replace(b, counts=counts)
    for block in b.grid.blocks:
        part = b.grid.product_window(block).slices
        path = b.blocks[block.id]
        write_block(path, b.embeddings[part], b.scales[part], counts[part], 25)
    write_zarr(folder / "a" / "embeddings.zarr", a.grid, a.blocks, a.provenance, 20)
    write_numpy(b, folder / "b")
    return a, b, folder / "a", folder / "b"


def dequantised(region: Region) -> np.ndarray:
    return (region.embeddings * region.scales[..., None]).astype(np.float64)


def rank(values: np.ndarray) -> float:
    singular = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
    shares = singular / singular.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def test_every_number_is_that_of_the_complete_arrays(products: Any, tmp_path: Path) -> None:
    a, b, path_a, path_b = products
    both = a.valid & b.valid
    first, second = dequantised(a)[both], dequantised(b)[both]
    result = compare(
        open_embeddings(path_a), open_embeddings(path_b), sample=10_000,
        difference=tmp_path / "difference.tif",
    )  # fmt: skip
    cover = result.coverage
    assert (cover.grid_a, cover.grid_b, cover.overlap) == (6300, 6300, 6300)
    assert (cover.in_a, cover.in_b) == (a.valid.sum(), b.valid.sum())
    assert cover.in_both == both.sum() > 1000
    norm = np.linalg.norm
    cosines = (first * second).sum(axis=1) / norm(first, axis=1) / norm(second, axis=1)
    assert result.cosines is not None and result.codes is not None
    np.testing.assert_allclose(result.cosines.mean, cosines.mean(), atol=1e-6)
    np.testing.assert_allclose(result.cosines.lowest, cosines.min(), atol=1e-6)
    for percent, value in result.cosines.percentiles.items():
        expected = np.percentile(cosines, percent, method="inverted_cdf")
        np.testing.assert_allclose(value, expected, atol=1.01e-4)
    ratio = norm(second, axis=1).mean() / norm(first, axis=1).mean()
    np.testing.assert_allclose(result.cosines.length_ratio, ratio, rtol=1e-6)
    steps = np.abs(a.embeddings[both].astype(int) - b.embeddings[both])
    assert 0.01 < (steps == 0).mean() < 0.99
    np.testing.assert_allclose(result.codes.equal, (steps == 0).mean())
    np.testing.assert_allclose(result.codes.within_one, (steps <= 1).mean())
    np.testing.assert_allclose(result.codes.pixels, (steps == 0).all(axis=1).mean())
    assert result.codes.largest == steps.max()
    np.testing.assert_allclose(result.rank_a, rank(first), rtol=1e-6)
    np.testing.assert_allclose(result.rank_b, rank(second), rtol=1e-6)
    np.testing.assert_allclose(result.neighbour_overlap, shared(first, second, 10), atol=1e-9)
    assert result.sample == both.sum()
    assert result.counts_mean is not None and result.counts_equal is not None
    assert 0.5 < result.counts_equal[0] < 0.8 and result.counts_equal[1:] == [1, 1]
    for kind in range(3):
        counts = a.counts[both][:, kind], b.counts[both][:, kind]
        np.testing.assert_allclose(result.counts_mean[kind], [c.mean() for c in counts])
        np.testing.assert_allclose(result.counts_equal[kind], np.mean(counts[0] == counts[1]))
    with rasterio.open(tmp_path / "difference.tif") as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert tuple(raster.transform)[:6] == (10, 0, 600_000, 0, -10, 5_700_000)
        assert np.isnan(raster.nodata)
        written = raster.read(1)
    assert np.isnan(written[~both]).all()
    np.testing.assert_allclose(written[both], 1 - cosines, atol=1e-6)


def shared(first: np.ndarray, second: np.ndarray, k: int) -> float:
    """Return the mean share of common neighbours, by scikit-learn."""
    from sklearn.neighbors import NearestNeighbors  # takes a second

    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    found = (search.fit(values).kneighbors(return_distance=False) for values in (first, second))
    return float(np.mean([len({*a} & {*b}) / k for a, b in zip(*found, strict=True)]))


@pytest.mark.parametrize("k", [1, 3, 5, 7, 23])
def test_of_equally_near_pixels_the_first_are_neighbours(k: int) -> None:
    """All cosines are 0 or 1."""
    first, second = np.eye(4)[np.arange(24) % 4], np.eye(4)[np.arange(24) // 6]
    overlaps = []
    for n in range(24):
        near = []
        for values in (first, second):
            distances = -(values @ values[n])
            distances[n] = np.inf
            near.append({*np.argsort(distances, kind="stable")[:k].tolist()})
        overlaps.append(len(near[0] & near[1]) / k)
    np.testing.assert_allclose(neighbour_overlap(first, second, k), np.mean(overlaps))


def test_a_product_equals_itself_in_any_form(products: Any, tmp_path: Path) -> None:
    a, _, path_a, _ = products
    write_numpy(a, tmp_path)
    first, second = open_embeddings(path_a / "embeddings.zarr"), open_embeddings(tmp_path)
    result = compare(first, second, sample=300)
    assert result.cosines is not None and result.codes is not None
    assert result.codes.equal == result.codes.pixels == result.neighbour_overlap == 1
    assert result.cosines.lowest > 1 - 1e-12 and result.sample == 300
    assert result.counts_equal == [1, 1, 1]
    states = {f.name: f.state for f in diagnose(first, second, result)}
    assert "different" not in states.values()
    assert states["period"] == states["weights (SHA-256)"] == "same"


@pytest.fixture
def tile(products: Any, tmp_path: Path) -> Path:
    """The pixels of B from (7, 5) as a published tile, with a huge scale at one pixel."""
    b = products[1]
    folder = tmp_path / "grid_4.45_51.45"
    folder.mkdir()
    part = np.s_[7:67, 5:70]
    scales = b.scales[part].copy()
    scales[3, 4] = 1e30
    np.save(folder / "grid_4.45_51.45.npy", b.embeddings[part])
    np.save(folder / "grid_4.45_51.45_scales.npy", scales)
    with rasterio.open(
        folder / "grid_4.45_51.45.tiff", "w", driver="GTiff", height=60, width=65, count=1,
        dtype="uint8", crs="EPSG:32631", transform=Affine(10, 0, 600_050, 0, -10, 5_699_930),
    ) as raster:  # fmt: skip
        raster.write(np.ones((1, 60, 65), np.uint8))
    return folder


def test_a_product_and_a_published_tile(products: Any, tile: Path) -> None:
    a, b, path_a, _ = products
    part = np.s_[7:67, 5:70]
    valid = b.valid[part].copy()
    valid[3, 4] = False
    both = a.valid[part] & valid
    first, second = open_embeddings(path_a), open_embeddings(tile)
    result = compare(first, second)
    assert result.coverage.overlap == 60 * 65
    assert (result.coverage.in_b, result.coverage.in_both) == (valid.sum(), both.sum())
    steps = a.embeddings[part][both] != b.embeddings[part][both]
    assert result.codes is not None
    np.testing.assert_allclose(result.codes.equal, 1 - steps.mean())
    assert result.counts_equal is None
    findings = {f.name: f for f in diagnose(first, second, result)}
    assert findings["model"].state == "unknown"
    assert "October 2026" in findings["recurrent cell"].meaning
    (tile / "grid_4.45_51.45.tiff").unlink()
    with pytest.raises(TileError, match=r"land mask grid_4\.45_51\.45\.tiff"):
        open_embeddings(tile)


def test_records_that_differ(products: Any, tmp_path: Path) -> None:
    """What a record states of model, precision and period is named, with what follows."""
    _, _, path_a, path_b = products
    changed = Path(shutil.copytree(path_b, tmp_path / "b"))
    record = json.loads((changed / "stitched_representation.json").read_text())
    record["model"] |= {"sha256": "0" * 64, "precision": "bf16", "statistics": "aws",
                        "family": "v1.1"}  # fmt: skip
    record["period_end"], record["preprocessing"] = "2024-12-31", "as_published"
    (changed / "stitched_representation.json").write_text(json.dumps(record))
    jumps = {"level_jumps": [{}, {}], "inference": {"blocks": [{"precision": "bf16"}]}}
    (changed / "checks.json").write_text(json.dumps(jumps))
    first, second = open_embeddings(path_a), open_embeddings(changed)
    findings = {f.name: f for f in diagnose(first, second, compare(first, second, sample=50))}
    different = {name for name, finding in findings.items() if finding.state == "different"}
    assert {"weights (SHA-256)", "family", "period", "preprocessing", "statistics",
            "precision (configured)"} <= different  # fmt: skip
    assert findings["period"].b == "2023-07-01 to 2024-12-31"
    assert findings["precision (used)"].b == "bf16"
    assert findings["Sentinel-2 days that are 1000 off"].b == "2"
    assert findings["stored as"].state == "same"


PLACE = Placement((50, 60), rasterio.crs.CRS.from_epsg(32631).to_wkt(),
                  Affine(10, 0, 600_000, 0, -10, 5_700_000))  # fmt: skip


def moved(x: float = 0, y: float = 0, size: float = 10, code: int = 32631) -> Placement:
    crs = rasterio.crs.CRS.from_epsg(code).to_wkt()
    return Placement((50, 60), crs, Affine(size, 0, 600_000 + x, 0, -size, 5_700_000 + y))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (moved(code=32632), "A is in EPSG:32631, B in EPSG:32632"),
        (moved(size=20), "a pixel of A is 10 x 10, one of B 20 x 20"),
        (moved(x=5), "shifted by 0.500 columns and 0.000 rows"),
        (moved(y=-2), "shifted by 0.000 columns and 0.200 rows"),
        (moved(x=600), "do not overlap: A covers x 600000 to 600600 and y 5699500 to 5700000, B x"),
        (moved(y=500), "do not overlap"),
    ],
)
def test_grids_that_differ_are_refused(other: Placement, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        overlap(PLACE, other)


def test_overlap_of_shifted_grids() -> None:
    first, second = overlap(PLACE, moved(x=-100, y=-70))
    assert (first.y0, first.x0, first.height, first.width) == (7, 0, 43, 50)
    assert (second.y0, second.x0, second.height, second.width) == (0, 10, 43, 50)


def test_command(products: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, path_a, path_b = products
    output = tmp_path / "map.tif"
    assert main(["compare", str(path_a), str(path_b), "--sample", "100", "--map", str(output)]) == 0
    text = capsys.readouterr().out
    assert "6,300 pixels, of 6,300 in A and 6,300 in B" in text
    assert "among 100 pixels (by chance 10.1 %)" in text
    assert "  mean Sentinel-2 observations: " in text
    assert output.exists() and text.endswith(f"\nWritten: {output}\n")
    assert main(["compare", str(path_a), str(path_b), "--sample", "100", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["coverage"]["overlap"] == 6300 and document["codes"]["largest"] > 0
    assert {"name", "a", "b", "state", "meaning"} == set(document["diagnosis"][0])


def test_a_product_and_itself(
    products: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under another path, and in the other form of its folder; a copy is another product."""
    a, _, path_a, path_b = products
    folder = Path(shutil.copytree(path_a, tmp_path / "product"))
    arrays = write_numpy(a, folder)
    link, page = tmp_path / "link", tmp_path / "page.html"
    link.symlink_to(folder)
    message = "A and B are the same product"
    store = folder / "embeddings.zarr"
    for other, same in (
        (link, True), (arrays, True), (path_a, False), (path_b, False)
    ):  # fmt: skip
        arguments = ["compare", str(store), str(other), "--sample", "50", "--html", str(page)]
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert (f"\n{message}: this compares it with itself.\n" in text) == same
        assert (f"{message}. " in page.read_text()) == same
        assert main([*arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["same_product"] is same
    assert "<p>mean Sentinel-2 observations: different. The same at " in re.sub(
        "<(li|p)[^>]*>", "<p>", page.read_text()
    )


def test_only_maps_of_comparisons_are_replaced(
    products: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", *map(str, products[2:]), "--sample", "100", "--map"]
    text, raster = tmp_path / "notes.tif", tmp_path / "raster.tif"
    text.write_text("of the user")
    with rasterio.open(
        raster, "w", driver="GTiff", width=1, height=1, count=1, dtype="uint8",
        transform=Affine(10, 0, 0, 0, -10, 0),
    ) as file:  # fmt: skip
        file.write(np.ones((1, 1, 1), np.uint8))
    for path in (text, raster):
        before = path.read_bytes()
        assert main([*arguments, str(path)]) == 1
        assert "is no map of a comparison" in capsys.readouterr().err
        assert path.read_bytes() == before
    for _ in range(2):
        assert main([*arguments, str(tmp_path / "map.tif")]) == 0


@pytest.mark.parametrize("more", [{}, {"model": None}, {"model": {}, "sources": [{}]}])
def test_a_record_of_another_program_states_nothing(
    products: Any, tmp_path: Path, more: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(products[3], tmp_path / "b"))
    path = copied / "stitched_representation.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({k: record[k] for k in ("transform", "crs")} | more))
    assert main(["compare", str(products[2]), str(copied), "--json"]) == 0
    findings = {f["name"]: f for f in json.loads(capsys.readouterr().out)["diagnosis"]}
    assert findings["model"]["b"] == findings["sources"]["b"] == "unknown"
    assert "recurrent cell" not in findings  # nothing says that it was published


def test_memory_of_neighbours_grows_with_the_pixels_only() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 4000, 8))
    tracemalloc.start()
    shares = neighbour_overlap(first, second, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shares is not None and 0 < shares < 0.05
    assert peak < 50e6  # the matrix of all cosines has 128 MB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--neighbours", "0"], "--neighbours 0"),
        (["--sample", "10"], "--sample 10"),
        (["--map", "."], "is not the name of a file"),
    ],
)
def test_bad_arguments(
    products: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(products[2]), str(products[3]), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_files_that_are_no_embeddings(products: Any, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(TileError, match=r"no embeddings that can be|does not exist"):
            open_embeddings(path)
    copied = Path(shutil.copytree(products[3], tmp_path / "b"))
    np.save(copied / "stitched_representation_scales.npy", np.ones((3, 4), np.float32))
    with pytest.raises(TileError, match=r"The scales of .* have 3 x 4 pixels, its grid has 90"):
        open_embeddings(copied)
