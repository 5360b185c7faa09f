"""GeoTIFFs of all dimensions, read by rasterio, by GDAL 3.6 and by QGIS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from tessera_flow.cli.main import main
from tessera_flow.products.geotiff.cog import write_cogs
from tessera_flow.products.geotiff.counts import write_counts
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import Region, digest, make_region, write_mask

DEBIAN = {
    **os.environ,
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "QT_QPA_PLATFORM": "offscreen",
}
DEBIAN.pop("PROJ_DATA", None)
DEBIAN.pop("PYTHONPATH", None)


def tool(name: str, *arguments: object) -> str:
    """Run a program of the system, not of this environment; skip the test where there is none."""
    path = shutil.which(name, path=DEBIAN["PATH"])
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: gdal-bin, qgis)")
    command = [path, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=DEBIAN)
    assert done.returncode == 0, done.stderr
    return done.stdout


def embeddings_of(region: Region) -> np.ndarray:
    """Return (K, H, W) float32."""
    values = region.embeddings
    if region.scales is not None:
        values = values * region.scales[..., None]
    return np.moveaxis(values, -1, 0)


def float_cog(region: Region, folder: Path) -> Path:
    path = folder / "embeddings.tif"
    write_cogs(path, None, region.grid, region.blocks, region.provenance)
    return path


def int8_cogs(region: Region, folder: Path) -> tuple[Path, Path]:
    codes, scales = folder / "embeddings_codes.tif", folder / "embeddings_scales.tif"
    write_cogs(codes, scales, region.grid, region.blocks, region.provenance)
    return codes, scales


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Region:
    """Return a region with overviews, and a hole."""
    valid = np.ones((600, 560), bool)
    valid[300:420, 500:560] = False
    return make_region(tmp_path_factory.mktemp("blocks"), 300, dim=16, valid=valid, chunk=150)


@pytest.fixture(scope="module")
def cog(large: Region, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return float_cog(large, tmp_path_factory.mktemp("cog"))


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_every_embedding_with_names_georeference_and_record(tmp_path: Path, dtype: str) -> None:
    region = make_region(tmp_path / "blocks", 64, dtype=dtype)
    with rasterio.open(float_cog(region, tmp_path)) as file:
        np.testing.assert_array_equal(file.read(), embeddings_of(region))
        assert file.dtypes == ("float32",) * 16 and np.isnan(file.nodata)
        assert file.descriptions[3] == "dimension 3"
        assert file.crs.to_epsg() == 32631
        assert file.transform == region.grid.product_geobox.affine
        assert json.loads(file.tags()["PROVENANCE"]) == region.provenance.to_json()


def test_codes_and_scales(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 64)
    codes, scales = int8_cogs(region, tmp_path)
    with rasterio.open(codes) as file:
        assert file.dtypes == ("int16",) * 16 and file.nodata == -32768
        expected = np.where(region.valid[..., None], region.embeddings, np.int16(-32768))
        np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), expected)
    with rasterio.open(scales) as file:
        np.testing.assert_array_equal(file.read(1), region.scales)


def test_layout_is_cloud_optimised_and_band_by_band(
    large: Region, cog: Path, tmp_path: Path
) -> None:
    paths = [cog, *int8_cogs(large, tmp_path)]
    for path in paths:
        assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
        with rasterio.open(path) as file:
            assert file.overviews(1) == [2]
            assert file.block_shapes[0] == (512, 512)
    for path in paths[:2]:
        with rasterio.open(path) as file:
            assert file.interleaving == rasterio.enums.Interleaving.band


def test_three_bands_read_a_share_of_the_file(large: Region, cog: Path, tmp_path: Path) -> None:
    """The pixels of the other bands are destroyed; the three are unchanged."""
    path = Path(shutil.copy(cog, tmp_path))
    with rasterio.open(path) as file:
        ranges = []
        for band in range(1, file.count + 1):
            for y, x in np.ndindex(2, 2):
                offset = int(file.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band))
                size = int(file.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=band))
                if band > 3:
                    ranges.append((offset, size))
    with path.open("r+b") as handle:
        for offset, size in ranges:
            handle.seek(offset)
            handle.write(b"\xff" * size)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read([1, 2, 3]), embeddings_of(large)[:3])
        with pytest.raises(rasterio.errors.RasterioIOError):
            file.read(4)


def test_overviews_are_means_of_pixels_with_an_embedding(large: Region, cog: Path) -> None:
    with rasterio.open(cog, overview_level=0) as file:
        overview = file.read(2)
    cells = embeddings_of(large)[1].reshape(300, 2, 280, 2).astype(np.float64)
    number = np.isfinite(cells).sum(axis=(1, 3))
    means = np.where(number > 0, np.nansum(cells, axis=(1, 3)) / np.maximum(number, 1), np.nan)
    np.testing.assert_allclose(overview, means, rtol=2e-5, atol=1e-6)


def test_overviews_of_codes_and_scales_are_of_the_same_pixel(large: Region, tmp_path: Path) -> None:
    codes, scales = int8_cogs(large, tmp_path)
    with rasterio.open(codes, overview_level=0) as file:
        small = file.read(1).astype(np.float32)
    with rasterio.open(scales, overview_level=0) as file:
        product = small * file.read(1)
    corners = [embeddings_of(large)[0][y::2, x::2] for y in (0, 1) for x in (0, 1)]
    same = [(product == corner) | (np.isnan(product) & np.isnan(corner)) for corner in corners]
    assert np.any(same, axis=0).all()


def test_files_do_not_depend_on_blocks_or_threads(tmp_path: Path) -> None:
    results = []
    for size, threads in ((50, 1), (100, 3)):
        region = make_region(tmp_path / str(size), size)
        path = tmp_path / f"{size}-out" / "embeddings.tif"
        write_cogs(path, None, region.grid, region.blocks, region.provenance, threads)
        results.append(digest(path))
    assert results[0] == results[1]


def test_the_other_form_is_deleted_but_no_file_of_others(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    folder = tmp_path / "out"
    float_cog(region, folder)
    int8_cogs(region, folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "embeddings_codes.tif", "embeddings_scales.tif"
    ]  # fmt: skip
    profile = {"driver": "GTiff", "height": 2, "width": 2, "count": 1, "dtype": "uint8"}
    place = rasterio.Affine(10, 0, 0, 0, -10, 0)
    with rasterio.open(folder / "embeddings_scales.tif", "w", transform=place, **profile) as file:
        file.write(np.ones((1, 2, 2), np.uint8))
    float_cog(region, folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "embeddings.tif", "embeddings_scales.tif"
    ]  # fmt: skip


def test_an_export_is_not_deleted(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    write_zarr(tmp_path / "embeddings.zarr", region.grid, region.blocks, region.provenance, 25)
    path = tmp_path / "embeddings.tif"
    assert main(["export", str(tmp_path), "--bands", "3", "--out", str(path)]) == 0
    exported = path.read_bytes()
    for content in (exported, b"not a raster"):
        path.write_bytes(content)
        int8_cogs(region, tmp_path)
        assert path.read_bytes() == content


# GDAL 3.6 and QGIS 3.22 of Debian 12


def test_gdal_of_the_system_reads_the_same_pixels(large: Region, cog: Path, tmp_path: Path) -> None:
    document = json.loads(tool("gdalinfo", "-json", cog))
    assert [band["description"] for band in document["bands"]] == [
        f"dimension {k}" for k in range(16)
    ]
    assert document["bands"][0]["overviews"] == [{"size": [280, 300]}]
    assert str(document["bands"][15]["noDataValue"]) in ("NaN", "nan")
    expected = embeddings_of(large)
    for band, row, column in ((1, 5, 550), (5, 599, 0), (3, 200, 220)):
        value = tool("gdallocationinfo", "-valonly", "-b", band, cog, column, row)
        assert float(value) == pytest.approx(float(expected[band - 1, row, column]), rel=1e-6)
    raw = tmp_path / "raw.bin"
    tool("gdal_translate", "-q", "-of", "ENVI", "-b", 2, cog, raw)
    np.testing.assert_array_equal(np.fromfile(raw, "<f4").reshape(600, 560), expected[1])


def test_gdal_of_the_system_reads_the_counts_without_the_outside(
    large: Region, tmp_path: Path
) -> None:
    counts = tmp_path / "counts.tif"
    mask = write_mask(large, tmp_path / "roi.tif")
    write_counts(counts, large.grid, large.blocks, large.provenance, mask)
    document = json.loads(tool("gdalinfo", "-json", "-stats", "--config", "GDAL_PAM_ENABLED", "NO",
                               counts))  # fmt: skip
    band = document["bands"][0]
    assert (band["description"], band["noDataValue"]) == ("s2_valid", 65535)
    assert band["mean"] == pytest.approx(large.counts[large.valid][:, 0].mean(), rel=1e-4)


def test_gdal_of_the_system_reads_codes_and_scales(large: Region, tmp_path: Path) -> None:
    """Also negative codes, which this version reads as positive numbers from int8."""
    codes, scales = int8_cogs(large, tmp_path)
    assert large.scales is not None
    row, column = np.unravel_index(np.argmin(large.embeddings[..., 5]), large.valid.shape)
    code = int(tool("gdallocationinfo", "-valonly", "-b", 6, codes, column, row))
    assert code == large.embeddings[row, column, 5] < 0
    scale = float(tool("gdallocationinfo", "-valonly", scales, column, row))
    assert scale == pytest.approx(float(large.scales[row, column]), rel=1e-6)


@pytest.mark.slow
def test_qgis_loads_the_style_of_the_counts(large: Region, tmp_path: Path) -> None:
    mask = write_mask(large, tmp_path / "roi.tif")
    counts, style = tmp_path / "counts.tif", tmp_path / "counts.qml"
    write_counts(counts, large.grid, large.blocks, large.provenance, mask, style)
    code = (
        "import os, sys; from qgis.core import QgsApplication, QgsRasterLayer;"
        "app = QgsApplication([], False); app.initQgis();"
        f"layer = QgsRasterLayer({str(counts)!r}, 'counts'); renderer = layer.renderer();"
        "items = renderer.shader().rasterShaderFunction().colorRampItemList();"
        "print(renderer.type(), renderer.band(), *[item.label for item in items], sep=';');"
        "sys.stdout.flush(); os._exit(0)"  # some versions crash when they are closed
    )
    tool("qgis_process.bin", "--version")
    output = tool("python3", "-c", code).splitlines()[-1].split(";")
    assert output[:4] == ["singlebandpseudocolor", "1", "no observation", "1 to 4"]
    assert output[-1] == "100 or more"


# Debian's `qgis_process` passes an option on that this version does not know; the program itself
# is `qgis_process.bin`.
@pytest.mark.slow
def test_qgis_reads_a_band(large: Region, cog: Path, tmp_path: Path) -> None:
    page = tmp_path / "statistics.html"
    output = tool(
        "qgis_process.bin", "--json", "run", "native:rasterlayerstatistics", "--",
        f"INPUT={cog}", "BAND=3", f"OUTPUT_HTML_FILE={page}",
    )  # fmt: skip
    results = json.loads(output[output.index("{") :])["results"]
    values = embeddings_of(large)[2]
    assert results["MAX"] == pytest.approx(float(np.nanmax(values)), rel=1e-6)
    assert results["MEAN"] == pytest.approx(float(np.nanmean(values)), abs=1e-4)


def test_window_of_one_band(large: Region, cog: Path) -> None:
    with rasterio.open(cog) as file:
        part = file.read(2, window=Window(490, 480, 60, 70))
    np.testing.assert_array_equal(part, embeddings_of(large)[1, 480:550, 490:550])
