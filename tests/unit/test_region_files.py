"""Vector files of every kind that people have, and the fingerprint of what is in them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine

from tessera_flow.config.configuration import load_config
from tessera_flow.errors import RegionError
from tessera_flow.region import gridding, vector_file
from tessera_flow.region.blocks import lasting_warnings, load_region_grid, region_warnings
from tessera_flow.region.mask import write_mask
from tessera_flow.region.roi import read_roi, region_geobox
from tessera_flow.region.roi_files import roi_files

LEFT, TOP, EPSG = 400_000, 5_800_000, 32631
SQUARE = shapely.box(LEFT + 4, TOP - 396, LEFT + 396, TOP - 4)
"""The centres of 40 x 40 pixels."""


def vector(path: Path, geometries, driver="GPKG", crs="EPSG:32631", kind="Polygon", **options):
    wkb = [None if g is None else shapely.to_wkb(g, flavor="iso") for g in geometries]
    pyogrio.raw.write(
        str(path), np.array(wkb, dtype=object), [np.arange(len(wkb), dtype=np.int32)], ["n"],
        driver=driver, crs=crs, geometry_type=kind, **options,
    )  # fmt: skip
    return path


def geojson(path: Path, *geometries, **members) -> Path:
    features = [
        {
            "type": "Feature",
            "properties": {},
            "geometry": g if g is None or isinstance(g, dict) else g.__geo_interface__,
        }
        for g in geometries
    ]
    document = {"type": "FeatureCollection", "features": features, **members}
    path.write_text(json.dumps(document))
    return path


def pixels(path: Path, folder: Path, layer: str | None = None) -> int:
    roi = read_roi(path, layer)
    return write_mask(roi, region_geobox(roi, 10.0), folder / "mask.tif")


GPKG_HEADER = b"GP\x00\x01" + struct.pack("<i", EPSG)


def drop_triggers(database: sqlite3.Connection) -> None:
    """Drop triggers, which call functions that only GDAL has."""
    for (name,) in database.execute(
        "select name from sqlite_master where type='trigger'"
    ).fetchall():
        database.execute(f'drop trigger "{name}"')


def zipped(source: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(source.rglob("*")):
            archive.write(file, file.relative_to(source))
    return target


def test_file_geodatabase_is_a_folder(tmp_path: Path) -> None:
    path = vector(tmp_path / "region.gdb", [SQUARE], driver="OpenFileGDB", layer="area")
    assert path.is_dir()
    assert pixels(path, tmp_path) == 1600
    assert all(file.is_file() for file in roi_files(path))
    (tmp_path / "pack").mkdir()
    shutil.copytree(path, tmp_path / "pack/region.gdb")
    for name in ("region.gdb.zip", "other.zip"):
        assert pixels(zipped(tmp_path / "pack", tmp_path / name), tmp_path) == 1600


def test_shapefile_in_a_zip(tmp_path: Path) -> None:
    folder = tmp_path / "pack/inner"
    folder.mkdir(parents=True)
    vector(folder / "area.shp", [SQUARE], driver="ESRI Shapefile")
    assert pixels(zipped(tmp_path / "pack", tmp_path / "area.zip"), tmp_path) == 1600
    vector(folder / "second.shp", [SQUARE], driver="ESRI Shapefile")
    two = zipped(tmp_path / "pack", tmp_path / "two.zip")
    with pytest.raises(RegionError, match=r"one vector file, but has 2 \(inner/area.shp, inner/se"):
        read_roi(two)


def test_geopackage_with_styles_of_qgis_has_one_layer(tmp_path: Path) -> None:
    path = vector(tmp_path / "styled.gpkg", [SQUARE], layer="area")
    database = sqlite3.connect(path)
    database.execute("create table layer_styles (id integer primary key, styleQML text)")
    database.execute(
        "insert into gpkg_contents(table_name, data_type, identifier) "
        "values('layer_styles', 'attributes', 'layer_styles')"
    )
    database.commit()
    database.close()
    assert pixels(path, tmp_path) == 1600
    with pytest.raises(RegionError, match=r"no layer 'layer_styles'; it has area"):
        read_roi(path, "layer_styles")


def write_geoparquet(path: Path, column: dict, **files) -> Path:
    table = pyarrow.table({"n": [1], "geometry": [shapely.to_wkb(files.get("geometry", SQUARE))]})
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    if column:
        table = table.replace_schema_metadata({b"geo": json.dumps(geo).encode()})
    pyarrow.parquet.write_table(table, path)
    return path


def test_geoparquet(tmp_path: Path) -> None:
    projjson = pyproj.CRS.from_epsg(EPSG).to_json_dict()
    path = tmp_path / "area.parquet"
    column = {"encoding": "WKB", "geometry_types": ["Polygon"]}
    assert pixels(write_geoparquet(path, column | {"crs": projjson}), tmp_path) == 1600
    degrees = shapely.box(1, 52, 1.01, 52.01)
    write_geoparquet(path, column, geometry=degrees)
    assert read_roi(path).crs.name == "WGS 84 (CRS84)"
    for wrong, message in (
        (column | {"crs": None}, "has no coordinate reference system"),
        (column | {"encoding": "point"}, "encoded as point"),
        ({}, "without the metadata of GeoParquet"),
        (column, "are not degrees"),
    ):
        with pytest.raises(RegionError, match=message):
            read_roi(write_geoparquet(path, wrong))
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(RegionError, match="cannot be read as GeoParquet"):
        read_roi(path)


def test_collections_of_polygons_are_joined_and_others_refused(tmp_path: Path) -> None:
    a, b = shapely.box(1, 52, 1.02, 52.02), shapely.box(1.01, 52, 1.03, 52.02)
    path = tmp_path / "r.geojson"
    roi = read_roi(geojson(path, shapely.GeometryCollection([a, shapely.MultiPolygon([b])])))
    assert roi.geometry.equals(a | b)
    bare = tmp_path / "bare.geojson"
    bare.write_text(json.dumps(shapely.GeometryCollection([a, b]).__geo_interface__))
    assert read_roi(bare).geometry.equals(a | b)
    with pytest.raises(RegionError, match="feature 1 is a GeometryCollection with a Point"):
        read_roi(geojson(path, shapely.GeometryCollection([a, shapely.Point(1, 52)])))


def test_heights_are_dropped_and_missing_geometries_are_stated(tmp_path: Path, caplog) -> None:
    high = shapely.force_3d(SQUARE, 12.0)
    path = vector(tmp_path / "z.gpkg", [high, None], kind="Polygon Z")
    assert not read_roi(path).geometry.has_z
    assert "1 of 2 features have no geometry" in caplog.text
    assert pixels(path, tmp_path) == 1600


def test_curves_become_lines(tmp_path: Path) -> None:
    path = vector(tmp_path / "curve.gpkg", [SQUARE], layer="area", SPATIAL_INDEX="NO")
    points = [(LEFT, TOP), (LEFT + 9, TOP + 9), (LEFT + 18, TOP), (LEFT + 9, TOP - 9), (LEFT, TOP)]
    arc = struct.pack("<BII", 1, 8, 5) + b"".join(struct.pack("<dd", *p) for p in points)
    curve = struct.pack("<BII", 1, 10, 1) + arc
    database = sqlite3.connect(path)
    drop_triggers(database)
    database.execute("update gpkg_geometry_columns set geometry_type_name='CURVEPOLYGON'")
    database.execute("pragma writable_schema=on")
    database.execute(
        "update sqlite_master set sql=replace(sql, 'POLYGON', 'CURVEPOLYGON') where name='area'"
    )
    database.execute("update area set geom=?", (GPKG_HEADER + curve,))
    database.commit()
    database.close()
    assert read_roi(path).geometry.area == pytest.approx(np.pi * 81, rel=0.002)


@pytest.mark.parametrize(
    "member",
    [
        {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}},
        {"type": "name", "properties": {"name": "EPSG:32631"}},
        {"type": "EPSG", "properties": {"code": 32631}},
    ],
)
def test_crs_member_of_geojson(tmp_path: Path, member: dict) -> None:
    assert pixels(geojson(tmp_path / "r.geojson", SQUARE, crs=member), tmp_path) == 1600


@pytest.mark.parametrize(
    "member",
    [
        {"type": "link", "properties": {"href": "https://example.org/crs"}},
        {"type": "name", "properties": {"name": "the national grid"}},
        "EPSG:3857",
    ],
)
def test_crs_member_that_is_not_understood_is_refused(tmp_path: Path, member) -> None:
    path = geojson(tmp_path / "r.geojson", shapely.box(1, 52, 1.01, 52.01), crs=member)
    with pytest.raises(RegionError, match="`crs` member that is not understood"):
        read_roi(path)


def test_kml(tmp_path: Path) -> None:
    outline = " ".join(f"{x},{y},0" for x, y in shapely.box(1, 52, 1.01, 52.01).exterior.coords)
    path = tmp_path / "r.kml"
    path.write_text(
        '<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Folder><name>A</name><Placemark>'
        f"<Polygon><outerBoundaryIs><LinearRing><coordinates>{outline}</coordinates></LinearRing>"
        "</outerBoundaryIs></Polygon></Placemark></Folder></Document></kml>"
    )
    assert read_roi(path).geometry.equals(shapely.box(1, 52, 1.01, 52.01))


# ---------------------------------------------------------------- fingerprint


def settings(folder: Path, roi: Path):
    return load_config(
        {
            "regions": {"here": {"roi": str(roi)}},
            "periods": {"then": {"start": "2021-01-01", "end": "2021-12-31"}},
            "model": {"weights": "x.pt"},
            "grid": {"block_size": 20},
            "paths": {"work": str(folder / "work")},
        }
    )


def show_in_qgis(path: Path) -> None:
    """Turn write-ahead logging on and off, as QGIS does when it shows a GeoPackage."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL").fetchall()
    database.execute("select count(*) from area").fetchall()
    database.execute("PRAGMA journal_mode=DELETE").fetchall()
    database.execute("VACUUM")
    database.close()


def test_looking_at_a_geopackage_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    path = vector(tmp_path / "region.gpkg", [SQUARE], layer="area", SPATIAL_INDEX="NO")
    first = load_region_grid(settings(tmp_path, path), "here")
    before = path.read_bytes()
    show_in_qgis(path)
    assert path.read_bytes() != before
    monkeypatch.setattr(gridding, "make_grid", None)
    assert load_region_grid(settings(tmp_path, path), "here") == first
    monkeypatch.setattr("tessera_flow.region.roi.read_roi", None)  # the new state is cached
    assert load_region_grid(settings(tmp_path, path), "here") == first


def test_edit_in_the_write_ahead_log_is_seen(tmp_path: Path) -> None:
    path = vector(tmp_path / "region.gpkg", [SQUARE], layer="area", SPATIAL_INDEX="NO")
    _, first = load_region_grid(settings(tmp_path, path), "here")
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA wal_autocheckpoint=0")
        drop_triggers(database)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        small = shapely.box(LEFT + 4, TOP - 96, LEFT + 96, TOP - 4)
        stamp = path.stat().st_mtime_ns
        database.execute("update area set geom=?", (GPKG_HEADER + small.wkb,))
        assert path.stat().st_mtime_ns == stamp, "the edit is not only in the log"
        grid, changed = load_region_grid(settings(tmp_path, path), "here")
        assert changed != first
        assert grid.shape == (10, 10)
        (text,) = region_warnings(settings(tmp_path, path))
        assert "region.gpkg is open in another program" in text
        assert lasting_warnings(settings(tmp_path, path), "here") == []
    finally:
        database.close()
    assert load_region_grid(settings(tmp_path, path), "here") == (grid, changed)
    assert region_warnings(settings(tmp_path, path)) == []


HOLD_LOCK = """
import sqlite3, sys
path, journal, edit, later = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
database.execute(f"PRAGMA journal_mode={journal}")
database.execute("PRAGMA wal_autocheckpoint=0")
database.execute("update area set geom=?", (bytes.fromhex(edit),))
database.execute("PRAGMA locking_mode=EXCLUSIVE")
database.execute("begin exclusive")
database.execute("update area set geom=?", (bytes.fromhex(later),))
print("locked", flush=True)
sys.stdin.read()
database.execute("rollback")
"""


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_locked_geopackage_is_refused(tmp_path: Path, monkeypatch, journal: str) -> None:
    """GDAL can read it without its log, that is without the saved edit."""
    path = vector(tmp_path / "region.gpkg", [SQUARE], layer="area", SPATIAL_INDEX="NO")
    with contextlib.closing(sqlite3.connect(path)) as database:
        drop_triggers(database)
    small = shapely.box(LEFT + 4, TOP - 96, LEFT + 96, TOP - 4)
    edits = ((GPKG_HEADER + geometry.wkb).hex() for geometry in (small, SQUARE))
    command = [sys.executable, "-c", HOLD_LOCK, str(path), journal, *edits]
    monkeypatch.setattr(vector_file, "_LOCK_SECONDS", 0.1)
    monkeypatch.setenv("SQLITE_BUSY_TIMEOUT", "100")  # of GDAL, in ms
    message = r"region\.gpkg is open in another program.*locked.*close the file there"
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout and program.stdout.readline() == "locked\n"
        with pytest.raises(RegionError, match=message):
            read_roi(path)
        if journal == "WAL":  # locked after the check
            monkeypatch.setattr(vector_file, "check_database", lambda path: None)
            with pytest.raises(RegionError, match=r"IMMUTABLE.*close the file there"):
                read_roi(path)
            monkeypatch.undo()
        program.communicate()
    assert program.returncode == 0
    assert read_roi(path).geometry.area == small.area


def test_zip_with_a_write_ahead_log_is_refused(tmp_path: Path) -> None:
    path = vector(tmp_path / "region.gpkg", [SQUARE], layer="area")
    packed = tmp_path / "region.zip"
    for log in (b"", b"edits"):
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(path, "data/region.gpkg")
            archive.writestr("data/region.gpkg-wal", log)
        if not log:
            assert read_roi(packed).geometry.area == SQUARE.area
    with pytest.raises(RegionError, match=r"edits of data/region\.gpkg .* pack it again"):
        read_roi(packed)


@pytest.mark.skipif(os.getuid() == 0, reason="root can write to any folder")
def test_log_in_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    path = vector(tmp_path / "region.gpkg", [SQUARE], layer="area")
    Path(f"{path}-wal").write_bytes(b"x")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RegionError, match=r"is open in another program.*region.gpkg-wal"):
            read_roi(path)
    finally:
        tmp_path.chmod(0o700)


def test_warnings_are_kept_with_the_grid(tmp_path: Path) -> None:
    path = vector(tmp_path / "region.gpkg", [SQUARE, None], layer="area")
    config = settings(tmp_path, path)
    region = config.regions["here"].model_copy(update={"crs": "EPSG:3857"})
    config = config.model_copy(update={"regions": {"here": region}})
    load_region_grid(config, "here")
    for _ in range(2):
        missing, scale = region_warnings(config)
        assert "1 of 2 features have no geometry" in missing
        assert "pixels of 10 m in EPSG:3857" in scale
        of_product = lasting_warnings(config, "here")
        assert of_product[0].startswith("The file of region here: 1 of 2 features have no geometry")
        assert of_product[1].startswith("The file of region here: pixels of 10 m in EPSG:3857")
        assert str(tmp_path) not in " ".join(of_product)
        os.utime(path)
        load_region_grid(config, "here")


def test_fingerprint_is_the_geometry(tmp_path: Path) -> None:
    """Neither the format, the attributes nor the order of features and vertices count."""
    other = shapely.box(LEFT + 1000, TOP - 396, LEFT + 1396, TOP - 4)
    turned = shapely.Polygon([*SQUARE.exterior.coords[2:], *SQUARE.exterior.coords[1:3]])
    same = [
        vector(tmp_path / "a.gpkg", [SQUARE, other]),
        vector(tmp_path / "b.fgb", [other, turned], driver="FlatGeobuf", SPATIAL_INDEX="NO"),
    ]
    prints = {read_roi(path).fingerprint() for path in same}
    assert len(prints) == 1
    moved = shapely.affinity.translate(SQUARE, 0.001)
    assert read_roi(vector(tmp_path / "c.gpkg", [moved, other])).fingerprint() not in prints
    zone = vector(tmp_path / "d.gpkg", [SQUARE, other], crs="EPSG:32632")
    assert read_roi(zone).fingerprint() not in prints


def test_fingerprint_of_a_mask_is_what_is_inside(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    inside = np.zeros((30, 40), np.uint8)
    inside[5:20, 3:30] = 1

    def write(values, left=LEFT, **options):
        with rasterio.open(
            path, "w", driver="GTiff", height=30, width=40, count=1, dtype=values.dtype,
            crs=f"EPSG:{EPSG}", transform=Affine(10, 0, left, 0, -10, TOP), **options,
        ) as dataset:  # fmt: skip
            dataset.write(values, 1)
        return read_roi(path).fingerprint()

    first = write(inside)
    with rasterio.open(path, "r+") as dataset:  # as a viewer that keeps overviews and statistics
        dataset.build_overviews([2])
        dataset.update_tags(1, STATISTICS_MAXIMUM=1)
    assert read_roi(path).fingerprint() == first
    assert write(inside * np.float32(0.7), compress="deflate", tiled=True, blockxsize=16,
                 blockysize=16) == first  # fmt: skip
    assert write(inside, left=LEFT + 10) != first
    inside[0, 0] = 1
    assert write(inside) != first
