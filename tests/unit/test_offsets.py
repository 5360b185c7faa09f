"""The BOA offset of items: what metadata state, what the pixels show, what the user states."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tessera_flow.archives.boa_offset import declared_offset
from tessera_flow.archives.mpc import Mpc
from tessera_flow.archives.sentinel2_names import BaselineError, processing_baseline
from tessera_flow.block_file import open_block_file
from tessera_flow.config.configuration import Config, load_config
from tessera_flow.errors import ConfigError, ItemError, ReadError
from tessera_flow.ingest.download import download_sentinel2
from tessera_flow.jobs.files import RunFiles
from tessera_flow.raster import retry
from tessera_flow.raster.reader import OVERVIEW_EDGE, Asset, Reader
from tessera_flow.sensors.sentinel2 import BANDS, DayMosaic, offset_in_pixels

from ..support.archives import earth_search_item
from ..support.pipeline import MODEL, ORIGIN, configuration, ingest, manifest, stacked, write_box
from ..support.scenes import optical
from ..support.servers import Fault, FileServer, serve_files

LEFT, TOP = ORIGIN
SHAPE = (40, 50)
Item = dict[str, Any]
LAND = np.random.default_rng(5).integers(150, 4000, (*SHAPE, 10)).astype(np.uint16)
BRIGHT = np.random.default_rng(6).integers(4000, 9000, (*SHAPE, 10)).astype(np.uint16)
DAYS = {"start": "2021-06-01", "end": "2021-06-30"}


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    return write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)


def run(
    folder: Path, roi: Path, items: list[Item], until: str = "stack", start: str = "2021-06-01",
    end: str = "2021-06-30", **sections: Any,
) -> RunFiles:  # fmt: skip
    sections = {"sentinel1": {"enabled": False}, **sections}
    return ingest(configuration(folder, roi, items, start, end, **sections), until)


def decided(files: RunFiles) -> list[tuple[int, str]]:
    """Return the offset of each item, and what decided it."""
    return [(i.boa_offset, i.boa_offset_from) for i in manifest(files, "sentinel2").items]


def state(item: Item, offset: float, form: str = "raster:bands") -> Item:
    """Let each band of an item state an offset."""
    for key, asset in item["assets"].items():
        if key in BANDS:
            asset |= {
                "raster:bands": {"raster:bands": [{"scale": 0.0001, "offset": offset}]},
                "bands": {"bands": [{"name": key, "raster:offset": offset}]},
                "raster:offset": {"raster:offset": offset},
            }[form]
    return item


# The rule for pixels


@pytest.mark.parametrize(
    ("dn", "expected"),
    [
        (LAND, False),
        (LAND + 1000, True),
        (BRIGHT, None),
        (BRIGHT + 1000, None),
        (np.full_like(LAND, 0), None),
        (np.full_like(LAND, 300), False),
        (np.full_like(LAND, 1250), True),
        # Sand: no dark pixel in any band, and a red that is bright with or without the offset.
        (np.broadcast_to(np.array([2600, 1100, 1800] + [3000] * 7), LAND.shape), None),
        # Water with the offset (reflectances somewhat below 0), or haze without it.
        (np.broadcast_to(np.array([960, 1040, 1010] + [1000] * 7), LAND.shape), None),
        (np.random.default_rng(1).integers(850, 2400, LAND.shape), None),
    ],
)
def test_pixels_decide(dn: np.ndarray, expected: bool | None) -> None:
    bands = [dn[..., index] for index in range(3)]
    assert offset_in_pixels(bands, np.full(SHAPE, 4)) is expected
    # Clouds, shadows and missing data say nothing.
    for invalid in (0, 1, 2, 3, 8, 9, 10):
        assert offset_in_pixels(bands, np.full(SHAPE, invalid)) is None


def test_few_dark_pixels_do_not_show_that_the_offset_is_gone() -> None:
    dn = LAND[..., 0] + 1000
    dn.flat[:10] = 200  # 0.5 %
    assert offset_in_pixels([dn], np.full(SHAPE, 4)) is None
    dn.flat[:2] = 200
    dn.flat[2:10] = 1200
    assert offset_in_pixels([dn], np.full(SHAPE, 4)) is True


def test_few_pixels_below_the_offset_do_not_show_that_it_is_gone() -> None:
    dn = LAND[..., 0] + 1000
    dn.flat[: dn.size // 200] = 960
    assert offset_in_pixels([dn], np.full(SHAPE, 4)) is True
    dn.flat[: dn.size // 50] = 960
    assert offset_in_pixels([dn], np.full(SHAPE, 4)) is None


def test_each_band_can_have_its_own_offset() -> None:
    mosaic = DayMosaic(np.zeros(SHAPE, np.int16), np.ones(SHAPE, bool))
    planes = [np.full(SHAPE, 2000, np.uint16) for _ in BANDS]
    mosaic.add(0, planes, ["corrected" if index < 4 else None for index in range(10)])
    assert mosaic.image()[0, 0].tolist() == [1000] * 4 + [2000] * 6


# Baselines


@pytest.mark.parametrize(
    ("stated", "baseline"),
    [("05.11", "05.11"), (" 02.14", "02.14"), ("05.10 ", "05.10"), ("2.14", "02.14"),
     (2.14, "02.14"), (5.1, "05.10"), ("04.00", "04.00"), ("03.01", "03.01")],
)  # fmt: skip
def test_baselines_of_esa(stated: object, baseline: str) -> None:
    item = {"id": "x", "properties": {"s2:processing_baseline": stated}}
    assert processing_baseline(item) == baseline
    present = Mpc().offset_rule(item | {"assets": {b: {} for b in BANDS}}, "corrected").bands
    assert present == (set(BANDS) if baseline >= "04.00" else set())


NOT_OF_ESA = (
    "99.99", "99.33", "0214", "N0214", "510", 510, 21.4, "21.4", "unknown", "4", 4, "06", "5,10",
    "0.4.00", "00.00", "-5.10", "05.1x", "nan", True, "06.00", ["05.10"],
)  # fmt: skip


@pytest.mark.parametrize("stated", NOT_OF_ESA)
def test_other_baselines_are_refused(stated: object) -> None:
    item = {"id": "x", "properties": {"s2:processing_baseline": stated}}
    with pytest.raises(BaselineError, match="which is none of ESA's"):
        processing_baseline(item)


def test_missing_baseline_is_that_of_the_product_name() -> None:
    name = "S2A_MSIL2A_20210610T105031_N{}_R051_T31UDT_20220801T120000"
    item = {"id": name.format("9999"), "properties": {"s2:product_uri": name.format("0301")}}
    assert processing_baseline(item) == "03.01"
    del item["properties"]["s2:product_uri"]
    with pytest.raises(BaselineError, match=r"'99\.99', which is none"):
        processing_baseline(item)
    with pytest.raises(BaselineError, match="does not state its processing baseline"):
        processing_baseline({"id": "x", "properties": {"s2:processing_baseline": None}})


def test_all_items_with_unknown_baselines_are_named(tmp_path: Path, roi: Path) -> None:
    items = [optical(tmp_path / "a", f"2021-06-{day:02d}T10:00:00", LAND) for day in (1, 5, 9)]
    items[1]["properties"]["s2:processing_baseline"] = "99.99"
    items[2]["properties"]["s2:processing_baseline"] = "0214"
    with pytest.raises(ItemError) as error:
        run(tmp_path, roi, items)
    for text in (items[1]["id"], items[2]["id"], "'99.99'", "'0214'", "baseline",
                 "sentinel2.boa_offset", "preprocessing: as_published"):  # fmt: skip
        assert text in str(error.value)
    assert items[0]["id"] not in str(error.value)
    files = run(tmp_path, roi, items, preprocessing="as_published")
    assert decided(files) == [(0, "published rule")] * 3


@pytest.mark.parametrize("stated", ["removed", "present"])
def test_user_states_the_offset(tmp_path: Path, roi: Path, stated: str) -> None:
    """`present` does not apply to ESA's baselines before 04.00, which never had the offset."""
    added = 1000 if stated == "present" else 0
    items = [
        optical(tmp_path / "a", "2021-06-01T10:00:00", LAND, baseline="03.00"),
        optical(tmp_path / "a", "2021-06-05T10:00:00", LAND + added, baseline="05.10"),
        optical(tmp_path / "a", "2021-06-09T10:00:00", LAND + added, baseline="05.10"),
    ]
    items[2]["properties"]["s2:processing_baseline"] = "99.99"
    files = run(tmp_path, roi, items, sentinel2={"boa_offset": stated})
    assert decided(files) == [(offset, "configuration") for offset in (0, added, added)]
    np.testing.assert_array_equal(stacked(files, "sentinel2")["bands"], np.stack([LAND] * 3))


@pytest.mark.parametrize("general", [True, False])
def test_user_cannot_state_the_offset_of_the_published_rule(general: bool) -> None:
    stated = {"sentinel2": {"boa_offset": "removed"}}
    document = {
        "regions": {"here": {"roi": "x.geojson"} | ({} if general else stated)},
        "periods": {"then": DAYS}, "model": MODEL, "preprocessing": "as_published",
        **(stated if general else {}),
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"sentinel2\.boa_offset is removed, but with prep"):
        load_config(document)


# Contradictions


@pytest.mark.parametrize("form", ["raster:bands", "bands", "raster:offset"])
def test_item_that_contradicts_its_baseline_is_decided_by_pixels(
    tmp_path: Path, roi: Path, form: str
) -> None:
    """Harmonised archives state the offset 0; other items state one that they do not have."""
    items = [
        state(optical(tmp_path / "a", "2021-06-01T10:00:00", LAND + 1000, baseline="05.10"), -0.1),
        state(optical(tmp_path / "a", "2021-06-05T10:00:00", LAND, baseline="05.10"), 0, form),
        state(optical(tmp_path / "a", "2021-06-09T10:00:00", LAND + 1000, baseline="05.10"), 0),
        state(optical(tmp_path / "a", "2021-06-13T10:00:00", LAND, baseline="03.00"), -1000, form),
        optical(tmp_path / "a", "2021-06-17T10:00:00", LAND + 1000, baseline="05.10"),
    ]
    files = run(tmp_path, roi, items)
    assert decided(files) == [
        (1000, "baseline"), (0, "pixels"), (1000, "pixels"), (0, "pixels"), (1000, "baseline"),
    ]  # fmt: skip
    np.testing.assert_array_equal(stacked(files, "sentinel2")["bands"], np.stack([LAND] * 5))


def test_bright_item_that_contradicts_its_baseline_is_left_out(tmp_path: Path, roi: Path) -> None:
    items = [
        optical(tmp_path / "a", "2021-06-01T10:00:00", LAND + 1000, baseline="05.10"),
        state(optical(tmp_path / "a", "2021-06-05T10:00:00", BRIGHT, baseline="05.10"), 0),
    ]
    listed = manifest(run(tmp_path, roi, items, until="items"), "sentinel2")
    assert [item.id for item in listed.items] == [items[0]["id"]]
    ((name, reason),) = listed.left_out
    assert name == items[1]["id"]
    assert "states the offset 0" in reason and "set sentinel2.boa_offset" in reason
    assert any(name in warning for warning in listed.warnings)


def test_product_name_that_contradicts_the_baseline(tmp_path: Path, roi: Path) -> None:
    item = optical(tmp_path / "a", "2021-06-01T10:00:00", LAND, baseline="03.00")
    item["properties"]["s2:processing_baseline"] = "05.00"
    files = run(tmp_path, roi, [item])
    assert decided(files) == [(0, "pixels")]


@pytest.mark.parametrize(
    ("bucket", "flag", "added"),
    [
        *(("sentinel-cogs", flag, added) for flag in (True, False, None) for added in (0, 1000)),
        *((None, flag, added) for flag in (True, False, None) for added in (0, 1000)),
        ("e84-earth-search-sentinel-data", True, 0),
        ("e84-earth-search-sentinel-data", True, 1000),
    ],
)
def test_pixels_decide_on_earth_search(
    tmp_path: Path, roi: Path, bucket: str | None, flag: bool | None, added: int
) -> None:
    """In February 2022, whatever bucket and flag state."""
    scene = optical(tmp_path / "a", "2022-02-05T10:00:00", LAND + added, baseline="04.00")
    item = earth_search_item(scene, bucket or "")
    item["properties"]["earthsearch:boa_offset_applied"] = flag
    files = run(
        tmp_path, roi, [item], start="2022-02-01", end="2022-02-28",
        sentinel2={"item_format": "earth-search"},
    )  # fmt: skip
    assert decided(files) == [(added, "pixels")]
    np.testing.assert_array_equal(stacked(files, "sentinel2")["bands"][0], LAND)


def test_bright_scene_keeps_the_rule_of_the_bucket_and_is_listed(tmp_path: Path, roi: Path) -> None:
    scene = optical(tmp_path / "a", "2022-10-08T10:00:00", BRIGHT, baseline="04.00")
    item = earth_search_item(scene, "sentinel-cogs")
    item["properties"]["earthsearch:boa_offset_applied"] = False
    files = run(
        tmp_path, roi, [item], start="2022-10-01", end="2022-10-28",
        sentinel2={"item_format": "earth-search"},
    )  # fmt: skip
    listed = manifest(files, "sentinel2")
    assert decided(files) == [(0, "bucket")]
    (warning,) = (text for text in listed.warnings if item["id"] in text)
    assert "the pixels do not decide it" in warning and "bucket is sentinel-cogs" in warning


def test_copies_have_the_offset_of_their_own_pixels(tmp_path: Path, roi: Path) -> None:
    scenes = [
        optical(tmp_path / str(n), "2022-02-05T10:00:00", LAND + added, baseline="04.00")
        for n, added in enumerate((0, 1000))
    ]
    items = [earth_search_item(scene, sequence=n) for n, scene in enumerate(scenes)]
    Path(items[1]["assets"]["nir"]["href"]).unlink()
    files = run(
        tmp_path, roi, items, start="2022-02-01", end="2022-02-28",
        sentinel2={"item_format": "earth-search"},
    )  # fmt: skip
    (item,) = manifest(files, "sentinel2").items
    assert (item.boa_offset, item.duplicates[0].boa_offset) == (1000, 0)
    np.testing.assert_array_equal(stacked(files, "sentinel2")["bands"][0], LAND)


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("stated", [True, False])
def test_band_of_a_file_of_several_decides(
    tmp_path: Path, roi: Path, interleave: str, stated: bool
) -> None:
    """The other band of each file would decide otherwise."""
    items = [
        state(optical(tmp_path / "a", f"2021-06-{day}T10:00:00", values, baseline="05.10"), 0)
        for day, values in (("05", LAND), ("09", LAND + 1000))
    ]
    for item in items:
        for key in ("SCL", "B04", "B02", "B03"):
            asset = item["assets"][key]
            with rasterio.open(asset["href"]) as dataset:
                values, profile = dataset.read(1), dataset.profile
            added = 0 if key == "SCL" else 1000 if item is items[0] else -1000
            profile |= {"count": 2, "interleave": interleave}
            with rasterio.open(asset["href"], "w", **profile) as dataset:
                dataset.write(np.stack([values + np.int16(added), values]).astype(profile["dtype"]))
                if not stated:
                    dataset.descriptions = ("other", key)
            if stated:
                asset["bands"] = [{"name": "other"}, {"name": key}]
    files = run(tmp_path, roi, items)
    assert decided(files) == [(0, "pixels"), (1000, "pixels")]
    np.testing.assert_array_equal(stacked(files, "sentinel2")["bands"], np.stack([LAND] * 2))


def test_band_that_is_not_stated_does_not_decide(tmp_path: Path, roi: Path) -> None:
    item = state(optical(tmp_path / "a", "2021-06-05T10:00:00", LAND, baseline="05.10"), 0)
    path = item["assets"]["B04"]["href"]
    with rasterio.open(path) as dataset:
        values, profile = dataset.read(1), dataset.profile | {"count": 2}
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(np.stack([values, values]))
    with pytest.raises(ReadError, match=r"asset B04 of item .* has 2 bands"):
        run(tmp_path, roi, [item], until="items")


def test_next_band_decides_if_one_is_missing(tmp_path: Path, roi: Path) -> None:
    item = state(optical(tmp_path / "a", "2021-06-05T10:00:00", LAND, baseline="05.10"), 0)
    Path(item["assets"]["B04"]["href"]).unlink()
    assert decided(run(tmp_path, roi, [item], until="items")) == [(0, "pixels")]


def test_outage_while_offsets_are_decided_is_an_error(tmp_path: Path, roi: Path) -> None:
    item = state(optical(tmp_path / "a", "2021-06-05T10:00:00", LAND, baseline="05.10"), 0)
    with serve_files(tmp_path / "a") as server:
        served(item, server)
        assert decided(run(tmp_path, roi, [item], until="items")) == [(0, "pixels")]
    with pytest.raises(ReadError, match="asset SCL of item"):
        run(tmp_path / "b", roi, [item], until="items")


def served(item: Item, server: FileServer) -> Item:
    """Let the assets of an item be served."""
    for asset in item["assets"].values():
        if asset["href"].startswith("/"):
            path = Path(asset["href"]).relative_to(server.folder.absolute())
            asset["href"] = f"{server.url}/{path.as_posix()}"
    return item


def contradictory(server: FileServer, values: tuple[np.ndarray, ...]) -> list[Item]:
    """Return items of Earth Search that keep the rule of their bucket if nothing decides."""
    scenes = [
        optical(server.folder, f"2022-02-{5 * n + 1:02d}T10:00:00", dn, baseline="04.00")
        for n, dn in enumerate(values)
    ]
    return [served(earth_search_item(scene), server) for scene in scenes]


FEBRUARY = {"start": "2022-02-01", "end": "2022-02-28",
            "sentinel2": {"item_format": "earth-search"}}  # fmt: skip
BRIEF = {"attempts": 2, "timeout": 0.4, "deadline": 3.0}


def download(config: Config, files: RunFiles, output: Path) -> None:
    """Download the only block and slice with the list of scenes as it is."""
    names = {"region": "here", "period": "then"}
    (block,) = files.grids["here"].blocks
    (part,) = files.time_slices("then")
    items = Path(files.paths.items.format(sensor="sentinel2", **names))
    download_sentinel2(
        items, Path(files.paths.roi.format(region="here")), block.window, part, output,
        config.sentinel2, config.preprocessing, config.download,
    )  # fmt: skip


OUTAGES = {
    "errors": Fault("status", value=503, count=None),
    "refusals": Fault("status", value=403, count=None),
    "silence": Fault("stall", value=0.9, count=None),
    "login page": Fault("html", count=None),
}


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES)
def test_outage_while_scenes_are_listed_keeps_no_rule(
    tmp_path: Path, roi: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download decides, as the list would have done, or fails."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    with serve_files(tmp_path / "a") as server:
        items = contradictory(server, (LAND + 1000, LAND, BRIGHT))
        config = configuration(
            tmp_path, roi, items, sentinel1={"enabled": False}, download=BRIEF, **FEBRUARY
        )
        server.faults = [dataclasses.replace(fault)]
        files = ingest(config, "items")
        listed = manifest(files, "sentinel2")
        assert [item.boa_offset_unconfirmed for item in listed.items] == [True] * 3
        (warning,) = (text for text in listed.warnings if "could not be read" in text)
        assert all(item["id"] in warning for item in items)
        assert "bucket is sentinel-cogs" in warning
        output = tmp_path / "slice.zip"
        with pytest.raises(ReadError, match="Cannot read asset"):
            download(config, files, output)
        server.faults = []
        download(config, files, output)
    with open_block_file(output) as group:
        np.testing.assert_array_equal(group["bands"][:], np.stack([LAND, LAND, BRIGHT]))


@pytest.mark.parametrize("status", [404, 403])
def test_single_missing_object_keeps_the_rule_and_is_listed(
    tmp_path: Path, roi: Path, status: int
) -> None:
    """Other objects are served, so it is no outage."""
    with serve_files(tmp_path / "a") as server:
        items = contradictory(server, (LAND, LAND + 1000))
        path = items[0]["assets"]["scl"]["href"].removeprefix(server.url)
        server.faults = [Fault("status", path, value=status, count=None)]
        files = run(tmp_path, roi, items, until="items", download=BRIEF, **FEBRUARY)
    listed = manifest(files, "sentinel2")
    assert decided(files) == [(0, "bucket"), (1000, "pixels")]
    assert not any(item.boa_offset_unconfirmed for item in listed.items)
    (warning,) = (text for text in listed.warnings if items[0]["id"] in text)
    assert "the pixels do not decide it" in warning and items[1]["id"] not in warning


def test_overview_reads_few_pixels_of_a_large_file(tmp_path: Path) -> None:
    values = np.arange(1200 * 1200, dtype=np.uint32).reshape(1200, 1200) % 9000
    bands = np.broadcast_to(values[..., None], (1200, 1200, 10)).astype(np.uint16)
    item = optical(tmp_path / "a", "2021-06-05T10:00:00", bands)
    href = item["assets"]["B04"]["href"]
    with Reader(lambda url, fresh=False: None) as reader:  # type: ignore[arg-type, return-value]
        image = reader.overview(Asset("x", "B04", href))
        assert max(image.shape) <= OVERVIEW_EDGE
        assert image.shape == (400, 400)
        assert reader.overview(Asset("x", "B04", href), (7, 9)).shape == (7, 9)


@pytest.mark.parametrize(
    ("asset", "offset"),
    [({}, None), ({"raster:bands": [{"scale": 1}]}, None), ({"raster:offset": 0}, 0.0),
     ({"raster:bands": [{"offset": -0.1}]}, -0.1), ({"bands": [{"raster:offset": -1000}]}, -1000.0),
     ({"raster:bands": [{"offset": "x"}]}, None), ({"raster:bands": None}, None)],
)  # fmt: skip
def test_offset_that_an_asset_states(asset: dict[str, Any], offset: float | None) -> None:
    assert declared_offset(asset) == offset
