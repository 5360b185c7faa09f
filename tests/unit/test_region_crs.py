"""Coordinate reference systems of regions and grids: metres, axes, datums, size on the ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine

from tessera_flow.cli.main import main
from tessera_flow.errors import RegionError
from tessera_flow.region.crs import to_lonlat
from tessera_flow.region.mask import write_mask
from tessera_flow.region.roi import VectorRoi, read_roi, region_geobox

ROTATED = (
    "+proj=omerc +lat_0=4 +lonc=115 +alpha=53.3 +gamma=53.1 +k=0.99984 +x_0=0 +y_0=0 "
    "+datum=WGS84 +units=m"
)


def outline(longitude: float, latitude: float, size: float = 0.02) -> shapely.Geometry:
    return shapely.box(longitude, latitude, longitude + size, latitude + size)


def vector(path: Path, geometry, crs, driver="GPKG") -> Path:
    pyogrio.raw.write(
        str(path), np.array([shapely.to_wkb(geometry)], dtype=object), [], [],
        driver=driver, crs=crs, geometry_type=geometry.geom_type,
    )  # fmt: skip
    return path


def lonlat(path: Path, longitude: float, latitude: float, size: float = 0.02) -> Path:
    return vector(path, outline(longitude, latitude, size), "EPSG:4326")


@pytest.mark.parametrize(
    ("crs", "where", "words"),
    [
        ("EPSG:2263", (-73.0, 40.7), "US survey foot"),
        ("EPSG:2225", (-121.0, 40.0), "US survey foot"),
        ("EPSG:2222", (-111.0, 33.0), r"whose unit is the foot \(0.3048 m\)"),
        ("+proj=utm +zone=31 +datum=WGS84 +units=km", (2.0, 52.0), "kilometre"),
        ("EPSG:4326", (2.0, 52.0), "in degrees"),
        ("EPSG:4979", (2.0, 52.0), "in degrees"),
        ("EPSG:4978", (2.0, 52.0), "not a projected CRS"),
        ('LOCAL_CS["site",UNIT["metre",1]]', (2.0, 52.0), "not a projected CRS"),
        ("EPSG:2053", (29.0, -26.0), r"axes point to the south and west"),
        ("EPSG:5513", (15.0, 50.0), r"axes point to the south and west"),
        ("EPSG:99999", (2.0, 52.0), "not a coordinate reference system"),
    ],
)
def test_grids_in_other_units_or_directions_are_refused(
    tmp_path: Path, crs: str, where: tuple[float, float], words: str
) -> None:
    roi = read_roi(lonlat(tmp_path / "r.gpkg", *where))
    with pytest.raises(RegionError, match=words):
        region_geobox(roi, 10.0, crs)


@pytest.mark.parametrize(
    ("crs", "where"),
    [
        ("EPSG:2193", (174.0, -41.0)),  # northing first
        ("EPSG:2180", (19.0, 52.0)),  # northing first
        ("EPSG:3035", (9.0, 48.0)),  # northing first
        ("EPSG:3031", (20.0, -75.0)),  # both axes to the north
        ("EPSG:3413", (-40.0, 75.0)),  # both axes to the south
        ("EPSG:7405", (-1.5, 52.0)),  # with heights
        ("EPSG:5972", (9.0, 60.5)),  # with heights
        (ROTATED, (114.0, 3.0)),
        (pyproj.CRS.from_epsg(32631).to_wkt("WKT1_ESRI"), (2.0, 52.0)),
        ("EPSG:5514", (15.0, 50.0)),
    ],
)
def test_any_projected_system_in_metres(
    tmp_path: Path, caplog, crs: str, where: tuple[float, float]
) -> None:
    """The pixels inside are those whose centre, in degrees, is in the polygon."""
    polygon = outline(*where, size=0.005)
    roi = read_roi(lonlat(tmp_path / "r.gpkg", *where, size=0.005))
    geobox = region_geobox(roi, 10.0, crs)
    write_mask(roi, geobox, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        mask, transform, written = dataset.read(1) > 0, dataset.transform, dataset.crs
    assert transform.a == 10 and transform.e == -10
    assert transform.c % 10 == 0 and transform.f % 10 == 0
    y, x = np.indices(mask.shape) + 0.5
    to_degrees = pyproj.Transformer.from_crs(
        pyproj.CRS.from_user_input(written), 4326, always_xy=True
    )
    lon, lat = to_degrees.transform(*(transform @ (x, y)))
    expected = shapely.contains_xy(polygon, lon, lat)
    assert (mask != expected).sum() <= 1
    area = abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(polygon)[0])
    assert mask.sum() * 100 == pytest.approx(area, rel=0.03)
    assert "on the ground" not in caplog.text


def test_web_mercator_states_the_size_on_the_ground(tmp_path: Path, caplog) -> None:
    roi = read_roi(lonlat(tmp_path / "r.gpkg", 5.0, 51.68))
    region_geobox(roi, 10.0, "EPSG:3857")
    assert "pixels of 10 m in EPSG:3857" in caplog.text
    assert "are 6.21 x 6.2 m on the ground" in caplog.text
    assert "r.gpkg" in caplog.text


def test_roi_command_names_the_unit(tmp_path: Path, capsys) -> None:
    path = lonlat(tmp_path / "r.gpkg", -73.0, 40.7)
    out = tmp_path / "m.tif"
    assert main(["roi", str(path), "--crs", "EPSG:2263", "--out", str(out)]) == 1
    assert "US survey foot (0.30480061 m)" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("crs", "words"),
    [
        ("EPSG:2263", "The mask .* US survey foot"),
        ("EPSG:4326", "The mask .* in degrees"),
        ("EPSG:2053", "axes point to"),
        ('LOCAL_CS["site",UNIT["metre",1]]', "no longitude and latitude"),
    ],
)
def test_mask_in_another_unit_is_refused(tmp_path: Path, crs: str, words: str) -> None:
    path = tmp_path / "m.tif"
    step = 0.0001 if crs == "EPSG:4326" else 10
    corner = (-73.0, 40.7) if crs == "EPSG:4326" else (1_000_000, 200_000)
    with rasterio.open(
        path, "w", driver="GTiff", height=40, width=50, count=1, dtype="uint8", crs=crs,
        transform=Affine(step, 0, corner[0], 0, -step, corner[1]),
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((40, 50), np.uint8), 1)
    with pytest.raises(RegionError, match=words):
        region_geobox(read_roi(path), 10.0)
    with pytest.raises(RegionError, match=r"a raster mask, which has no layers: remove `layer`"):
        read_roi(path, "area")


def test_mask_with_heights_in_its_crs_and_a_mask_in_feet_on_another_grid(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    for crs, target in (("EPSG:5972", "EPSG:25832"), ("EPSG:2263", "EPSG:32618")):
        x, y = (500_000, 6_700_000) if crs == "EPSG:5972" else (1_000_000, 200_000)
        with rasterio.open(
            path, "w", driver="GTiff", height=100, width=100, count=1, dtype="uint8", crs=crs,
            transform=Affine(10, 0, x, 0, -10, y),
        ) as dataset:  # fmt: skip
            dataset.write(np.ones((100, 100), np.uint8), 1)
        roi = read_roi(path)
        geobox = region_geobox(roi, 10.0, "auto" if crs == "EPSG:5972" else target)
        assert str(geobox.crs) == target
        inside = write_mask(roi, geobox, tmp_path / "out.tif")
        assert inside == pytest.approx(10_000 if crs == "EPSG:5972" else 929, rel=0.04)


UNKNOWN = (
    'PROJCS["site",GEOGCS["GCS_site",DATUM["D_site",SPHEROID["{}"]],PRIMEM["Greenwich",0.0],'
    'UNIT["Degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["False_Easting",500000.0],PARAMETER["False_Northing",0.0],'
    'PARAMETER["Central_Meridian",3.0],PARAMETER["Scale_Factor",0.9996],'
    'PARAMETER["Latitude_Of_Origin",0.0],UNIT["Meter",1.0]]'
)
BESSEL = UNKNOWN.replace('"{}"', '"Bessel_1841",6377397.155,299.1528128')
GRS80 = UNKNOWN.replace('"{}"', '"GRS_1980",6378137.0,298.257222101')


def test_datum_without_a_known_shift(tmp_path: Path, caplog) -> None:
    box = shapely.box(400_000, 5_799_000, 401_000, 5_800_000)
    path = vector(tmp_path / "r.shp", box, "EPSG:32631", "ESRI Shapefile")
    path.with_suffix(".prj").write_text(BESSEL)
    with pytest.raises(RegionError, match=r"datum without a known shift to WGS 84.*[Bb]essel"):
        read_roi(path)
    path.with_suffix(".prj").write_text(GRS80)
    assert read_roi(path).geometry.equals(box)
    assert "datum without a known shift to WGS 84" in caplog.text
    assert "taken to be that of WGS 84" in caplog.text
    path.with_suffix(".prj").unlink()
    with pytest.raises(RegionError, match="no coordinate reference system"):
        read_roi(path)


def test_forced_crs_without_a_known_shift_is_refused(tmp_path: Path) -> None:
    roi = read_roi(lonlat(tmp_path / "r.gpkg", 2.0, 52.0))
    with pytest.raises(RegionError, match=r"`crs`.*datum without a known shift"):
        region_geobox(roi, 10.0, "+proj=utm +zone=31 +ellps=bessel +units=m")


def test_shift_that_is_given_or_known_coarsely(tmp_path: Path, caplog) -> None:
    shifted = "+proj=utm +zone=31 +ellps=bessel +towgs84=598.1,73.7,418.2,0,0,0,0 +units=m"
    box = shapely.box(400_000, 5_799_000, 401_000, 5_800_000)
    roi = read_roi(vector(tmp_path / "r.gpkg", box, shifted))
    west = to_lonlat(roi.geometry, roi.crs).bounds[0]
    plain = to_lonlat(box, pyproj.CRS.from_epsg(32631)).bounds[0]
    assert abs(west - plain) > 1e-4
    assert not caplog.records
    box = shapely.box(500_000, 4_500_000, 501_000, 4_501_000)
    read_roi(vector(tmp_path / "nad27.gpkg", box, "EPSG:26715"))
    assert "shifted to WGS 84 with an accuracy of" in caplog.text


def test_region_near_180_degrees_is_in_its_own_zone(tmp_path: Path) -> None:
    for longitude, code in ((179.5, 32760), (-180.0, 32701)):
        polygon = outline(longitude, -17.0, 0.5)
        roi = read_roi(vector(tmp_path / f"{code}.gpkg", polygon, "EPSG:4326"))
        assert str(region_geobox(roi, 100.0).crs) == f"EPSG:{code}"


def polar(folder: Path, geometry: shapely.Geometry, crs: str = "EPSG:3031") -> VectorRoi:
    path = folder / "region.gpkg"
    pyogrio.raw.write(
        str(path), np.array([geometry.wkb], dtype=object), [np.arange(1)], ["n"],
        driver="GPKG", crs=crs, geometry_type="Polygon",
    )  # fmt: skip
    return read_roi(path)


@pytest.mark.parametrize(
    ("crs", "box", "pole"),
    [
        ("EPSG:3031", (-5000, -5000, 5000, 5000), "south"),
        ("EPSG:3413", (-5000, -5000, 5000, 5000), "north"),
        ("EPSG:4326", (-180, -90, 180, -89.9), "south"),
    ],
)
def test_region_with_a_pole_is_refused(tmp_path: Path, crs: str, box, pole: str) -> None:
    with pytest.raises(RegionError, match=rf"region\.gpkg contains or surrounds the {pole} pole"):
        polar(tmp_path, shapely.box(*box), crs)


def test_ring_around_a_pole_is_refused(tmp_path: Path) -> None:
    ring = shapely.Point(0, 0).buffer(50_000) - shapely.Point(0, 0).buffer(40_000)
    with pytest.raises(RegionError, match="contains or surrounds the south pole"):
        polar(tmp_path, ring)


@pytest.mark.parametrize(
    ("crs", "box", "west", "east"),
    [
        ("EPSG:3031", (300_000, -1000, 310_000, 9000), 88, 91),
        ("EPSG:3413", (1000, 1000, 9000, 9000), 51, 129),
        # Halves of a region that is divided at 180 degrees.
        ("EPSG:3031", (0, -310_000, 9000, -300_000), 178, 180),
        ("EPSG:3031", (-9000, -310_000, 0, -300_000), -180, -178),
        # A quarter that ends at the pole.
        ("EPSG:3031", (-9000, -9000, 0, 0), -180, 0),
    ],
)
def test_polar_region_without_the_pole_has_a_grid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, crs: str, box, west: float, east: float
) -> None:
    roi = polar(tmp_path, shapely.box(*box), crs)
    with caplog.at_level("WARNING"):
        geobox = region_geobox(roi, 10.0, crs)
    assert geobox.boundingbox.bbox == box
    bounds = to_lonlat(roi.geometry, roi.crs).bounds
    assert west <= bounds[0] < bounds[2] <= east
    assert "10.3 x 10.3 m on the ground" in caplog.text
    assert "UTM" not in caplog.text
    with pytest.raises(RegionError, match=r"outside UTM .*polar CRS"):
        region_geobox(roi, 10.0)


def test_polar_region_across_the_antimeridian_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match=r"crosses the antimeridian.*split it at 180 degrees"):
        polar(tmp_path, shapely.box(-1000, -310_000, 9000, -300_000))


@pytest.mark.parametrize("far", [1e12, 1e30, float("inf")])
def test_coordinates_beyond_the_earth_are_refused(far: float) -> None:
    """Long edges are divided: parts of 500 m of these fill the memory, or GEOS refuses them."""
    shape = shapely.Polygon([(600_000, 5_700_000), (far, 5_700_000), (600_000, 5_600_000)])
    with pytest.raises(RegionError, match="longer than anything on the Earth"):
        to_lonlat(shape, pyproj.CRS.from_epsg(32631))


def test_the_longest_coasts_are_divided() -> None:
    """As long as ten coasts of Canada."""
    there_and_back = [(600_000, 5_700_000), (601_000, 5_700_000)]
    line = shapely.LineString(np.tile(there_and_back, (1_000_000, 1)))
    assert shapely.length(line) == 1_999_999_000
    result = to_lonlat(line, pyproj.CRS.from_epsg(3857))  # PROJ computes it quickly
    assert shapely.get_num_coordinates(result) == 2 * 1_999_999 + 1
