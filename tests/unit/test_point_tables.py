"""Tables and files of points as people have them: read right, or refused with the reason."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import shapely

from tessera_flow.cli.main import main
from tessera_flow.errors import RegionError
from tessera_flow.products.stores.zarr_store import write_zarr
from tessera_flow.products.tables.points import Points, read_points, write_table
from tessera_flow.region import vector_file

from ..support.products_region import make_region

LABEL = "W\u00e4ldchen"
X, Y = [3.4125, 3.5, 179.0], [51.25, -51.5, 0.0]


def same(points: Points, x: Any = X, y: Any = Y) -> None:
    np.testing.assert_allclose(points.x, x)
    np.testing.assert_allclose(points.y, y)


def table(separator: str = ",", decimal: str = ".", quote: str = "") -> str:
    lines = [separator.join(("id", "lon", "lat", "name"))]
    for number, (x, y) in enumerate(zip(X, Y, strict=True)):
        numbers = [f"{quote}{value}{quote}".replace(".", decimal) for value in (x, y)]
        lines.append(separator.join((f"00{number}", *numbers, LABEL)))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (table().encode(), {}),
        (table().replace("\n", "\r\n").encode("utf-8-sig"), {}),
        (table().replace("\n", "\r").encode(), {}),
        (("sep=;\n" + table(";", ",")).replace("\n", "\r").encode(), {}),
        (table().encode("utf-16"), {}),
        (table().encode("utf-32"), {}),
        (table().encode("utf-16-le"), {"encoding": "utf-16-le"}),
        (table().encode("cp1252"), {"encoding": "cp1252"}),
        (table().encode("latin-1"), {"encoding": "latin-1"}),
        (table(";").encode(), {}),
        (table("\t").encode(), {}),
        (table("|").encode(), {}),
        (table(";", ",").encode(), {}),
        (("sep=;\n" + table(";", ",")).encode(), {}),
        (table(",", ",", '"').encode(), {}),
        (table("\t", ",").encode(), {}),
        (table("#").encode(), {"separator": "#"}),
        (table(";").replace("name", '"name, or none"').encode(), {}),
        (table(";").replace("name", "name, or none").encode(), {}),
        (table().replace("lon,lat", " Longitude ,LATITUDE").encode(), {}),
        (("\n" + table()).encode(), {}),
    ],
)
def test_encodings_separators_and_decimal_commas(
    tmp_path: Path, data: bytes, options: dict[str, str]
) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(data)
    points = read_points(path, **options)
    same(points)
    assert points.table["id"].to_pylist() == ["000", "001", "002"]
    assert points.table[points.table.num_columns - 1].to_pylist() == [LABEL] * 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("inner", ["\n", "\r\n", "\r"])
def test_line_ends_in_quoted_values(tmp_path: Path, end: str, inner: str) -> None:
    """They are part of the value, also in the name of a column, whatever ends the lines."""
    path = tmp_path / "p.csv"
    rows = [f'"my{inner}note"', "lon", "lat"], [f'"a{inner}b"', "3.5", "51.25"], ["c", "4", "52"]
    path.write_bytes(end.join([*(",".join(row) for row in rows), ""]).encode())
    points = read_points(path)
    same(points, [3.5, 4], [51.25, 52])
    assert points.table[f"my{inner}note"].to_pylist() == [f"a{inner}b", "c"]


def test_other_columns_come_out_as_they_are(tmp_path: Path) -> None:
    path, out = tmp_path / "p.csv", tmp_path / "out.csv"
    text = (
        "id,lon,lat,class,height,note,empty,mixed,whole\n"
        '007,3.4120,51.25,1,1.50,"a, ""b""\nc",,1,12\n'
        "008,3.5,51.20,2,,NA,,x,-3\n"
    )
    path.write_text(text, encoding="utf-8")
    points = read_points(path)
    assert points.table["class"].type == pa.int64()  # labels stay numbers in Parquet
    assert points.table["id"].to_pylist() == ["007", "008"]
    write_table(out, points.table)
    strings = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in points.table.column_names},
        strings_can_be_null=False,
    )
    multiline = pyarrow.csv.ParseOptions(newlines_in_values=True)
    before, after = (
        pyarrow.csv.read_csv(p, parse_options=multiline, convert_options=strings).to_pydict()
        for p in (path, out)
    )
    assert after == before


@pytest.mark.parametrize("value", ["0.1", "1e-05", "123456789.5", "1e+20", "-0.0", "0.30000001"])
def test_numbers_are_written_as_they_were(tmp_path: Path, value: str) -> None:
    path, out = tmp_path / "p.csv", tmp_path / "out.csv"
    path.write_text(f"lon,lat,v\n3.4,51.2,{value}\n")
    write_table(out, read_points(path).table)
    assert out.read_text().splitlines()[1].split(",")[-1].strip('"') == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (table().encode("cp1252"), r"encoding utf-8 \(byte 0xe4 in line 2\).*--encoding, such as"),
        (table().encode("utf-16-le"), "zero bytes.*--encoding"),
        (b"", "is empty: it needs a line with the names"),
        (b"\n\n", "is empty"),
        (b"a;b,c\n1;2,3\n", "separated by comma or semicolon.*--separator"),
        (b"1,3.4,51.2\n2,3.5,51.3\n", "first line looks like data: add a line with names"),
        (b"lon,lat,lon\n1,2,3\n", "several columns named lon"),
        (b"lon,LON,lat\n1,2,3\n", "has the columns lon, LON, lat: name those"),
        (b"lon,lat\n1,2\n3\n", "cannot be read as a table with a comma"),
        (b"lon,lat\n3.4,95.0\n", r"1 points are not on the globe.*row 1 .*lat 95"),
        (b"lon,lat\n600005,5699995\n", "not on the globe.*--crs"),
        (b"lon;lat\n3,4;51.2\n3.5;51.3\n", "decimal commas and points: '3,4' and '3.5'"),
        (b"lon;lat\n3.412.000;51,2\n", r"row 1: '3.412.000' has thousands separators"),
        (b"lon,lat\n3.4N,51.2\n", "column lon is not numeric .row 1: '3.4N' is not a number"),
        (b"easting,northing\n1,2\n", "give their CRS with --crs"),
    ],
)
def test_tables_that_are_not_understood(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(data)
    with pytest.raises(RegionError, match=message):
        read_points(path)


def test_thousands_and_decimal_commas_in_metres(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    for text in ("600,123;5,700,123", "600,123;5700,123"):
        path.write_text(f"x;y\n{text}\n")
        with pytest.raises(RegionError, match="'600,123' may have a decimal comma or a thousands"):
            read_points(path, crs="EPSG:32631")
    path.write_text("x;y\n600123,5;5700123,25\n600000;5700000\n")
    same(read_points(path, crs="EPSG:32631"), [600123.5, 600000], [5700123.25, 5700000])


@pytest.mark.parametrize(
    ("header", "given"),
    [
        ("long,lat", {"x": "long"}),
        ("long,lat", {"y": "lat"}),
        ("site_x,latitude", {"x": "site_x"}),
        ("lon,lat,latitude", {"x": "lon"}),  # lat belongs to lon
        ("LON,b", {"y": "b"}),
    ],
)
def test_one_named_column_keeps_the_usual_name_of_the_other(
    tmp_path: Path, header: str, given: dict[str, str]
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\n4.5,51.25{',7' * (header.count(',') - 1)}\n")
    same(read_points(path, **given), [4.5], [51.25])


def test_other_column_that_is_not_certain_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("a,lat,latitude\n4.5,51.25,51\n")
    with pytest.raises(RegionError, match=r"columns lat, latitude: name that of .* with --y"):
        read_points(path, x="a")
    with pytest.raises(RegionError, match="name the columns of the coordinates with --x and --y"):
        read_points(path, y="lat")
    path.write_text("a,northing\n600123,5700000\n")
    with pytest.raises(RegionError, match="give their CRS with --crs"):
        read_points(path, x="a")
    same(read_points(path, x="a", crs="EPSG:32631"), [600123], [5700000])


def test_options_without_a_meaning(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(table())
    with pytest.raises(RegionError, match="--layer has no meaning"):
        read_points(tmp_path / "p.csv", layer="a")
    with pytest.raises(RegionError, match="utf-80 is not a known encoding"):
        read_points(tmp_path / "p.csv", encoding="utf-80")
    geometry(tmp_path / "p.gpkg", [shapely.Point(3, 51)])
    with pytest.raises(RegionError, match="--x has no meaning"):
        read_points(tmp_path / "p.gpkg", x="lon")
    with pytest.raises(RegionError, match=r"is in WGS 84, but --crs is EPSG:32631"):
        read_points(tmp_path / "p.gpkg", crs="EPSG:32631")


def test_missing_coordinates_are_a_state(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    store = tmp_path / "embeddings.zarr"
    write_zarr(store, region.grid, region.blocks, region.provenance, chunk=25)
    (tmp_path / "p.csv").write_text("id,x,y\n1,600005,5699995\n2,,5699995\n3,NA,nan\n")
    out = tmp_path / "out.csv"
    command = ["sample", str(store), str(tmp_path / "p.csv"), "--crs", "EPSG:32631"]
    assert main([*command, "--out", str(out)]) == 0
    result = pyarrow.csv.read_csv(out)
    assert result["state"].to_pylist()[1:] == ["no coordinates", "no coordinates"]
    assert result["row"].to_pylist() == [0, -1, -1]
    assert out.read_text().splitlines()[3].startswith('3,"NA",')


def geometry(
    path: Path, points: list[Any], names: list[str] | None = None, crs: str = "EPSG:4326",
    driver: str = "GPKG", kind: str = "Point", **options: Any,
) -> Path:  # fmt: skip
    wkb = np.array([None if p is None else shapely.to_wkb(p) for p in points], object)
    labels = np.array(names or ["a"] * len(points), object)
    pyogrio.raw.write(path, wkb, [labels], ["name"], geometry_type=kind, crs=crs,
                      driver=driver, **options)  # fmt: skip
    return path


def test_points_with_z_multipoints_of_one_and_missing_geometry(tmp_path: Path) -> None:
    points = [shapely.Point(3, 51, 7), None]
    same(read_points(geometry(tmp_path / "z.gpkg", points, kind="Point Z")), [3, np.nan],
         [51, np.nan])  # fmt: skip
    one = shapely.MultiPoint([(3, 51)])
    same(read_points(geometry(tmp_path / "m.gpkg", [one], kind="MultiPoint")), [3], [51])
    for empty in (shapely.Point(), shapely.MultiPoint()):
        path = geometry(tmp_path / "e.gpkg", [shapely.Point(3, 51), empty], kind="Unknown")
        same(read_points(path), [3, np.nan], [51, np.nan])
    two = shapely.MultiPoint([(3, 51), (4, 51)])
    path = geometry(tmp_path / "two.gpkg", [one, two], kind="MultiPoint")
    with pytest.raises(RegionError, match="feature 2 is not a point but several"):
        read_points(path)


def test_layers_must_be_named(tmp_path: Path) -> None:
    path = geometry(tmp_path / "l.gpkg", [shapely.Point(3, 51)], layer="a")
    geometry(path, [shapely.Point(4, 52)], layer="b", append=True)
    with pytest.raises(RegionError, match=r"several layers \(a, b\): name one with --layer"):
        read_points(path)
    same(read_points(path, layer="b"), [4], [52])
    with pytest.raises(RegionError, match="no layer c: its layers are a, b"):
        read_points(path, layer="c")


def test_locked_geopackage_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_file, "_LOCK_SECONDS", 0.1)
    path = geometry(tmp_path / "p.gpkg", [shapely.Point(3, 51)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("begin exclusive")
        with pytest.raises(RegionError, match=r"p\.gpkg is open in another program .*locked"):
            read_points(path)
        database.execute("rollback")
    same(read_points(path), [3], [51])


def shapefile(path: Path, encoding: str, language: int, label: str = LABEL) -> Path:
    geometry(path, [shapely.Point(3, 51)], [label], driver="ESRI Shapefile", encoding=encoding)
    path.with_suffix(".cpg").unlink(missing_ok=True)
    dbf = path.with_suffix(".dbf")
    data = bytearray(dbf.read_bytes())
    data[29] = language
    dbf.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("encoding", "language", "option"),
    [("cp1252", 0x57, None), ("cp1252", 0x03, None), ("cp1250", 0xC8, None),
     ("cp1252", 0, "cp1252"), ("cp1250", 0, "cp1250"), ("utf-8", 0, None)],
)  # fmt: skip
def test_shapefiles_without_cpg(
    tmp_path: Path, encoding: str, language: int, option: str | None
) -> None:
    label = "\u017beleze" if encoding == "cp1250" else LABEL
    path = shapefile(tmp_path / "p.shp", encoding, language, label)
    points = read_points(path, encoding=option)
    same(points, [3], [51])
    assert points.table["name"].to_pylist() == [label]


def test_shapefiles_of_unknown_encoding_are_refused(tmp_path: Path) -> None:
    path = shapefile(tmp_path / "p.shp", "cp1252", 0)
    with pytest.raises(RegionError, match=r"does not state the encoding .*no \.cpg.*--encoding"):
        read_points(path)
    shapefile(tmp_path / "ascii.shp", "cp1252", 0, "plain")
    assert read_points(tmp_path / "ascii.shp").table["name"].to_pylist() == ["plain"]


def geoparquet(path: Path, crs: object, form: str = "WKB") -> Path:
    column: dict[str, Any] = {"encoding": form, "geometry_types": ["Point"]}
    if crs != "left out":
        column["crs"] = crs
    geo = {"version": "1.0.0", "primary_column": "geom", "columns": {"geom": column}}
    content = pa.table({"id": ["007"], "geom": [shapely.to_wkb(shapely.Point(600005, 51))]})
    if crs in ("left out", None):
        content = content.set_column(1, "geom", pa.array([shapely.to_wkb(shapely.Point(3, 51))]))
    pq.write_table(content.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


def test_geoparquet(tmp_path: Path) -> None:
    points = read_points(geoparquet(tmp_path / "a.parquet", "left out"))
    same(points, [3], [51])
    assert points.crs.to_epsg() == 4326 and points.table.column_names == ["id"]
    utm = pyproj.CRS.from_epsg(32631).to_json_dict()
    points = read_points(geoparquet(tmp_path / "b.parquet", utm))
    assert points.crs.to_epsg() == 32631
    same(points, [600005], [51])
    with pytest.raises(RegionError, match="has no CRS"):
        read_points(geoparquet(tmp_path / "c.parquet", None))
    with pytest.raises(RegionError, match="stored as point: write it as WKB"):
        read_points(geoparquet(tmp_path / "d.parquet", utm, "point"))
