"""Regions: file formats, CRS, grid, mask, and errors of invalid files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine

from tessera_flow.cli.main import main
from tessera_flow.errors import RegionError
from tessera_flow.region.crs import utm_crs
from tessera_flow.region.grid import Window, tiling
from tessera_flow.region.mask import mask_reader, read_mask, write_mask
from tessera_flow.region.roi import VectorRoi, read_roi, region_geobox
from tessera_flow.region.roi_files import roi_files

from ..support.pipeline import write_box, write_polygon


def lonlat(path: Path, *polygons: shapely.Geometry) -> Path:
    features = [
        {"type": "Feature", "properties": {}, "geometry": p.__geo_interface__} for p in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def raster(path: Path, values: np.ndarray, transform: Affine, crs: str | None, **options) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1,
        dtype=values.dtype, crs=crs, transform=transform, **options,
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)
    return path


def grid_mask(path: Path, resolution=10.0, **options) -> tuple[np.ndarray, object]:
    roi = read_roi(path)
    geobox = region_geobox(roi, resolution, **options)
    return mask_reader(roi, geobox)(Window(0, 0, *geobox.shape)), geobox


@pytest.mark.parametrize(
    ("longitude", "latitude", "code"),
    [
        (0.1, 52.2, 32631),
        (-0.1, 52.2, 32630),
        (-179.9, 10, 32601),
        (179.9, 10, 32660),
        (18.4, -33.9, 32734),
        (5.3, 60.4, 32632),  # Bergen: 32V, not 31V
        (2.9, 60.4, 32631),
        (5.3, 64.1, 32631),
        (8.9, 78, 32631),
        (9.1, 78, 32633),
        (20.9, 78, 32633),
        (21.1, 78, 32635),
        (33.1, 78, 32637),
        (41.9, 78, 32637),
        (42.1, 78, 32638),
        (8.9, 71.9, 32632),
    ],
)
def test_utm_zone_with_norway_and_svalbard(longitude, latitude, code) -> None:
    assert utm_crs(longitude, latitude).to_epsg() == code


def test_bounds_are_extended_and_centres_decide(tmp_path: Path) -> None:
    path = write_box(tmp_path / "r.geojson", 600_003, 5_699_904, 600_047, 5_699_996)
    mask, geobox = grid_mask(path)
    assert tuple(geobox.affine)[:6] == (10, 0, 600_000, 0, -10, 5_700_000)
    assert geobox.shape == (10, 5)
    # Centres at 600005 .. 600045 and 5699995 .. 5699905: all inside 600003..600047, 904..996.
    assert mask.all()
    narrow = write_box(tmp_path / "n.geojson", 600_006, 5_699_904, 600_044, 5_699_996)
    mask, _ = grid_mask(narrow)
    np.testing.assert_array_equal(mask, np.tile([False, True, True, True, False], (10, 1)))


def test_bounds_on_the_grid_are_kept_exactly(tmp_path: Path) -> None:
    path = write_box(tmp_path / "r.geojson", 600_000, 5_699_900, 600_050, 5_700_000)
    _, geobox = grid_mask(path)
    assert geobox.shape == (10, 5)
    assert tuple(geobox.affine)[2] == 600_000


def test_multipolygon_with_a_hole(tmp_path: Path) -> None:
    outer = shapely.box(600_000, 5_699_900, 600_100, 5_700_000)
    ring = outer.difference(shapely.box(600_030, 5_699_930, 600_070, 5_699_970))
    far = shapely.box(600_200, 5_699_950, 600_220, 5_699_970)
    path = write_polygon(tmp_path / "r.geojson", shapely.MultiPolygon([ring, far]))
    mask, geobox = grid_mask(path)
    assert geobox.shape == (10, 22)
    expected = np.zeros((10, 22), bool)
    expected[:, :10] = True
    expected[3:7, 3:7] = False
    expected[3:5, 20:22] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("driver, suffix", [
    ("GPKG", ".gpkg"), ("ESRI Shapefile", ".shp"), ("FlatGeobuf", ".fgb"), ("GeoJSON", ".geojson"),
])  # fmt: skip
def test_every_common_format_gives_the_same_mask(tmp_path: Path, driver, suffix) -> None:
    polygon = shapely.Polygon([(0.50, 52.10), (0.53, 52.11), (0.52, 52.13), (0.51, 52.115)])
    expected, grid = grid_mask(lonlat(tmp_path / "plain.json", polygon))
    path = tmp_path / f"roi{suffix}"
    pyogrio.raw.write(
        path, geometry=shapely.to_wkb(np.array([polygon])), field_data=[np.array([1])],
        fields=["id"], crs="EPSG:4326", driver=driver, geometry_type="Polygon",
    )  # fmt: skip
    mask, geobox = grid_mask(path)
    assert geobox == grid
    np.testing.assert_array_equal(mask, expected)
    assert 0.2 < mask.mean() < 0.8


def test_layer_is_required_if_there_are_several(tmp_path: Path) -> None:
    path = tmp_path / "two.gpkg"
    for name, west in (("a", 0.0), ("b", 1.0)):
        box = shapely.box(west, 52, west + 0.01, 52.01)
        pyogrio.raw.write(
            path, geometry=shapely.to_wkb(np.array([box])), field_data=[], fields=[],
            crs="EPSG:4326", driver="GPKG", layer=name, geometry_type="Polygon", append=False,
        )  # fmt: skip
    with pytest.raises(RegionError, match=r"has 2 layers \(a, b\): name one with `layer`"):
        read_roi(path)
    assert read_roi(path, "b").geometry.bounds[0] == 1.0
    with pytest.raises(RegionError, match="no layer 'c'"):
        read_roi(path, "c")


def test_crs_from_the_configuration(tmp_path: Path) -> None:
    polygon = shapely.box(0.50, 52.10, 0.53, 52.13)
    path = lonlat(tmp_path / "r.geojson", polygon)
    _, geobox = grid_mask(path, crs="EPSG:3035")
    assert str(geobox.crs) == "EPSG:3035"
    for crs, message in (("EPSG:4326", "is in degrees"), ("nonsense", "not a coord")):
        with pytest.raises(RegionError, match=message):
            grid_mask(path, crs=crs)


def test_raster_mask_of_a_coarser_pixel_and_odd_origin(tmp_path: Path) -> None:
    """Nearest neighbour: the value at the centre of the 10 m pixel decides."""
    values = np.array([[0, 2], [np.nan, -1], [1, 0.5]], np.float32)
    path = raster(
        tmp_path / "m.tif", values, Affine(25, 0, 600_003, 0, -25, 5_700_004), "EPSG:32631"
    )
    mask, geobox = grid_mask(path)
    assert tuple(geobox.affine)[:6] == (10, 0, 600_000, 0, -10, 5_700_010)
    assert geobox.shape == (9, 6)
    x = 600_000 + 10 * np.arange(6) + 5
    y = 5_700_010 - 10 * np.arange(9) - 5
    column = np.floor((x - 600_003) / 25).astype(int)
    row = np.floor((5_700_004 - y) / 25).astype(int)
    expected = np.zeros((9, 6), bool)
    for i, r in enumerate(row):
        for j, c in enumerate(column):
            expected[i, j] = 0 <= r < 3 and 0 <= c < 2 and values[r, c] > 0
    np.testing.assert_array_equal(mask, expected)


def test_aligned_raster_mask_keeps_its_grid_and_nodata_is_outside(tmp_path: Path) -> None:
    values = np.array([[1, 255, 0], [3, 1, 1]], np.uint8)
    transform = Affine(10, 0, 600_000, 0, -10, 5_700_000)
    path = raster(tmp_path / "m.tif", values, transform, "EPSG:32631", nodata=255)
    mask, geobox = grid_mask(path)
    assert (geobox.affine, geobox.shape) == (transform, (2, 3))
    np.testing.assert_array_equal(mask, [[True, False, False], [True, True, True]])


def test_align_roi_keeps_the_origin_of_the_mask(tmp_path: Path) -> None:
    transform = Affine(10, 0, 600_003, 0, -10, 5_700_004)
    path = raster(tmp_path / "m.tif", np.ones((4, 5), np.uint8), transform, "EPSG:32631")
    mask, geobox = grid_mask(path, align="roi")
    assert (geobox.affine, geobox.shape) == (transform, (4, 5))
    assert mask.all()


def test_mask_does_not_depend_on_windows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 60))
    radii = rng.uniform(0.004, 0.012, 60)
    star = shapely.Polygon(np.c_[0.5 + radii * np.cos(angles), 52.1 + radii * np.sin(angles)])
    roi = read_roi(lonlat(tmp_path / "r.geojson", star.buffer(0)))
    geobox = region_geobox(roi, 10.0)
    full = mask_reader(roi, geobox)(Window(0, 0, *geobox.shape))
    joined = np.zeros_like(full)
    for window in tiling(*geobox.shape, 37):
        joined[window.slices] = mask_reader(roi, geobox)(window)
    np.testing.assert_array_equal(joined, full)
    write_mask(roi, geobox, tmp_path / "mask.tif")
    read, grid = read_mask(tmp_path / "mask.tif", Window(5, 7, 30, 40))
    np.testing.assert_array_equal(read, full[5:35, 7:47])
    assert grid == geobox[5:35, 7:47]


BOWTIE = shapely.Polygon([(0, 52), (0.1, 52.1), (0.1, 52), (0, 52.1)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "absent.geojson", "does not exist: check `roi`"),
        (lambda p: lonlat(p / "r.geojson"), "contains no geometry"),
        (lambda p: lonlat(p / "r.geojson", BOWTIE), r"not a valid polygon \(Self-intersection"),
        (
            lambda p: lonlat(p / "r.geojson", shapely.Point(0, 52)),
            "is a Point, but regions must be polygons",
        ),
        (
            lambda p: lonlat(p / "r.geojson", shapely.box(179.5, 10, 180.5, 11)),
            "crosses the antimeridian",
        ),
        (
            lambda p: lonlat(
                p / "r.geojson", shapely.box(179.5, 10, 180, 11), shapely.box(-180, 10, -179.5, 11)
            ),
            "crosses the antimeridian.*split it",
        ),
    ],
)
def test_invalid_vector_file_has_one_clear_message(tmp_path: Path, make, message) -> None:
    with pytest.raises(RegionError, match=message):
        read_roi(make(tmp_path))


def test_text_file_is_not_a_vector_file(tmp_path: Path) -> None:
    path = tmp_path / "roi.geojson"
    path.write_text("hello")
    with pytest.raises(RegionError, match="cannot be read as a vector file"):
        read_roi(path)


def test_file_without_crs_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "roi.shp"
    box = shapely.box(600_000, 5_699_000, 601_000, 5_700_000)
    pyogrio.raw.write(
        path, geometry=shapely.to_wkb(np.array([box])), field_data=[np.array([1])], fields=["id"],
        crs=None, driver="ESRI Shapefile", geometry_type="Polygon",
    )  # fmt: skip
    with pytest.raises(RegionError, match="has no coordinate reference system: assign one"):
        read_roi(path)
    transform = Affine(10, 0, 600_003, 0, -10, 5_700_004)
    mask = raster(tmp_path / "m.tif", np.ones((4, 5), np.uint8), transform, None)
    with pytest.raises(RegionError, match="has no coordinate reference system"):
        read_roi(mask)


def test_region_outside_utm_needs_a_crs(tmp_path: Path) -> None:
    path = lonlat(tmp_path / "r.geojson", shapely.box(10, 85, 11, 85.1))
    with pytest.raises(RegionError, match=r"outside UTM.*EPSG:3413"):
        grid_mask(path)
    _, geobox = grid_mask(path, crs="EPSG:3413")
    assert str(geobox.crs) == "EPSG:3413"


def test_raster_without_a_positive_pixel(tmp_path: Path) -> None:
    transform = Affine(10, 0, 600_000, 0, -10, 5_700_000)
    path = raster(tmp_path / "m.tif", np.zeros((4, 5), np.uint8), transform, "EPSG:32631")
    roi = read_roi(path)
    with pytest.raises(RegionError, match="has no positive value"):
        write_mask(roi, region_geobox(roi, 10.0), tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


def test_polygon_smaller_than_a_pixel(tmp_path: Path) -> None:
    path = write_box(tmp_path / "r.geojson", 600_001, 5_699_991, 600_003, 5_699_993)
    roi = read_roi(path)
    with pytest.raises(RegionError, match="smaller than a pixel"):
        write_mask(roi, region_geobox(roi, 10.0), tmp_path / "out.tif")


def test_mask_in_degrees_and_rotated_mask(tmp_path: Path) -> None:
    ones = np.ones((4, 5), np.uint8)
    path = raster(tmp_path / "m.tif", ones, Affine(0.01, 0, 0.5, 0, -0.01, 52.5), "EPSG:4326")
    with pytest.raises(RegionError, match=r"is in degrees.*set `crs` to a projected CRS"):
        grid_mask(path)
    mask, geobox = grid_mask(path, crs="EPSG:32631")
    assert str(geobox.crs) == "EPSG:32631"
    assert 0.9 < mask.mean() <= 1
    rotated = Affine(10, 1, 600_000, 1, -10, 5_700_000)
    path = raster(tmp_path / "t.tif", ones, rotated, "EPSG:32631")
    with pytest.raises(RegionError, match="rotated or flipped"):
        read_roi(path)


def test_roi_command_writes_mask_and_convex_hull(tmp_path: Path, capsys) -> None:
    angle = shapely.Polygon([(0, 0), (100, 0), (100, 20), (20, 20), (20, 100), (0, 100)])
    moved = shapely.transform(angle, lambda xy: xy + np.array([600_000, 5_699_900]))
    path = write_polygon(tmp_path / "r.geojson", moved)
    assert main(["roi", str(path), "--out", str(tmp_path / "mask.tif")]) == 0
    assert "10 x 10 px" in capsys.readouterr().out
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        mask = dataset.read(1)
        assert (dataset.crs.to_epsg(), dataset.dtypes[0]) == (32631, "uint8")
    expected = np.zeros((10, 10), np.uint8)
    expected[8:] = 1
    expected[:, :2] = 1
    np.testing.assert_array_equal(mask, expected)
    with rasterio.open(tmp_path / "mask_convex_hull.tif") as dataset:
        hull = dataset.read(1)
    assert hull.sum() > mask.sum()
    assert (hull >= mask).all()
    assert main(["roi", str(tmp_path / "absent.shp"), "--out", str(tmp_path / "x.tif")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_high_resolution_mask_is_read_in_parts(tmp_path: Path, monkeypatch) -> None:
    """Memory does not grow with the resolution of a mask; the result does not change."""
    rng = np.random.default_rng(5)
    values = (rng.random((700, 900)) < 0.5).astype(np.uint8)
    transform = Affine(0.9, 0, 600_000, 0, -0.9, 5_700_000)
    path = raster(tmp_path / "m.tif", values, transform, "EPSG:32631")
    undivided, _ = grid_mask(path)
    monkeypatch.setattr("tessera_flow.region.mask.MAX_SOURCE_PIXELS", 10_000)
    in_parts, _ = grid_mask(path)
    np.testing.assert_array_equal(in_parts, undivided)
    assert 0.3 < undivided.mean() < 0.7


def test_fingerprint_covers_the_sources_of_a_virtual_mask(tmp_path: Path) -> None:
    transform = Affine(10, 0, 600_000, 0, -10, 5_700_000)
    values = np.ones((4, 5), np.uint8)
    source = raster(tmp_path / "m.tif", values, transform, "EPSG:32631")
    virtual = tmp_path / "m.vrt"
    rasterio.shutil.copy(source, virtual, driver="VRT")
    before = read_roi(virtual).fingerprint()
    assert set(roi_files(virtual)) == {source, virtual}
    values[0] = 0
    raster(source, values, transform, "EPSG:32631")
    assert read_roi(virtual).fingerprint() != before


def test_roi_command_does_not_overwrite_the_region(tmp_path: Path, capsys) -> None:
    transform = Affine(10, 0, 600_000, 0, -10, 5_700_000)
    path = raster(tmp_path / "m.tif", np.ones((4, 5), np.uint8), transform, "EPSG:32631")
    before = path.read_bytes()
    assert main(["roi", str(path), "--out", str(path)]) == 1
    assert "is the region itself" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_hull_does_not_overwrite_the_region_or_the_mask(tmp_path: Path, capsys) -> None:
    path = write_box(tmp_path / "r.geojson", 600_000, 5_700_000, 600_050, 5_700_050)
    before, out = path.read_bytes(), tmp_path / "m.tif"
    assert main(["roi", str(path), "--out", str(out), "--hull", str(path)]) == 1
    assert "is the region itself" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main(["roi", str(path), "--out", str(out), "--hull", str(out)]) == 1
    assert "is the same file as --out" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--hull"])
def test_roi_command_does_not_replace_a_folder_or_link(tmp_path: Path, capsys, option: str) -> None:
    path = write_box(tmp_path / "r.geojson", 600_000, 5_700_000, 600_050, 5_700_050)
    precious = tmp_path / "folder" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("kept")
    link = tmp_path / "link.tif"
    link.symlink_to(precious)
    for bad in ("", ".", "..", precious.parent, link, "/dev/null"):
        given = {"--out": str(tmp_path / "m.tif")} | {option: str(bad)}
        arguments = [text for pair in given.items() for text in pair]
        assert main(["roi", str(path), *arguments]) == 1
        assert ("name of a file" if bad in ("", "..", ".") else " is a ") in capsys.readouterr().err
    assert precious.read_text() == "kept" and link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link.tif", "r.geojson"]


@pytest.mark.parametrize("size", ["0", "-10", "nan", "inf", "0.0001", "0.99"])
def test_invalid_resolution(tmp_path: Path, capsys, size: str) -> None:
    with pytest.raises(SystemExit):
        main(["roi", "r.geojson", "--out", str(tmp_path / "m.tif"), f"--resolution={size}"])
    message = f"{size} is not a pixel size: give metres (not degrees), at least 1"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("width", "height", "resolution", "pixels"),
    [
        (400, 400, 0.0001, "4000000 x 4000000 pixels of 0.0001 m"),
        (1_000_000, 1_000_000, 1.0, "1000000 x 1000000 pixels of 1 m"),
        (30_000_000, 100, 10.0, "3000000 x 10 pixels of 10 m"),
    ],
)
def test_grid_with_too_many_pixels_is_refused(
    tmp_path: Path, width: int, height: int, resolution: float, pixels: str
) -> None:
    box = shapely.box(-width / 2, 0, width / 2, height)
    roi = VectorRoi(tmp_path / "r.gpkg", box, pyproj.CRS("EPSG:8857"))
    with pytest.raises(
        RegionError, match=rf"r\.gpkg has {pixels}, more than .*metres, not degrees"
    ):
        region_geobox(roi, resolution, "EPSG:8857")
