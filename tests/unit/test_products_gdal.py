"""Products for GDAL: observation counts, VRT of all dimensions, structure of every COG."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from tessera_flow.errors import TileError
from tessera_flow.products.arrays import write_arrays
from tessera_flow.products.geotiff.counts import write_counts
from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.geotiff.vrt import write_vrt

from ..support.products_region import Region, digest, make_region, write_mask


def counts_of(region: Region, output: Path) -> Path:
    mask = write_mask(region, next(iter(region.blocks.values())).parent / "roi.tif")
    write_counts(output, region.grid, region.blocks, region.provenance, mask)
    return output


def vrt_of(region: Region, folder: Path) -> Path:
    scales = None if region.scales is None else folder / "scales.npy"
    codes = None if region.scales is None else folder / "codes.vrt"
    inputs = (region.grid, region.blocks, region.provenance)
    write_arrays(folder / "all.npy", scales, folder / "counts.npy", folder / "r.json", *inputs)
    write_vrt(folder / "all.vrt", codes, folder / "all.npy", scales, region.grid, region.provenance)
    return folder / "all.vrt"


def test_counts_of_every_pixel_with_georeference_and_record(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 64)
    path = counts_of(region, tmp_path / "counts.tif")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["counts.tif"]
    with rasterio.open(path) as file:
        outside = ~region.valid[..., None]
        counts = np.where(outside, 0xFFFF, region.counts)
        np.testing.assert_array_equal(np.moveaxis(file.read([1, 2, 3]), 0, -1), counts)
        months = np.where(outside, 0xFFFF, 0xFFF)
        np.testing.assert_array_equal(np.moveaxis(file.read([4, 5, 6]), 0, -1), months * [1, 1, 1])
        assert file.dtypes == ("uint16",) * 6
        assert file.descriptions == (
            "s2_valid", "s1_ascending", "s1_descending",
            "s2_months", "s1_ascending_months", "s1_descending_months",
        )  # fmt: skip
        assert file.tags()["MONTHS"].split() == [
            *(f"2023-{n:02d}" for n in range(7, 13)), *(f"2024-{n:02d}" for n in range(1, 7))
        ]  # fmt: skip
        assert file.crs.to_epsg() == 32631
        assert file.transform == region.grid.product_geobox.affine
        assert file.nodata == 0xFFFF
        assert json.loads(file.tags()["PROVENANCE"]) == region.provenance.to_json()
        statistics = file.stats()[0]
    assert statistics.max == region.counts[..., 0].max()
    mean = region.counts[region.valid][..., 0].mean()
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-6)


def test_counts_do_not_depend_on_the_block_size(tmp_path: Path) -> None:
    results = []
    for size in (50, 100):
        region = make_region(tmp_path / str(size), size)
        results.append(digest(counts_of(region, tmp_path / f"{size}-out" / "counts.tif")))
    assert results[0]["counts.tif"] == results[1]["counts.tif"]


def test_every_cog_is_valid_and_its_overviews_hold_counts_of_single_pixels(
    tmp_path: Path,
) -> None:
    valid = np.ones((1100, 700), bool)
    region = make_region(tmp_path / "blocks", 550, dim=16, valid=valid, chunk=275)
    counts = counts_of(region, tmp_path / "counts.tif")
    preview = tmp_path / "preview.tif"
    write_preview(preview, tmp_path / "p.png", region.grid, region.blocks, region.provenance)
    for path in (counts, preview):
        sound, errors, warnings = cog_validate(path, strict=True, quiet=True)
        assert sound, (path, errors, warnings)
        with rasterio.open(path) as file:
            assert file.overviews(1) == [2, 4]
    with rasterio.open(counts, overview_level=0) as file:
        overview = file.read(1)
    corners = [region.counts[y::2, x::2, 0] for y in (0, 1) for x in (0, 1)]
    assert np.any([overview == corner for corner in corners], axis=0).all()


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_vrt_has_every_embedding_at_its_position(tmp_path: Path, dtype: str) -> None:
    region = make_region(tmp_path / "blocks", 100, dtype=dtype)
    expected = region.embeddings
    if region.scales is not None:
        expected = region.embeddings * region.scales[..., None]
    with rasterio.open(vrt_of(region, tmp_path)) as file:
        assert file.count == 16
        assert file.dtypes == ("float32",) * 16
        assert np.isnan(file.nodata)
        assert file.crs.to_epsg() == 32631
        assert file.transform == region.grid.product_geobox.affine
        assert file.descriptions[3] == "dimension 3"
        assert json.loads(file.tags()["PROVENANCE"]) == region.provenance.to_json()
        np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), expected)
        part = file.read(6, window=Window(20, 30, 40, 50))
        np.testing.assert_array_equal(part, expected[30:80, 20:60, 5])
        statistics = file.stats(indexes=[2])[0]
    np.testing.assert_allclose(statistics.mean, np.nanmean(expected[..., 1]), rtol=1e-4)
    np.testing.assert_allclose(statistics.std, np.nanstd(expected[..., 1]), rtol=1e-4)


def test_vrt_of_codes_and_files_moved_together(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    (tmp_path / "here").mkdir()
    vrt_of(region, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    with rasterio.open(tmp_path / "there" / "codes.vrt") as file:
        assert file.dtypes == ("int8",) * 16 + ("float32",)
        np.testing.assert_array_equal(
            np.moveaxis(file.read(range(1, 17)), 0, -1), region.embeddings
        )
        np.testing.assert_array_equal(file.read(17), region.scales)
    with rasterio.open(tmp_path / "there" / "all.vrt") as file:
        assert file.read(1, window=Window(60, 150, 1, 1)) == (
            region.embeddings[150, 60, 0] * region.scales[150, 60]
        )


def test_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    vrt_of(region, tmp_path)
    np.save(tmp_path / "all.npy", region.embeddings[:-1])
    with pytest.raises(TileError, match=r"all.npy is \(229, 170, 16\) int8, expected \(230, 170"):
        write_vrt(
            tmp_path / "all.vrt",
            tmp_path / "codes.vrt",
            tmp_path / "all.npy",
            tmp_path / "scales.npy",
            region.grid,
            region.provenance,
        )


def test_old_codes_are_deleted_when_float32_is_written(tmp_path: Path) -> None:
    old, mine = tmp_path / "all_codes.vrt", "<VRTDataset><Metadata/></VRTDataset>"
    old.write_text(mine)
    float32 = make_region(tmp_path / "float32", 100, dtype="float32")
    vrt_of(float32, tmp_path)
    assert old.read_text() == mine  # not ours
    vrt_of(make_region(tmp_path / "int8", 100), tmp_path)
    (tmp_path / "codes.vrt").rename(old)
    vrt_of(float32, tmp_path)
    assert not old.exists()
