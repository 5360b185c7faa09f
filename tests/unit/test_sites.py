"""Embeddings of sites equal those of regions in the same zone, and what has none is recorded.

The archive lies on the border of the zones 30 and 31, with scenes of both.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely

from tessera_flow.block_file import made_from, open_block_file
from tessera_flow.config.configuration import Config
from tessera_flow.dates import Slice, mask_months
from tessera_flow.errors import Refused, TileError
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import InferenceOptions
from tessera_flow.inference.model import ModelSpec
from tessera_flow.inference.months import PeriodMonths
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.journal import record_job
from tessera_flow.jobs.made_from import settings_hash
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.sites.files import SiteFiles, SiteParams, site_record
from tessera_flow.jobs.sites.steps import list_cell_scenes, read_cell, write_table
from tessera_flow.jobs.state.outdated import outdated_files
from tessera_flow.models.weights import fetch_weights
from tessera_flow.models.weights_record import write_weights_record

from ..support.pipeline import configuration, ingest, write_polygon
from ..support.scenes import radar
from .test_no_seams import scene

LATITUDE = 51.4
BOX = shapely.box(-0.004, LATITUDE - 0.003, 0.004, LATITUDE + 0.003)
ZONES = {32630: "EPSG:32630", 32631: "EPSG:32631"}
COUNTS = ("s2_valid", "s1_ascending", "s1_descending")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> tuple[Path, list[Any]]:
    """Scenes of both zones around longitude 0, of which each covers all of the box."""
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(3)
    items = []
    for number, crs in enumerate(ZONES.values()):
        to_zone = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
        x, y = to_zone.transform(0.0, LATITUDE)
        origin = round((x - 800) / 20) * 20, round((y + 800) / 20) * 20
        for day in (3, 8):
            when = f"2021-06-{day + number:02d}T10:00:00"
            items.append(scene(folder, 10 * number + day, when, crs, origin, 160))
        power = rng.uniform(0.01, 0.5, (2, 160, 160))
        items.append(radar(folder, f"2021-06-1{number}T06:00:00", power[0], power[1],
                           shape=(160, 160), crs=crs, origin=origin))  # fmt: skip
    return folder, items


def settings(folder: Path, archive: tuple[Path, list[Any]], **sections: Any) -> Config:
    trusted = {"asset_folders": [str(archive[0])]}
    roi = write_polygon(folder / "roi.geojson", BOX, "EPSG:4326")
    return configuration(
        folder, roi, archive[1], "2021-06-01", "2021-06-30", sentinel2=trusted, sentinel1=trusted,
        grid={"patch_size": 50}, **sections,
    )  # fmt: skip


@pytest.fixture(scope="module")
def regions(archive, tmp_path_factory) -> dict[int, dict[str, Any]]:
    """Embeddings of all pixels of the box, as a region in each zone."""
    found = {}
    for code, crs in ZONES.items():
        folder = tmp_path_factory.mktemp(str(code))
        config = settings(folder, archive)
        region = config.regions["here"].model_copy(update={"crs": crs})
        files = ingest(config.model_copy(update={"regions": {"here": region}}))
        (block,) = files.grids["here"].blocks
        infer_block(
            files.paths.patches.format(region="here", period="then", block=block.id),
            folder / "embeddings.zip", ModelSpec(str(config.model.weights)), InferenceOptions(), {},
        )  # fmt: skip
        with open_block_file(folder / "embeddings.zip") as group:
            found[code] = {name: array[:] for name, array in group.arrays()}
        found[code]["affine"] = files.grids["here"].geobox.affine
    return found


def embed(config: Config, *, without: str = "") -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Run the jobs of all cells except those whose names begin with `without`; return the table
    and the summary."""
    files = RunFiles(config)
    sites = SiteFiles(files)
    weights = files.paths.weights
    write_weights_record(fetch_weights(str(config.model.weights), None, None), weights)
    for days, cell in sites.units:
        if without and cell.startswith(without):
            continue
        for sensor, path in sites.manifests(days, cell).items():
            list_cell_scenes(config, days, cell, sensor).write(Path(path))
        patches = files.paths.site_patches.format(days=days, cell=cell)
        read_cell(config, days, cell, Path(patches))
        with made_from(site_record(config, days, cell, patches, weights)):
            infer_block(
                patches, sites.embeddings_file(days, cell), ModelSpec(str(config.model.weights)),
                InferenceOptions(), {}, period=PeriodMonths(*days_of(days)),
            )  # fmt: skip
    table, record = Path(files.paths.sites), Path(files.paths.sites_record)
    write_table(config, SiteFiles(files).embeddings_files(), weights, table, record)
    return pq.read_table(table).to_pydict(), json.loads(record.read_text())


def days_of(name: str) -> tuple[Any, ...]:
    period = Slice.from_name(name)
    return period.start, period.end, tuple(mask_months("scenes", period.start, period.end))


def expected_pixel(region: dict[str, Any], x: float, y: float) -> dict[str, Any]:
    column, row = (int(np.floor(value)) for value in ~region["affine"] @ (x, y))
    codes, scale = region["embeddings"][row, column], region["scales"][row, column]
    return {"codes": codes, "scale": scale, "counts": region["counts"][row, column].tolist()}


def write_csv(path: Path, rows: list[tuple[Any, ...]]) -> str:
    lines = ["id,lon,lat,year", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_points_equal_the_pixels_of_regions(archive, regions, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    lon, lat = rng.uniform(-0.0035, 0.0035, 40), rng.uniform(-0.0025, 0.0025, 40) + LATITUDE
    rows: list[tuple[Any, ...]] = [
        (f"p{n}", x, y, 2021) for n, (x, y) in enumerate(zip(lon, lat, strict=True))
    ]
    rows += [("same pixel", lon[0] + 1e-7, lat[0], 2021), ("border", 0.0, LATITUDE, 2021)]
    rows += [("p0", lon[0], lat[0], 2019)]
    rows += [("far", 0.5, LATITUDE, 2021), ("dateline", 180, -17, 2021)]
    rows += [("pole", 0, 89, 2021), ("nowhere", "", "", 2021)]
    table = {"table": write_csv(tmp_path / "sites.csv", rows), "values": "codes"}
    found, record = embed(settings(tmp_path, archive, sites=table))
    cloudy = found["state"].count("no embedding")
    assert 0 < cloudy < 10
    assert record["states"] == {
        "no coordinates": 1,
        "no embedding": cloudy,
        "no scenes": 3,
        "ok": len(rows) - 5 - cloudy,
        "outside UTM": 1,
    }
    assert record["states"] == dict(sorted(Counter(found["state"]).items()))
    zones = set()
    for n, state in enumerate(found["state"]):
        if state != "ok":
            assert found["codes"][n] is None
            assert found["scale"][n] is None
            if state == "no embedding":
                code = int(found["crs"][n][5:])
                expected = expected_pixel(regions[code], found["x"][n], found["y"][n])
                assert np.isnan(expected["scale"])
                assert found["reason"][n].startswith("0 valid Sentinel-2 and ")
            continue
        code = int(found["crs"][n][5:])
        zones.add(code)
        expected = expected_pixel(regions[code], found["x"][n], found["y"][n])
        np.testing.assert_array_equal(found["codes"][n], expected["codes"])
        assert found["scale"][n] == pytest.approx(expected["scale"], rel=1e-5)
        assert [found[name][n] for name in COUNTS] == expected["counts"]
        assert found["s2_months"][n] == 1
    assert zones == set(ZONES)
    reasons = dict(zip(found["id"], found["reason"], strict=True))
    assert reasons["far"] == reasons["dateline"] == "no scene of the period covers it"
    assert reasons["pole"] == "UTM is used between 80 S and 84 N"
    years = [(i, s, d.year) for i, s, d in zip(found["id"], found["state"], found["period_start"],
                                               strict=True) if i == "p0"]  # fmt: skip
    assert sorted(years) == [("p0", "no scenes", 2019), ("p0", "ok", 2021)]


def test_the_table_is_a_geoparquet_file(archive, tmp_path: Path) -> None:
    rows = [("a", 0.002, LATITUDE, 2021), ("b", "", "", 2021)]
    table = {"table": write_csv(tmp_path / "sites.csv", rows)}
    config = settings(tmp_path, archive, sites=table)
    embed(config)
    path = Path(config.paths.results) / "sites" / "embeddings.parquet"
    frame = geopandas.read_parquet(path)
    assert frame.crs.to_authority() == ("OGC", "CRS84")
    assert (frame.geometry[0].x, frame.geometry[0].y) == pytest.approx((0.002, LATITUDE))
    assert frame.geometry[1] is None
    assert frame["embedding"][0].dtype == np.float32
    record = json.loads(pq.read_schema(path).metadata[b"tessera_flow"])
    assert record["model"]["sha256"]
    assert [source["sensor"] for source in record["sources"]] == ["sentinel2", "sentinel1"]


def test_squares_have_a_row_for_each_pixel(archive, regions, tmp_path: Path) -> None:
    rows = [("a", 0.002, LATITUDE, 2021), ("b", 0.00215, LATITUDE + 0.0001, 2021)]
    table = {"table": write_csv(tmp_path / "sites.csv", rows), "size": 3, "values": "codes"}
    found, _ = embed(settings(tmp_path, archive, sites=table))
    assert found["id"] == ["a"] * 9 + ["b"] * 9
    offsets = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    assert list(zip(found["pixel_row"], found["pixel_column"], strict=True)) == offsets * 2
    for n in range(18):
        assert found["x"][n] - found["x"][4 if n < 9 else 13] == 10 * found["pixel_column"][n]
        expected = expected_pixel(regions[32631], found["x"][n], found["y"][n])
        np.testing.assert_array_equal(found["codes"][n], expected["codes"])


@pytest.mark.parametrize("kind", ["mean", "pixels"])
def test_polygons(archive, regions, tmp_path: Path, kind: str) -> None:
    shapes = {
        "field": shapely.box(0.001, LATITUDE, 0.002, LATITUDE + 0.0005),
        "dot": shapely.box(0.0012, LATITUDE, 0.001201, LATITUDE + 1e-6),
        "far": shapely.box(1.001, LATITUDE, 1.002, LATITUDE + 0.0005),
    }
    features = [
        {"type": "Feature", "properties": {"id": name}, "geometry": shape.__geo_interface__}
        for name, shape in shapes.items()
    ]
    path = tmp_path / "fields.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    sites = {"table": str(path), "polygons": kind}
    found, record = embed(settings(tmp_path, archive, sites=sites))
    region = regions[32631]
    a = region["affine"]
    height, width = region["scales"].shape
    move = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    centres = move.transform(a.c + a.a * column, a.f + a.e * row)
    inside = shapely.contains_xy(shapes["field"], *centres)
    assert inside.sum() > 20
    values = region["embeddings"].astype(np.float32) * region["scales"][..., None]
    of_field = [n for n, name in enumerate(found["id"]) if name == "field"]
    states = dict(zip(found["id"], found["state"], strict=True))
    assert states.pop("field") in ("ok", "no embedding")  # of the last pixel
    assert states == {"dot": "no pixel", "far": "no scenes"}
    if kind == "mean":
        (n,) = of_field
        embedded = inside & np.isfinite(region["scales"])
        assert found["pixels"][n] == embedded.sum()
        assert found["pixels_inside"][n] == inside.sum()
        expected = values[embedded].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(found["embedding"][n], expected, rtol=1e-4, atol=1e-6)
        counts = region["counts"][inside].mean(axis=0)
        assert [found[name][n] for name in COUNTS] == pytest.approx(counts.tolist())
    else:
        assert len(of_field) == inside.sum()
        empty = [np.nan] * 128
        stacked = np.array([found["embedding"][n] or empty for n in of_field])
        np.testing.assert_allclose(stacked, values[inside], rtol=1e-4, atol=1e-6)
    assert record["rows"] == len(found["id"])


def test_failed_cells_are_recorded(archive, tmp_path: Path) -> None:
    rows = [("west", -0.001, LATITUDE, 2021), ("east", 0.002, LATITUDE, 2021)]
    table = {"table": write_csv(tmp_path / "sites.csv", rows)}
    config = settings(tmp_path, archive, sites=table)
    (west,) = (unit for unit in SiteFiles(RunFiles(config)).units if unit[1].startswith("n30"))
    with pytest.raises(TileError, match=r"n30_\d+_56.zip does not exist"):
        embed(config, without="n30")
    log = RunFiles(config).job_log_file("sites", *west)
    with pytest.raises(OSError, match="disk"), record_job(log, "site_series"):
        raise OSError("the disk is broken")
    skipping = {"jobs": {"on_failed_block": "skip"}}
    found, record = embed(settings(tmp_path, archive, sites=table, **skipping), without="n30")
    states = dict(zip(found["id"], found["state"], strict=True))
    assert states == {"west": "failed", "east": "ok"}
    (failed,) = record["failed_cells"]
    assert failed["cell"] == west[1]
    assert "the disk is broken" in failed["reason"]
    assert failed["reason"] in found["reason"]


def test_files_of_other_settings_are_refused(archive, tmp_path: Path) -> None:
    rows = [("east", 0.002, LATITUDE, 2021)]
    table = {"table": write_csv(tmp_path / "sites.csv", rows)}
    config = settings(tmp_path, archive, sites=table)
    embed(config)
    other = settings(tmp_path, archive, sites=table, model={"dim": 64})
    files = RunFiles(other)
    with pytest.raises(Refused, match="differs in infer"):
        write_table(
            other, SiteFiles(files).embeddings_files(), files.paths.weights, tmp_path / "t.parquet",
            tmp_path / "t.json",
        )  # fmt: skip
    assert not (tmp_path / "t.parquet").exists()


def test_files_of_other_settings_are_found_without_records_of_snakemake(
    archive, tmp_path: Path
) -> None:
    """As after `.snakemake` has been removed: otherwise nothing would be done."""

    def outdated(config: Config) -> dict[str, str]:
        files = RunFiles(config)
        found = outdated_files(files, JobParams(files), lambda path: False)
        return {Path(path).name: why for path, why in found.items() if "/sites/" in path}

    table = {"table": write_csv(tmp_path / "sites.csv", [("east", 0.002, LATITUDE, 2021)])}
    config = settings(tmp_path, archive, sites=table)
    embed(config)
    files = RunFiles(config)
    sites = SiteFiles(files)
    params = SiteParams(files, sites, JobParams(files))
    (unit,) = sites.units
    lists = {f"{sensor}.json" for sensor in sites.sensors}
    assert outdated(config).keys() == lists  # no job log states their settings
    for sensor in sites.sensors:
        hashed = settings_hash(params.items(unit[0], sensor))
        with record_job(files.job_log_file("sites", *unit), f"site_items {sensor}", 1, hashed):
            pass
    assert outdated(config) == {}
    cell, product = f"{unit[1]}.zip", "embeddings.parquet"
    assert outdated(settings(tmp_path, archive, sites=table, model={"dim": 64})) == {
        cell: "it differs in infer",
        product: "the table of sites, the settings or the weights",
    }
    less_cloud = config.sentinel2.model_copy(update={"max_cloud": 20.0})
    found = outdated(config.model_copy(update={"sentinel2": less_cloud}))
    assert found["sentinel2.json"] == "the settings of site_items sentinel2"
    write_csv(tmp_path / "sites.csv", [("west", 0.001, LATITUDE, 2021)])
    assert outdated(config).keys() == {cell, product}
