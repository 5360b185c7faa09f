"""Tables of sites: rows, periods and cells, and what is refused or recorded."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyogrio.raw
import pyproj
import pytest
import shapely

from tessera_flow.config.configuration import Config, load_config
from tessera_flow.config.unused import unused_settings
from tessera_flow.errors import ConfigError, OutputError, RegionError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.sites.files import SiteFiles, SiteParams
from tessera_flow.jobs.sites.plan import index_file, load_site_plan, read_rows
from tessera_flow.jobs.sites.table import point_pixels
from tessera_flow.region.crs import utm_crs
from tessera_flow.region.sites import Cell, distinct_pixels, place_sites, utm_zones

WGS84 = pyproj.CRS.from_epsg(4326)
YEAR = {"y2023": {"start": "2023-01-01", "end": "2023-12-31"}}


def config(folder: Path, text: str | None = None, **sections: Any) -> Config:
    """Return a configuration of a table that is written as CSV."""
    if text is not None:
        (folder / "sites.csv").write_text(text)
    document = {
        "sites": {"table": str(folder / "sites.csv"), **sections.pop("sites", {})},
        "periods": YEAR,
        "model": {"weights": "v2-nano"},
        "paths": {name: str(folder / name) for name in ("work", "results", "logs")},
        **sections,
    }
    return load_config(document)


def test_zones_are_those_of_single_points() -> None:
    rng = np.random.default_rng(1)
    longitude = np.append(rng.uniform(-180, 179.99, 300), [5, 8.9, 9.1, 33, 41, 2.9, 5, 179.99])
    latitude = np.append(rng.uniform(-80, 84, 300), [60, 75, 75, 80, 80, 60, -1e-9, 10])
    expected = [utm_crs(*point).to_epsg() for point in zip(longitude, latitude, strict=True)]
    assert utm_zones(longitude, latitude).tolist() == expected
    outside = utm_zones(np.array([0, 0, np.nan, 0]), np.array([84.1, -80.1, 0, np.nan]))
    assert outside.tolist() == [0, 0, 0, 0]


def test_180_degrees_is_one_place() -> None:
    places = place_sites(np.array([180.0, -180.0]), np.array([-17.0, -17.0]), WGS84, 10.0)
    assert places.epsg.tolist() == [32701, 32701]
    assert places.x[0] == pytest.approx(places.x[1], abs=1e-3)
    assert (places.row[0], places.column[0]) == (places.row[1], places.column[1])


def test_a_point_is_the_pixel_that_contains_it() -> None:
    """On an edge, it is the pixel to the east and to the south, as in `tessera-flow sample`."""
    zone = pyproj.CRS.from_epsg(32631)
    x, y = np.array([600_000.0, 600_009.9, 699_999.9]), np.array([5_700_000.0, 5_699_990.1, 5.65e6])
    places = place_sites(x, y, zone, 10.0)
    cell = Cell(32631, 6, 56, 10.0)
    assert cell.name == "n31_06_56"
    assert Cell.of_name("n31_06_56", 10.0) == cell
    assert set(zip(places.cell_column, places.cell_row, strict=True)) == {(6, 56)}
    pixels = [
        cell.geobox[int(row) : int(row) + 1, int(column) : int(column) + 1].boundingbox.bbox
        for row, column in zip(places.row, places.column, strict=True)
    ]
    assert pixels[0] == (600_000, 5_699_990, 600_010, 5_700_000)
    assert pixels[1] == pixels[0]
    assert pixels[2] == (699_990, 5_649_990, 700_000, 5_650_000)
    southern = place_sites(np.array([140.0]), np.array([-30.0]), WGS84, 10.0)
    square = Cell(32754, int(southern.cell_column[0]), int(southern.cell_row[0]), 10.0)
    left, bottom, right, top = square.geobox.boundingbox.bbox
    assert left + 5000 <= southern.x[0] < right - 5000
    assert bottom + 5000 < southern.y[0] <= top - 5000


def test_rows_are_grouped_by_period_and_cell(tmp_path: Path) -> None:
    rows = ["c,4.5,51,2022", "a,4.5,51,2021", "b,7.5,51,2021", "d,4.51,51,2021", "e,,,2021"]
    settings = config(tmp_path, "\n".join(["id,lon,lat,year", *rows, "f,10,88,2021", ""]))
    plan = load_site_plan(settings)
    table = read_rows(settings, plan, 0, plan.rows).to_pydict()
    assert table["id"] == ["a", "d", "b", "c", "e", "f"]
    assert table["state"][4:] == ["no coordinates", "outside UTM"]
    assert plan.unplaced == 2
    found = [(unit.period[:4], unit.cell[:3], unit.first, unit.count) for unit in plan.units]
    assert found == [("2021", "n31", 0, 2), ("2021", "n32", 2, 1), ("2022", "n31", 3, 1)]
    assert table["table_row"] == [1, 3, 2, 0, 4, 5]


def test_a_table_without_years_has_every_period(tmp_path: Path) -> None:
    periods = YEAR | {"summer": {"start": "2022-04-01", "end": "2022-09-30"}}
    settings = config(tmp_path, "id,lon,lat\n7,4.5,51\n9,4.5,51\n", periods=periods)
    units = load_site_plan(settings).units
    assert [(u.period, u.count, u.pixels) for u in units] == [
        ("2023-01-01_2023-12-31", 2, 1),
        ("2022-04-01_2022-09-30", 2, 1),
    ]


def test_each_row_can_have_its_days(tmp_path: Path) -> None:
    text = "id,lon,lat,start,end\na,4,51,2021-07-01,2022-06-30\na,4,51,2020-07-01,2021-06-30\n"
    units = load_site_plan(config(tmp_path, text)).units
    assert [unit.period for unit in units] == ["2020-07-01_2021-06-30", "2021-07-01_2022-06-30"]


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_days_with_a_time_are_days(tmp_path: Path, zone: str | None) -> None:
    """Such as of pandas, whose `end_time` is a nanosecond before midnight."""
    first, last = datetime(2021, 7, 1, tzinfo=UTC), datetime(2022, 6, 30, 23, 59, 59, tzinfo=UTC)
    times = {"start": [int(first.timestamp() * 1e9)], "end": [int(last.timestamp()) * 10**9 + 999]}
    local = {name: pa.array(value, pa.timestamp("ns")) for name, value in times.items()}
    if zone is not None:
        local = {name: pc.assume_timezone(value, zone) for name, value in local.items()}
    pq.write_table(
        pa.table({"id": [1], "lon": [4.5], "lat": [51.0], **local}), tmp_path / "s.parquet"
    )
    settings = config(tmp_path, sites={"table": str(tmp_path / "s.parquet")})
    assert [unit.period for unit in load_site_plan(settings).units] == ["2021-07-01_2022-06-30"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1.0, math.nan], "year": [2021, 2021]}, "1 rows have no id .* row 2"),
        ({"id": [[1], [2]], "year": [2021, 2021]}, "no text and no numbers"),
        ({"id": [1, 2], "start": [time(1)] * 2, "end": [time(2)] * 2}, "has '01:00:00.000000'"),
        ({"id": [1, 2], "start": [[1], [2]], "end": [[1], [2]]}, "column start has no days"),
    ],
)
def test_columns_of_other_types_are_refused(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    table = pa.table({"lon": [4.5, 4.6], "lat": [51.0, 51.0], **columns})
    pq.write_table(table, tmp_path / "sites.parquet")
    with pytest.raises(RegionError, match=message):
        load_site_plan(config(tmp_path, sites={"table": str(tmp_path / "sites.parquet")}))


def test_the_plan_is_kept_until_the_table_changes(tmp_path: Path) -> None:
    settings = config(tmp_path, "id,lon,lat\na,4.5,51\nb,4.6,51\n")
    first = load_site_plan(settings)
    cache = index_file(settings)
    written = cache.stat().st_mtime_ns
    assert load_site_plan(settings) == first
    assert cache.stat().st_mtime_ns == written
    (tmp_path / "sites.csv").write_text("id,lon,lat\nb,4.6,51\na,4.5,51\n\n")
    swapped = load_site_plan(settings)
    assert cache.stat().st_mtime_ns != written
    # Another order of the rows reruns nothing; another place does.
    assert [unit.digest for unit in swapped.units] == [unit.digest for unit in first.units]
    (tmp_path / "sites.csv").write_text("id,lon,lat\nb,4.6,51\na,4.5002,51\n")
    assert [u.digest for u in load_site_plan(settings).units] != [u.digest for u in first.units]


def test_rows_of_another_plan_are_refused(tmp_path: Path) -> None:
    """Such as of a dry run with another period and the same folder, while a job writes the table:
    the embeddings of one year would get the days of another."""
    settings = config(tmp_path, "id,lon,lat\na,4.5,51\n")
    plan = load_site_plan(settings)
    other = config(tmp_path, periods={"y2020": {"start": "2020-01-01", "end": "2020-12-31"}})
    load_site_plan(other)
    with pytest.raises(OutputError, match=r"sites.arrow has the rows of another table, or of oth"):
        read_rows(settings, plan, 0, 1)
    assert read_rows(settings, load_site_plan(settings), 0, 1)["period"].to_pylist() == [
        "2023-01-01_2023-12-31"
    ]


def test_a_changed_row_reruns_only_its_cell(tmp_path: Path) -> None:
    def series(text: str) -> dict[str, Any]:
        files = RunFiles(config(tmp_path, text))
        sites = SiteFiles(files)
        params = SiteParams(files, sites, JobParams(files))
        return {unit[1]: params.series(*unit) for unit in sites.units}

    first = series("id,lon,lat\na,4.5,51\nb,7.6,51\n")
    second = series("id,lon,lat\na,4.6,51\nb,7.6,51\n")
    assert [cell for cell in first if first[cell] != second[cell]] == ["n31_06_56"]


@pytest.mark.parametrize(
    ("text", "sites", "message"),
    [
        (
            "id,lon,lat\na,4,51\nb,4,51\na,5,51\n",
            {},
            r"ids .*\(1: a\); the first in rows 1 and 3",
        ),
        ("id,lon,lat\na,4,51\n,4,51\n", {}, "1 rows have no id in column id, the first is row 2"),
        ("name,lon,lat\na,4,51\n", {}, "has no column id: name the column .* in sites.id"),
        ("id,lon,lat,year\na,4,51,2023\nb,4,51,\n", {}, "no year .* in column year, .* row 2"),
        ("id,lon,lat,year\na,4,51,23\n", {}, "no year such as 2023 in column year"),
        ("id,lon,lat\na,4,51\n", {"year": "when"}, "sites.year is when, but .* no such column"),
        ("id,lon,lat,start,end\na,4,51,x,y\n", {}, "row 1 has 'x' in column start"),
        ("id,lon,lat,start,end\na,4,51,2021-02-01,2021-01-01\n", {}, "before the first day"),
        ("id,lon,lat,start,end\na,4,51,20210701,20220630\n", {}, "has '20210701' in column start"),
        ("id,lon,lat,start,end\na,4,51,2021-W26-4,2022-06-30\n", {}, "days such as 2021-07-01"),
        ("id,lon,lat,start,end\na,4,51,0021-07-01,2022-06-30\n", {}, "from 2014 to 2200"),
        ("id,x,y\na,4,51\n", {}, "give their CRS with sites.crs"),
        ("id,lon,lat\n", {}, "has no rows"),
        ("id,lon,lat,year,start,end\na,4,51,2021,2021-01-01,2021-02-01\n", {}, "period twice"),
    ],
)
def test_tables_that_are_not_understood_are_refused(
    tmp_path: Path, text: str, sites: dict[str, Any], message: str
) -> None:
    with pytest.raises(RegionError, match=message):
        load_site_plan(config(tmp_path, text, sites=sites))


def test_settings_without_effect_are_named(tmp_path: Path) -> None:
    regions = {"here": {"roi": [4.5, 51, 4.6, 51.1]}}
    settings = config(tmp_path, sites={"table": None, "size": 3}, regions=regions)
    assert unused_settings(settings) == ["sites.size: no effect, because sites.table is not set."]
    sentinel2 = {"provider": "earth-search"}
    assert unused_settings(config(tmp_path, "", sentinel2=sentinel2)) == []


def test_a_table_without_any_period_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path, "id,lon,lat\na,4,51\n", periods={})
    with pytest.raises(RegionError, match="neither a column year nor columns start and end"):
        load_site_plan(settings)


def test_configurations_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for sections, message in (
        ({"source": "tiles", "tiles": {"location": "x"}}, "sites are read from scenes only"),
        ({"grid": {"downsample_rate": 2, "block_size": 2}}, "grid.downsample_rate is 2"),
        ({"regions": {"sites": {"roi": "a.geojson"}}}, "regions.sites has the name"),
        ({"sites": {"values": "codes"}, "model": {"weights": "x", "dtype": "float32"}}, "no codes"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(tmp_path, "", **sections)


def test_ids_keep_their_type_and_parquet_and_geopackage_are_read(tmp_path: Path) -> None:
    table = pa.table({"id": [3, 1], "lon": [4.5, 4.6], "lat": [51.0, 51.0], "year": [2021, 2021]})
    pq.write_table(table, tmp_path / "sites.parquet")
    settings = config(tmp_path, sites={"table": str(tmp_path / "sites.parquet")})
    plan = load_site_plan(settings)
    assert read_rows(settings, plan, 0, 2)["id"].to_pylist() == [3, 1]
    pyogrio.raw.write(
        tmp_path / "sites.gpkg",
        shapely.to_wkb(shapely.points([[4.5, 51], [4.6, 51]])),
        [np.array([3, 1]), np.array([2021, 2021])],
        np.array(["id", "year"]),
        geometry_type="Point",
        crs="EPSG:4326",
    )
    other = config(tmp_path, sites={"table": str(tmp_path / "sites.gpkg")})
    digests = [unit.digest for unit in load_site_plan(settings).units]
    assert [unit.digest for unit in load_site_plan(other).units] == digests


def test_large_polygons_are_refused(tmp_path: Path) -> None:
    def polygons(edge: float) -> Config:
        features = [
            {
                "type": "Feature",
                "properties": {"id": "field"},
                "geometry": shapely.box(4.5, 51, 4.5 + edge, 51.002).__geo_interface__,
            }
        ]
        path = tmp_path / f"{edge}.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return config(tmp_path, sites={"table": str(path)})

    (unit,) = load_site_plan(polygons(0.003)).units
    assert 400 < unit.pixels < 600  # 210 m x 222 m
    with pytest.raises(RegionError, match=r"larger than 5 km, the first has the id field"):
        load_site_plan(polygons(0.2))


def test_cells_with_too_many_pixels_are_refused_in_the_plan(tmp_path: Path) -> None:
    """Before anything is searched; pixels that several sites have count once."""

    def table(step: float) -> str:
        rows = (f"{n},{4.5 + step * (n % 8)},{51 + step * (n // 8)}" for n in range(62))
        return "\n".join(["id,lon,lat", *rows, ""])

    (unit,) = load_site_plan(config(tmp_path, table(0.0), sites={"size": 256})).units
    assert unit.pixels == 65_536
    for _ in range(2):  # also with the kept plan
        with pytest.raises(RegionError, match=r"the 62 sites in cell n31_06_56 in 2023-01-01_2023"):
            load_site_plan(config(tmp_path, table(0.05), sites={"size": 256}))


def test_pixels_of_squares_are_in_order_and_occur_once() -> None:
    """Also to the north and west of the grid of the cell."""
    pixels = point_pixels(np.array([5, 0, 0]), np.array([9, 0, 1]), 2)
    assert pixels.dtype == np.int64
    assert pixels.tolist() == [
        *([-1, column] for column in (-1, 0, 1)),
        *([0, column] for column in (-1, 0, 1)),
        *([row, column] for row in (4, 5) for column in (8, 9)),
    ]
    none = np.zeros(0, np.int64)
    assert distinct_pixels(none, none).shape == (0, 2)


def test_pixels_of_many_polygons_are_counted_once(tmp_path: Path) -> None:
    """Their bounds have more pixels than a cell may have, they do not."""

    def load(step: float) -> int:
        features = [
            {
                "type": "Feature",
                "properties": {"id": number},
                "geometry": shapely.box(
                    4.5 + step * number, 51, 4.56 + step * number, 51.04
                ).__geo_interface__,
            }
            for number in range(24)
        ]
        path = tmp_path / "polygons.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return load_site_plan(config(tmp_path, sites={"table": str(path)})).units[0].pixels

    assert load(0.0) == pytest.approx(421 * 445, rel=0.02)
    with pytest.raises(RegionError, match="have more than 4,000,000 pixels"):
        load(0.06)


@pytest.mark.parametrize(
    ("crs", "box"),
    [
        ("EPSG:2263", (1_000_000, 200_000, 1_006_600, 206_600)),  # US survey feet
        ("EPSG:3857", (1_000_000, 8_400_000, 1_004_024, 8_404_024)),  # twice as long at 60 N
    ],
)
def test_the_size_of_polygons_is_in_metres(
    tmp_path: Path, crs: str, box: tuple[float, float, float, float]
) -> None:
    """Polygons with an edge of 2012 m."""
    path = tmp_path / "sites.gpkg"
    pyogrio.raw.write(
        path, shapely.to_wkb([shapely.box(*box)]), [np.array([1])], np.array(["id"]),
        geometry_type="Polygon", crs=crs,
    )  # fmt: skip
    (unit,) = load_site_plan(config(tmp_path, sites={"table": str(path)})).units
    assert unit.pixels == pytest.approx(201.2**2, rel=0.03)
