"""The preview's components, colours and files."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tessera_flow.products.blocks import RegionBlocks
from tessera_flow.products.components import fit_components
from tessera_flow.products.geotiff.preview import shrink, write_preview

from ..support.products_region import dequantised, digest, make_region


def preview(region, folder: Path, stretch: float = 2.0) -> tuple[Path, Path]:  # type: ignore[no-untyped-def]
    tif, png = folder / "preview.tif", folder / "preview.png"
    write_preview(tif, png, region.grid, region.blocks, region.provenance, stretch)
    return tif, png


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_colours_equal_numpys_own_pca(tmp_path: Path, dtype: str) -> None:
    region = make_region(tmp_path / "blocks", 64, dtype=dtype)
    tif, _ = preview(region, tmp_path)
    values = dequantised(region)
    centred = values - values.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    axes = rows[:3].T
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), range(3)])
    scores = centred @ axes
    low, high = np.percentile(scores, [2, 98], axis=0)
    expected = np.rint(np.clip((scores - low) / (high - low), 0, 1) * 255)
    with rasterio.open(tif) as file:
        image = file.read()
        shares = json.loads(file.tags()["PCA_VARIANCE_SHARES"])
    np.testing.assert_array_equal(image[3], np.where(region.valid, 255, 0))
    assert (image[:3, ~region.valid] == 0).all()
    difference = np.abs(image[:3, region.valid].T.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:3], atol=1e-6)


def test_sample_is_representative_and_does_not_depend_on_blocks(tmp_path: Path) -> None:
    fits = []
    for block_size, chunk in ((50, 50), (64, 13), (100, 40)):
        region = make_region(tmp_path / str(block_size), block_size, chunk=chunk)
        with RegionBlocks(region.grid, dict(reversed(region.blocks.items()))) as source:
            fits.append(fit_components(source, 2.0, sample=3000))
    for fit in fits:
        assert fit is not None
        assert fit.pixels == 3000
        for name in ("mean", "axes", "shares", "low", "high"):
            np.testing.assert_array_equal(getattr(fit, name), getattr(fits[0], name))
    values = dequantised(region)
    np.testing.assert_allclose(fits[0].mean, values.mean(axis=0), atol=0.1)
    full = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)[2][0]
    assert abs(full @ fits[0].axes[:, 0]) > 0.999


def test_same_bytes_between_runs_and_block_sizes(tmp_path: Path) -> None:
    results = []
    for block_size, chunk in ((50, 50), (64, 20), (100, 100), (100, 30)):
        region = make_region(tmp_path / f"{block_size}-{chunk}", block_size, chunk=chunk)
        folder = tmp_path / f"out-{block_size}-{chunk}"
        results.append([digest(p) for p in preview(region, folder)])
        assert sorted(p.name for p in folder.iterdir()) == ["preview.png", "preview.tif"]
    assert all(result == results[0] for result in results)


def test_structure_of_the_geotiff(tmp_path: Path) -> None:
    valid = np.ones((1100, 700), bool)
    valid[:300, :300] = False
    region = make_region(tmp_path / "blocks", 300, dim=16, valid=valid, chunk=150)
    tif, png = preview(region, tmp_path)
    with rasterio.open(tif) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"
        assert file.block_shapes == [(512, 512)] * 4
        assert file.overviews(1) == [2, 4]
        assert file.crs.to_epsg() == 32631
        assert tuple(file.transform)[:6] == (10, 0, 600_000, 0, -10, 5_700_000)
        assert [c.name for c in file.colorinterp] == ["red", "green", "blue", "alpha"]
        assert file.dtypes == ("uint8",) * 4
        record = json.loads(file.tags()["PROVENANCE"])
        assert record["model"]["sha256"] == "ab" * 32
        assert file.tags()["TIFFTAG_SOFTWARE"].startswith("tessera-flow ")
        assert "TIFFTAG_DATETIME" not in file.tags()
        full = file.read()
    with rasterio.open(png) as file:
        np.testing.assert_array_equal(file.read(), full)


def test_png_is_reduced_by_averaging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera_flow.products.geotiff.preview.PNG_EDGE", 100)
    region = make_region(tmp_path / "blocks", 64)
    tif, png = preview(region, tmp_path)
    with rasterio.open(tif) as file, rasterio.open(png) as small:
        assert small.shape == (77, 57)  # a third of 230 x 170
        np.testing.assert_array_equal(small.read(), shrink(file.read(), 3))


def test_shrink_ignores_transparent_pixels() -> None:
    image = np.zeros((4, 2, 3), np.uint8)
    image[:, 0, 0] = (100, 10, 30, 255)
    image[:, 1, 1] = (50, 20, 30, 255)
    expected = np.zeros((4, 1, 2), np.uint8)
    expected[:, 0, 0] = (75, 15, 30, 255)
    np.testing.assert_array_equal(shrink(image, 2), expected)


def test_no_embedding_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.full((120, 90, 16), np.nan, np.float32)
    region = make_region(
        tmp_path / "blocks", 50, dtype="float32", values=values, valid=np.ones((120, 90), bool)
    )
    with caplog.at_level(logging.WARNING):
        tif, png = preview(region, tmp_path)
    assert "no pixel has an embedding" in caplog.text
    for path in (tif, png):
        with rasterio.open(path) as file:
            assert (file.read() == 0).all()


def test_fewer_than_three_independent_dimensions(tmp_path: Path) -> None:
    """One dimension varies, the others are constant: green and blue are mid-grey."""
    values = np.full((120, 90, 16), 0.25, np.float32)
    values[..., 5] = np.linspace(-1, 1, 120, dtype=np.float32)[:, None]
    region = make_region(
        tmp_path / "blocks", 50, dtype="float32", values=values, valid=np.ones((120, 90), bool)
    )
    with rasterio.open(preview(region, tmp_path)[0]) as file:
        image = file.read()
        assert json.loads(file.tags()["PCA_VARIANCE_SHARES"]) == [1.0, 0.0, 0.0]
    assert (image[1:3] == 128).all()
    assert (np.diff(image[0, :, 0].astype(int)) >= 0).all(), "the largest loading is positive"
    assert image[0, 0, 0] == 0
    assert image[0, -1, 0] == 255


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_identical_pixels(tmp_path: Path, dtype: str) -> None:
    values = np.full((60, 60, 16), 0.3, np.float32)
    valid = np.ones((60, 60), bool)
    region = make_region(tmp_path / "blocks", 50, dtype=dtype, values=values, valid=valid)
    with rasterio.open(preview(region, tmp_path)[0]) as file:
        assert (file.read([1, 2, 3]) == 128).all()
        assert (file.read(4) == 255).all()


def test_a_single_valid_pixel(tmp_path: Path) -> None:
    valid = np.zeros((60, 60), bool)
    valid[55, 7] = True
    region = make_region(tmp_path / "blocks", 50, valid=valid)
    with rasterio.open(preview(region, tmp_path)[0]) as file:
        image = file.read()
    assert image[3].sum() == 255
    assert image[:, 55, 7].tolist() == [128, 128, 128, 255]


def test_non_finite_values_do_not_reach_the_fit(tmp_path: Path) -> None:
    clean = make_region(tmp_path / "clean", 64, dtype="float32")
    dirty = clean.embeddings.copy()
    for n, bad in enumerate((np.nan, np.inf, -np.inf)):
        dirty[120 + n, 40, n] = bad
    region = make_region(tmp_path / "dirty", 64, dtype="float32", values=dirty)
    with rasterio.open(preview(region, tmp_path / "dirty")[0]) as file:
        image = file.read()
    assert (image[:, 120:123, 40] == 0).all(), "shown as no embedding"
    with rasterio.open(preview(clean, tmp_path / "clean")[0]) as file:
        expected = file.read()
    expected[:, 120:123, 40] = 0
    difference = np.abs(image.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_stretch(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    counts = []
    for stretch in (0.0, 10.0):
        with rasterio.open(preview(region, tmp_path / str(stretch), stretch)[0]) as file:
            red = file.read(1)[region.valid]
        counts.append([(red == 0).mean(), (red == 255).mean()])
    assert max(counts[0]) < 0.01
    np.testing.assert_allclose(counts[1], 0.10, atol=0.01)
