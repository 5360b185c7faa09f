"""The simulated archive of the demo: scenes, classes, schedule and plausibility."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from shapely.geometry import shape

from tessera_flow.cli.run_folder import RunFolder
from tessera_flow.config.configuration import Products
from tessera_flow.demo import build, phenology, schedule
from tessera_flow.demo.landscape import Cover, Crop, Landscape, build_landscape
from tessera_flow.demo.radar import gamma0
from tessera_flow.demo.scenes import Region
from tessera_flow.demo.sky import make_sky
from tessera_flow.demo.weights import NOTE, demo_state, write_demo_weights
from tessera_flow.errors import OutputError
from tessera_flow.inference.embed import InferenceOptions, embed_tile
from tessera_flow.inference.tile import TileArrays
from tessera_flow.models.checkpoint import load_model
from tessera_flow.region.roi import read_roi, region_geobox

from ..support.pipeline import read_config

Item = dict[str, Any]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> build.DemoPaths:
    return build.make_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def items(paths: build.DemoPaths) -> list[Item]:
    features: list[Item] = json.loads(paths.items.read_text())["features"]
    return features


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return build_landscape(384, 464, build.SEED)


@pytest.fixture
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that is quick to write."""
    monkeypatch.setattr(schedule, "OPTICAL", schedule.OPTICAL[:2])
    monkeypatch.setattr(schedule, "RADAR", schedule.RADAR[:2])


def sentinel2(items: list[Item]) -> list[Item]:
    return [item for item in items if item["collection"] == "sentinel-2-l2a"]


def sentinel1(items: list[Item]) -> list[Item]:
    return [item for item in items if item["collection"] == "sentinel-1-rtc"]


def read(paths: build.DemoPaths, item: Item, key: str) -> Any:
    with rasterio.open(paths.items.parent / item["assets"][key]["href"]) as dataset:
        return dataset.read(1)


def find(items: list[Item], day: str, tile: str) -> Item:
    (item,) = (
        item
        for item in sentinel2(items)
        if item["properties"]["datetime"].startswith(day)
        and item["properties"]["s2:mgrs_tile"] == tile
    )
    return item


def test_region_period_and_config(paths: build.DemoPaths) -> None:
    config = read_config(paths.config)
    assert list(config.periods) == ["2021-07_2022-06"]
    period = config.periods["2021-07_2022-06"]
    assert (period.start, period.end) == (dt.date(2021, 7, 1), dt.date(2022, 6, 30))
    assert config.sentinel2.location == config.sentinel1.location == "archive/items.json"
    assert paths.folder / config.sentinel2.location == paths.items
    assert paths.folder / config.model.weights == paths.weights
    assert paths.folder / config.regions["demo"].roi == paths.roi
    assert (config.grid.block_size, config.grid.patch_size) == (100, 50)
    assert config.products.formats == Products().formats, "what a user gets without a choice"

    geobox = region_geobox(read_roi(paths.roi), 10.0, "auto", "grid")
    assert str(geobox.crs) == "EPSG:32631" and geobox.shape == (160, 200)
    assert geobox.boundingbox.bbox == Region(160, 200, build.SEED).bounds
    polygon = shape(json.loads(paths.roi.read_text())["features"][0]["geometry"])
    assert polygon.is_valid and len(polygon.interiors) == 1
    assert not any(polygon.covers(corner) for corner in shapely_corners(geobox))


def shapely_corners(geobox: GeoBox) -> Iterator[Any]:
    """Yield the four corners of a grid as points in degrees."""
    outline = geobox.extent.to_crs("EPSG:4326").geom
    for x, y in list(outline.exterior.coords)[:4]:
        yield shape({"type": "Point", "coordinates": (x, y)})


def test_dates_orbits_and_tiles(items: list[Item]) -> None:
    days = {item["properties"]["datetime"][:10] for item in sentinel2(items)}
    assert 24 <= len(days) <= 30
    assert min(days) >= "2021-07-01" and max(days) <= "2022-06-30"
    tiles_of: dict[str, set[str]] = {}
    for item in sentinel2(items):
        tiles_of.setdefault(item["properties"]["datetime"][:10], set()).add(
            item["properties"]["s2:mgrs_tile"]
        )
    assert sum(len(tiles) == 2 for tiles in tiles_of.values()) >= 15
    assert sum(tiles == {"31UCT"} for tiles in tiles_of.values()) >= 2
    assert sum(tiles == {"31UCU"} for tiles in tiles_of.values()) >= 2
    for orbit in ("ascending", "descending"):
        here = [i for i in sentinel1(items) if i["properties"]["sat:orbit_state"] == orbit]
        assert len({item["properties"]["datetime"][:10] for item in here}) == 16
    assert [list(i["assets"]) for i in sentinel1(items)].count(
        ["vv", "tilejson", "rendered_preview"]
    ) == 1
    assert all(item["properties"]["tessera_flow:simulated"] for item in items)
    assert len({item["id"] for item in items}) == len(items)


def test_tiles_overlap_and_cover_the_region(paths: build.DemoPaths, items: list[Item]) -> None:
    north, south = (find(items, "2021-07-04", tile) for tile in ("31UCU", "31UCT"))
    boxes = [item["assets"]["B02"]["proj:bbox"] for item in (north, south)]
    left, bottom, right, top = Region(160, 200, build.SEED).bounds
    assert boxes[0][1] < boxes[1][3], "no overlap"
    assert boxes[1][1] < bottom and boxes[0][3] > top
    assert all(box[0] < left and box[2] > right for box in boxes)
    assert all(value % 20 == 0 for box in boxes for value in box)
    assert all(item["properties"]["proj:epsg"] == 32631 for item in items)
    # The same ground in both tiles, corrected separately: equal within one percent.
    rows = round((boxes[1][3] - boxes[0][1]) / 10)
    a = read(paths, north, "B08")[-rows:].astype(float)
    b = read(paths, south, "B08")[:rows].astype(float)
    assert np.abs(a / b - 1).max() < 0.02 and (a != b).any()


def test_every_scene_class_is_used_and_half_is_clear(
    paths: build.DemoPaths, items: list[Item]
) -> None:
    classes: set[int] = set()
    clear = []
    for item in sentinel2(items):
        scl = read(paths, item, "SCL")
        classes |= set(np.unique(scl).tolist())
        clear.append(np.isin(scl, (4, 5, 6, 7, 10, 11)).mean())
    assert classes == {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
    assert 0.4 < np.mean(clear) < 0.6
    assert min(clear) == 0.0 and max(clear) > 0.98
    overcast = find(items, "2021-10-22", "31UCT")
    assert overcast["properties"]["eo:cloud_cover"] == 100.0


def test_scene_classes_agree_with_the_pixels(paths: build.DemoPaths, items: list[Item]) -> None:
    checked = 0
    for item in sentinel2(items)[::3]:
        scl = read(paths, item, "SCL")
        offset = 1000.0 if item["properties"]["s2:processing_baseline"] >= "04" else 0.0
        mean = {}
        for key in ("B03", "B04", "B08", "B11"):
            numbers = read(paths, item, key)
            size = numbers.shape[0] // scl.shape[0]
            blocks = numbers.reshape(scl.shape[0], size, scl.shape[1], size)
            assert np.array_equal((blocks == 0).all(axis=(1, 3)), scl == 0)
            assert np.array_equal((blocks == 0).any(axis=(1, 3)), scl == 0)
            mean[key] = blocks.mean(axis=(1, 3)) - offset
        total = np.maximum(mean["B08"] + mean["B04"], 1)
        ndvi = (mean["B08"] - mean["B04"]) / total
        assert (ndvi[scl == 4] > 0.37).all() and (ndvi[scl == 5] < 0.43).all()
        assert (mean["B08"][scl == 6] < 1300).all()
        assert (mean["B03"][scl == 9] > 3000).all()
        assert (mean["B03"][scl == 11] > 2300).all() and (
            mean["B11"][scl == 11] < mean["B03"][scl == 11]
        ).all()
        checked += int((scl != 0).sum())
    assert checked > 50_000


def test_offset_is_in_the_pixels_exactly_from_baseline_4_on(
    paths: build.DemoPaths, items: list[Item]
) -> None:
    water = {}
    for item in sentinel2(items):
        baseline = item["properties"]["s2:processing_baseline"]
        day = item["properties"]["datetime"][:10]
        reprocessed = baseline == "05.00"
        assert reprocessed or (baseline >= "04.00") == (day >= "2022-01-25")
        numbers = read(paths, item, "B11")
        scl = read(paths, item, "SCL")
        if baseline >= "04.00":
            assert numbers[numbers > 0].min() > 1000
        if (scl == 6).sum() > 100 and (scl == 3).sum() == 0:
            water[day, baseline] = float(np.median(numbers[scl == 6]))
    before = [value for (day, base), value in water.items() if base == "03.01"]
    after = [value for (day, base), value in water.items() if base >= "04.00"]
    assert len(before) >= 3 and len(after) >= 3
    assert max(before) < 350 and all(1000 < value < 1350 for value in after)


def test_one_acquisition_has_a_duplicate(paths: build.DemoPaths, items: list[Item]) -> None:
    by_acquisition: dict[tuple[str, str], list[Item]] = {}
    for item in sentinel2(items):
        properties = item["properties"]
        take = properties["s2:datatake_id"].rsplit("_N", 1)[0]
        by_acquisition.setdefault((take, properties["s2:mgrs_tile"]), []).append(item)
    ((old, new),) = (versions for versions in by_acquisition.values() if len(versions) > 1)
    assert old["properties"]["datetime"] == new["properties"]["datetime"]
    assert [i["properties"]["s2:processing_baseline"] for i in (old, new)] == ["03.01", "05.00"]
    a, b = (read(paths, item, "B04").astype(float) for item in (old, new))
    assert np.abs((b - 1000) / a - 1).max() < 0.02
    assert (b - 1000 != a).any()


def test_swath_edge_and_missing_radar(paths: build.DemoPaths, items: list[Item]) -> None:
    orbit_137 = [i for i in sentinel2(items) if i["properties"]["sat:relative_orbit"] == 137]
    for item in orbit_137:
        numbers = read(paths, item, "B02")
        assert 5 < 100 * (numbers == 0).mean() < 60
        assert item["properties"]["s2:nodata_pixel_percentage"] > 5
        west = item["assets"]["B02"]["proj:bbox"][0]
        assert shape(item["geometry"]).area > 0 and (numbers[:, 0] > 0).all(), west
    gaps = [i for i in sentinel1(items) if (read(paths, i, "vv") == -32768).any()]
    assert len(gaps) == 1
    both = [i for i in sentinel1(items) if i["properties"]["datetime"].startswith("2021-12-20")]
    assert len(both) == 2, "two scenes of one pass"
    tops = [item["properties"]["proj:bbox"] for item in both]
    assert tops[0][1] < tops[1][3], "they overlap"


@pytest.mark.usefixtures("few_passes")
def test_second_call_writes_nothing_and_damage_is_repaired(tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {
            path.relative_to(tmp_path).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in tmp_path.rglob("*")
            if path.is_file()
        }

    paths = build.make_demo(tmp_path, height=80, width=80)
    paths.config.write_text(paths.config.read_text() + "# mine\n")
    edited = state()
    build.make_demo(tmp_path, height=80, width=80)
    assert state() == edited, "an edited configuration is left alone, too"

    scene = next(paths.archive.rglob("*SCL_20m.tif"))
    scene.write_bytes(b"")
    build.make_demo(tmp_path, height=80, width=80)
    assert {name: size for name, (_, size) in state().items()} == {
        name: size for name, (_, size) in edited.items()
    }
    marker = json.loads(paths.marker.read_text())
    paths.marker.write_text(json.dumps(marker | {"generator": -1}))
    stray = paths.archive / "of_an_older_version.tif"
    stray.write_bytes(b"1")
    mine = paths.archive / "mine.tif"
    mine.write_bytes(b"1")
    listed = {**marker["files"], "archive/of_an_older_version.tif": 1, "archive/../mine.txt": 1}
    paths.marker.write_text(json.dumps(marker | {"generator": -1, "files": listed}))
    (tmp_path / "mine.txt").write_text("x")
    paths.roi.write_text("{}")
    build.make_demo(tmp_path, height=80, width=80)
    assert not stray.exists()
    assert mine.exists() and (tmp_path / "mine.txt").exists(), "no file of this program"
    assert paths.roi.read_text() == "{}" and paths.config.read_text().endswith("# mine\n")
    del marker["files"], (again := json.loads(paths.marker.read_text()))["files"]
    assert again == marker


@pytest.mark.usefixtures("few_passes")
def test_interrupted_demo_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "write_demo_weights", fails)
        with pytest.raises(KeyboardInterrupt):
            build.make_demo(tmp_path, height=80, width=80)
    paths = build.make_demo(tmp_path, height=80, width=80)
    assert paths.weights.is_file() and paths.config.is_file()


@pytest.mark.parametrize("name", ["config.yaml", "roi.geojson", "archive", "simulated.json"])
def test_demo_is_not_written_over_files_of_others(tmp_path: Path, name: str) -> None:
    precious = tmp_path / name / "scene.tif" if name == "archive" else tmp_path / name
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("{}")
    for folder in (tmp_path, precious):
        with pytest.raises(OutputError, match=rf"has files \({name}\)|Cannot write"):
            build.make_demo(folder)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [precious]
    assert precious.read_text() == "{}"


@pytest.mark.usefixtures("few_passes")
def test_bytes_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        folder = tmp_path / name
        paths = build.make_demo(folder, height=80, width=80)
        written.append(
            {
                path.relative_to(folder): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file() and path not in (paths.config, paths.marker)
            }
        )
    assert written[0] == written[1]
    with pytest.raises(ValueError, match="even numbers"):
        build.make_demo(tmp_path / "c", height=81)


def test_size_and_document_form(paths: build.DemoPaths, items: list[Item]) -> None:
    total = sum(path.stat().st_size for path in paths.folder.rglob("*") if path.is_file())
    assert total < 60e6
    for item in items:
        for key, asset in item["assets"].items():
            read_by_the_workflow = key in ("vv", "vh", "SCL") or (
                key.startswith("B") and key not in ("B01", "B09")
            )
            if read_by_the_workflow:
                assert asset["href"].startswith("./")
                assert (paths.items.parent / asset["href"]).is_file()
    assert len(pystac.ItemCollection.from_file(str(paths.items))) == len(items)
    times = [item["properties"]["datetime"] for item in items]
    assert times == sorted(times)


def ndvi(landscape: Landscape, day: str) -> Any:
    scene = phenology.reflectance(landscape, dt.date.fromisoformat(day), sun_elevation=40)
    red, nir = scene[phenology.BANDS.index("B04")], scene[phenology.BANDS.index("B08")]
    return (nir - red) / (nir + red)


def test_phenology(landscape: Landscape) -> None:
    july, january, may = (
        ndvi(landscape, day) for day in ("2021-07-20", "2022-01-10", "2022-05-25")
    )
    broadleaf, conifer = (landscape.cover == c for c in (Cover.BROADLEAF, Cover.CONIFER))
    assert july[broadleaf].mean() > 0.8 and january[broadleaf].mean() < 0.5
    assert abs(july[conifer].mean() - january[conifer].mean()) < 0.02
    assert january[conifer].mean() > 0.7
    assert january[landscape.cover == Cover.LAKE].mean() < 0
    assert july[landscape.cover == Cover.ROOF].mean() < 0.3

    first, second = landscape.crops[landscape.parcel, 0], landscape.crops[landscape.parcel, 1]
    field = landscape.cover == Cover.FIELD
    assert july[field & (first == Crop.BEET)].mean() > 0.8
    assert july[field & (first == Crop.BARLEY)].mean() < 0.4, "harvested"
    assert may[field & (second == Crop.WHEAT)].mean() > 0.75
    assert may[field & (second == Crop.MAIZE)].mean() < 0.4, "just sown"
    # Rape in blossom is yellow: brighter in green and red than wheat, not in blue.
    april = phenology.reflectance(landscape, dt.date(2022, 4, 25), sun_elevation=50)
    rape, wheat = field & (second == Crop.RAPE), field & (second == Crop.WHEAT)
    assert april[1][rape].mean() > 1.4 * april[1][wheat].mean()
    assert april[0][rape].mean() < 1.3 * april[0][wheat].mean()


def test_landscape_has_all_covers_and_slanted_fields(landscape: Landscape) -> None:
    share = np.bincount(landscape.cover.ravel(), minlength=len(Cover)) / landscape.cover.size
    assert (share > 0.005).all()
    assert 0.4 < share[Cover.FIELD] < 0.7
    assert 0.05 < share[Cover.BROADLEAF] + share[Cover.CONIFER] < 0.2
    assert len(landscape.direction) > 150
    assert np.unique(np.round(landscape.direction, 3)).size >= 10
    assert np.abs(np.sin(2 * landscape.direction)).mean() > 0.3, "not along the axes"


def test_radar_levels_and_speckle(landscape: Landscape) -> None:
    day = dt.date(2021, 7, 5)
    up, down = (
        gamma0(landscape, day, orbit, np.random.default_rng(3))
        for orbit in ("ascending", "descending")
    )
    cover = landscape.cover[::2, ::2]
    mean = {
        kind: 10 * np.log10(up[:, cover == kind].mean(axis=1))
        for kind in (Cover.CONIFER, Cover.RIVER, Cover.ROOF)
    }
    assert mean[Cover.ROOF][0] > mean[Cover.CONIFER][0] + 3 > mean[Cover.RIVER][0] + 6
    assert mean[Cover.CONIFER][0] - mean[Cover.CONIFER][1] == pytest.approx(5, abs=0.5)
    inside = up[0, cover == Cover.CONIFER]
    assert inside.mean() ** 2 / inside.var() == pytest.approx(4.4, rel=0.35), "number of looks"
    fields = cover == Cover.FIELD
    difference = 10 * np.log10(up[0, fields].mean() / down[0, fields].mean())
    assert 0.1 < abs(difference) < 2.0, "the orbits see other angles"


def test_cloud_shadows_are_further_away_when_the_sun_is_low() -> None:
    def shadows_of(elevation: float) -> Any:
        rng = np.random.default_rng(5)
        return make_sky(rng, (120, 140), cover=0.3, sun_elevation=elevation)

    for elevation, distance in ((60.0, 242), (20.0, 1154)):
        sky = shadows_of(elevation)
        assert 0.2 < (sky.cloud > 0.3).mean() < 0.45
        up = int(distance * 0.94 / 10)
        left = int(distance * 0.34 / 10)
        assert np.array_equal(sky.cloud[up:, left:], sky.shadow[:-up, :-left])


def test_schedule_follows_the_satellites() -> None:
    assert [one.day for one in schedule.OPTICAL] == sorted(one.day for one in schedule.OPTICAL)
    first = {94: dt.date(2021, 7, 4), 137: dt.date(2021, 7, 6)}
    for one in schedule.OPTICAL:
        assert (one.day - first[one.relative_orbit]).days % 5 == 0
        assert schedule.FIRST_DAY <= one.day <= schedule.LAST_DAY
    assert any(one.day == schedule.OFFSET_DAY for one in schedule.OPTICAL)


def test_untrained_embeddings_separate_land_covers(tmp_path: Path, landscape: Landscape) -> None:
    path = write_demo_weights(tmp_path)
    data = path.read_bytes()
    assert write_demo_weights(tmp_path / "again").read_bytes() == data
    assert b"UNTRAINED" in data and "untrained" in path.name and NOTE.startswith("UNTRAINED")
    assert sum(tensor.numel() for tensor in demo_state().values()) == 1_071_874
    student = load_model(path)

    rng = np.random.default_rng(0)
    covers = (Cover.CONIFER, Cover.BROADLEAF, Cover.LAKE, Cover.ASPHALT)
    places = [rng.choice(np.flatnonzero(landscape.cover == c), 30) for c in covers]
    days = [dt.date(2021, 7, 4) + dt.timedelta(30 * n) for n in range(12)]
    names = ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12")
    order = [phenology.BANDS.index(name) for name in names]
    bands = np.stack(
        [
            phenology.reflectance(landscape, day, sun_elevation=40)[order].reshape(10, -1)[
                :, np.array(places)
            ]
            for day in days
        ]
    )
    bands = (np.moveaxis(bands, 1, -1) * 10000).astype(np.uint16)  # (T, covers, 30, 10)
    none = np.zeros((0, *bands.shape[1:3], 2), np.int16)
    doys = np.array([day.timetuple().tm_yday for day in days], np.uint16)
    tile = TileArrays(
        bands, np.ones(bands.shape[:3], np.uint8), doys,
        none, doys[:0].astype(np.int16), none, doys[:0].astype(np.int16),
    )  # fmt: skip
    values = embed_tile(tile, student, InferenceOptions(dtype="float32")).values
    centres = values.mean(axis=1)
    spread = np.linalg.norm(values - centres[:, None], axis=-1).mean(axis=1)
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 3, "covers differ"
    assert (spread < 0.8 * apart.min(axis=1)).all(), "pixels of one cover are alike"


def test_command(paths: build.DemoPaths) -> None:
    before = paths.marker.stat().st_mtime_ns
    done = subprocess.run(
        [sys.executable, "-m", "tessera_flow.cli.main", "demo", "--out", str(paths.folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        f"{paths.config}: the scenes are simulated and the weights untrained.",
        f"Next: tessera-flow run --out {paths.folder}",
    ]
    assert RunFolder(paths.folder).exists
    assert paths.marker.stat().st_mtime_ns == before


@pytest.mark.usefixtures("few_passes")
def test_a_demo_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All paths are relative to its folder, also those of an archive that was written elsewhere."""
    monkeypatch.chdir(tmp_path)
    paths = build.make_demo(Path("here"), height=80, width=80)
    text = paths.config.read_text()
    assert str(tmp_path) not in text
    scenes = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")}
    (tmp_path / "here").rename(tmp_path / "there")
    again = build.make_demo(tmp_path / "there", height=80, width=80)
    assert again.config.read_text() == text
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")} == scenes
