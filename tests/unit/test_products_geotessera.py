"""The geotessera layout, read by the published geotessera package."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from affine import Affine
from geotessera import GeoTessera
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from tessera_flow.errors import ConfigError
from tessera_flow.products.geotessera_store import main_year, store_tiles, write_geotessera
from tessera_flow.region.grid import RegionGrid

from ..support.products_region import Region, make_region

TO_LONLAT = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
YEAR = 2023  # most days of 2023-07-01 .. 2024-06-30


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Region:
    """230 x 170 px over the corner of four cells of 0.1 degree."""
    region = make_region(tmp_path_factory.mktemp("blocks"), 64, dim=128)
    x, y = TO_LONLAT.transform(4.5, 51.4, direction="INVERSE")
    left, top = round(x / 10) * 10 - 900, round(y / 10) * 10 + 1200
    affine = Affine(10, 0, left, 0, -10, top)
    box = GeoBox(region.grid.geobox.shape, affine, "EPSG:32631")
    grid = RegionGrid.of("field", box, 64, 1, region.grid.blocks)
    return replace(region, grid=grid)


@pytest.fixture(scope="module")
def store(region: Region, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "geotessera"
    write_geotessera(folder, region.grid, region.blocks, region.provenance)
    return folder


@pytest.fixture
def client(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GeoTessera:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def no_network(*arguments: object, **options: object) -> None:
        raise AssertionError("the client went to the internet")

    monkeypatch.setattr("socket.socket.connect", no_network)
    return GeoTessera(dataset_version="v1", embeddings_dir=store, registry_dir=store)


def values(region: Region) -> np.ndarray:
    return region.embeddings.astype(np.float32) * region.scales[..., None]


def test_tiles_and_files_follow_the_layout(region: Region, store: Path) -> None:
    assert main_year(region.provenance) == YEAR
    names = [f"grid_{lon}_{lat}" for lat in ("51.35", "51.45") for lon in ("4.45", "4.55")]
    assert [tile.name for tile in store_tiles(region.grid)] == names
    representation = store / "global_0.1_degree_representation" / str(YEAR)
    assert sorted(p.name for p in representation.iterdir()) == sorted(names)
    rows = pq.read_table(store / "manifest.parquet").to_pylist()
    assert len(rows) == 4
    for row in rows:
        name = f"grid_{row['lon']:.2f}_{row['lat']:.2f}"
        codes = representation / name / f"{name}.npy"
        assert row["year"] == YEAR
        assert row["grid_size"] == codes.stat().st_size
        assert row["scales_size"] == (codes.parent / f"{name}_scales.npy").stat().st_size
        assert (store / "global_0.1_degree_tiff_all" / f"{name}.tiff").exists()
    first = pq.read_table(store / "registry.parquet").to_pylist()[0]
    codes = representation / names[0] / f"{names[0]}.npy"
    assert first["hash"] == hashlib.sha256(codes.read_bytes()).hexdigest()
    record = json.loads((store / "provenance.json").read_text())
    assert record == region.provenance.to_json()


def test_client_reads_every_tile_with_its_pixels_and_position(
    region: Region, client: GeoTessera
) -> None:
    box = region.grid.geobox
    result = client.registry.load_blocks_for_region(box.geographic_extent.boundingbox.bbox, YEAR)
    assert len(result) == 4
    seen = np.zeros(region.valid.shape, bool)
    for year, lon, lat in result:
        data, crs, transform = client.fetch_embedding(lon, lat, year)
        assert crs.to_epsg() == 32631
        column = round((transform.c - box.affine.c) / 10)
        row = round((box.affine.f - transform.f) / 10)
        window = (slice(row, row + data.shape[0]), slice(column, column + data.shape[1]))
        np.testing.assert_array_equal(data, values(region)[window])
        seen[window] = True
    assert seen.all()


def test_client_samples_our_values_at_points(region: Region, client: GeoTessera) -> None:
    random = np.random.default_rng(3)
    rows, columns = random.integers(0, 230, 60), random.integers(0, 170, 60)
    a = region.grid.geobox.affine
    lon, lat = TO_LONLAT.transform(a.c + 10 * (columns + 0.5), a.f - 10 * (rows + 0.5))
    sampled = client.sample_embeddings_at_points(
        list(zip(lon, lat, strict=True)), year=YEAR, auto_download=False
    )
    expected = values(region)[rows, columns]
    assert np.isfinite(expected).all(axis=1).sum() > 20
    np.testing.assert_array_equal(sampled, expected)


def test_client_mosaics_and_exports(region: Region, client: GeoTessera, tmp_path: Path) -> None:
    a = region.grid.geobox.affine
    corners = TO_LONLAT.transform([a.c + 1200, a.c + 1600], [a.f - 1600, a.f - 1200])
    bounds = (corners[0][0], corners[1][0], corners[0][1], corners[1][1])
    mosaic, transform, crs = client.fetch_mosaic_for_region(
        bounds, year=YEAR, target_crs="EPSG:32631"
    )
    assert "32631" in str(crs)
    # The grid of the client's mosaic may be shifted by part of a pixel (0.11): each of its
    # pixels has the value of the pixel of the region that contains its centre.
    rows = (a.f - transform.f - transform.e * (np.arange(mosaic.shape[0]) + 0.5)) / 10
    columns = (transform.c - a.c + transform.a * (np.arange(mosaic.shape[1]) + 0.5)) / 10
    expected = values(region)[np.ix_(rows.astype(int), columns.astype(int))]
    assert min(mosaic.shape[:2]) >= 38
    np.testing.assert_allclose(mosaic[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=1e-5)

    path = client.export_embedding_geotiff(4.55, 51.35, tmp_path / "tile.tif", year=YEAR)
    with rasterio.open(path) as file:
        assert file.count == 128
        centre = (a.c + 10 * 160.5, a.f - 10 * 200.5)
        sample = next(file.sample([centre]))
    np.testing.assert_array_equal(sample, values(region)[200, 160])


def test_other_data_types_and_dimensions_are_refused(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100, dim=16)
    with pytest.raises(ConfigError, match="int8 with 128 dimensions, but the embeddings are int8"):
        write_geotessera(tmp_path / "store", region.grid, region.blocks, region.provenance)
    assert not (tmp_path / "store").exists()


def test_year_of_a_period() -> None:
    class Days:
        def __init__(self, start: str, end: str) -> None:
            import datetime

            self.start, self.period_end = datetime.date.fromisoformat(start), end

    for start, end, year in (
        ("2023-01-01", "2023-12-31", 2023),
        ("2023-09-01", "2024-05-31", 2024),
        ("2023-05-01", "2024-02-28", 2023),
        ("2020-06-01", "2022-03-01", 2021),
    ):
        assert main_year(Days(start, end)) == year  # type: ignore[arg-type]
