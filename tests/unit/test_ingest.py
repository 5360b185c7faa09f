"""From scenes to stacks: small COGs as input, every pixel of the stacks is checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from tessera_flow.block_file import open_block_file
from tessera_flow.demo.archive import write_sentinel2_scene
from tessera_flow.errors import ItemError, ReadError
from tessera_flow.inference.tile import read_patch
from tessera_flow.sensors.sentinel1 import power_to_scaled_decibels
from tessera_flow.sensors.sentinel2 import BANDS

from ..support.pipeline import (
    CRS,
    ORIGIN,
    configuration,
    ingest,
    manifest,
    stacked,
    utc,
    write_box,
    write_polygon,
)
from ..support.scenes import SIZES, optical, radar

LEFT, TOP = ORIGIN
SHAPE = (40, 50)
BAND = np.arange(10, dtype=np.uint16)


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    """Exactly the 50 x 40 pixels of the scenes."""
    return write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)


def s2_only(tmp_path: Path, roi: Path, items: list, start="2021-06-01", end="2021-06-30", **kw):
    return configuration(tmp_path, roi, items, start, end, sentinel1={"enabled": False}, **kw)


def test_pixels_of_one_scene_are_unchanged_and_in_band_order(tmp_path: Path, roi: Path) -> None:
    rng = np.random.default_rng(0)
    bands = rng.integers(1, 10_000, (*SHAPE, 10)).astype(np.uint16)
    scl = rng.choice([4, 5, 6, 7, 10, 11, 0, 1, 2, 3, 8, 9], SHAPE).astype(np.uint8)
    config = s2_only(tmp_path, roi, [optical(tmp_path / "a", "2021-06-03T10:00:00", bands, scl)])
    stack = stacked(ingest(config), "sentinel2")
    assert stack["dates"] == ["2021-06-03"]
    np.testing.assert_array_equal(stack["bands"][0], bands)
    np.testing.assert_array_equal(stack["masks"][0], np.isin(scl, (4, 5, 6, 7, 10, 11)))


@pytest.mark.parametrize(
    ("sections", "complete"),
    [({}, False), ({"products": {"formats": ["zarr", "tiles"]}}, True), (None, True)],
)
def test_patches_have_values_under_clouds_only_if_somebody_gets_them(
    tmp_path: Path, roi: Path, sections: dict[str, object] | None, complete: bool
) -> None:
    rng = np.random.default_rng(0)
    bands = rng.integers(1, 10_000, (2, *SHAPE, 10)).astype(np.uint16)
    scl = rng.choice([4, 9], (2, *SHAPE)).astype(np.uint8)
    items = [
        optical(tmp_path / "a", f"2021-06-0{day}T10:00:00", bands[n], scl[n])
        for n, day in enumerate((3, 8))
    ]
    config = s2_only(tmp_path, roi, items, **(sections or {}))
    if sections is None:
        paths = config.paths.model_copy(update={"keep": ["patches"]})
        config = config.model_copy(update={"paths": paths})
    layout = ingest(config)
    patches = layout.paths.patches.format(region="here", period="then", block="b000_000")
    with open_block_file(patches) as group:
        assert ("bands" in group["0_0"]) == complete
        found = read_patch(group["0_0"], "patch").bands_of(slice(0, SHAPE[0]))
    if not complete:
        valid = scl == 4
        bands[~(valid | ~valid.any(axis=0))] = 0
    np.testing.assert_array_equal(found, bands)


def test_first_valid_item_of_a_day_supplies_all_bands(tmp_path: Path, roi: Path) -> None:
    """Items are ordered by datetime, cloud cover (100 if missing) and id; one per pixel."""
    cloudy = np.full(SHAPE, 4, np.uint8)
    cloudy[:, 25:] = 9
    cloudy[:, 45:] = 0
    second = np.full(SHAPE, 4, np.uint8)
    second[:10] = 8
    items = [
        optical(tmp_path / "a", "2021-06-03T10:20:00", 3000, 4, mgrs_tile="31UFV"),
        optical(tmp_path / "a", "2021-06-03T10:00:00", 1000, cloudy, mgrs_tile="31UFT"),
        optical(tmp_path / "a", "2021-06-03T10:10:00", 2000, second, mgrs_tile="31UFU"),
    ]
    stack = stacked(ingest(s2_only(tmp_path, roi, items)), "sentinel2")
    expected = np.full(SHAPE, 1000)
    expected[:, 25:] = 2000
    expected[:10, 25:] = 3000
    np.testing.assert_array_equal(stack["bands"][0], expected[..., None] + BAND)
    assert stack["masks"].all()


def test_items_of_the_same_time_are_ordered_by_cloud_cover_and_id(
    tmp_path: Path, roi: Path
) -> None:
    at = "2021-06-03T10:00:00"
    items = [
        optical(tmp_path / "a", at, 1000, mgrs_tile="31UFT", cloud_cover=None),
        optical(tmp_path / "a", at, 2000, mgrs_tile="31UFU", cloud_cover=20.0),
        optical(tmp_path / "a", at, 3000, mgrs_tile="31UFV", cloud_cover=10.0),
        optical(tmp_path / "a", at, 4000, mgrs_tile="31UFA", cloud_cover=20.0),
    ]
    layout = ingest(s2_only(tmp_path, roi, items))
    stack = stacked(layout, "sentinel2")
    np.testing.assert_array_equal(stack["bands"][0, 0, 0], 3000 + BAND)
    order = [item.id for item in manifest(layout, "sentinel2").items]
    assert [i.split("_T")[1][:5] for i in order] == ["31UFV", "31UFA", "31UFU", "31UFT"]


def test_pixels_without_a_valid_item_use_the_first_item_with_data(
    tmp_path: Path, roi: Path
) -> None:
    scl = np.full(SHAPE, 4, np.uint8)
    scl[0, :] = 9
    first = np.broadcast_to(1000 + BAND, (*SHAPE, 10)).copy()
    first[0, :20] = 0
    items = [
        optical(tmp_path / "a", "2021-06-03T10:00:00", first, scl, mgrs_tile="31UFT"),
        optical(tmp_path / "a", "2021-06-03T10:10:00", 2000, 3, mgrs_tile="31UFU"),
    ]
    stack = stacked(ingest(s2_only(tmp_path, roi, items)), "sentinel2")
    np.testing.assert_array_equal(stack["masks"][0, 0], 0)
    np.testing.assert_array_equal(stack["bands"][0, 0, :20], np.tile(2000 + BAND, (20, 1)))
    np.testing.assert_array_equal(stack["bands"][0, 0, 20:], np.tile(1000 + BAND, (30, 1)))
    np.testing.assert_array_equal(stack["bands"][0, 1:], np.broadcast_to(1000 + BAND, (39, 50, 10)))


def test_offset_of_each_item_depends_on_its_baseline(tmp_path: Path, roi: Path) -> None:
    """On one day, one item with the offset and one without; SCL selects the pixels of each."""
    left = np.full(SHAPE, 4, np.uint8)
    left[:, 25:] = 9
    dn = np.broadcast_to(2000 + BAND, (*SHAPE, 10)).copy()
    dn[0, 30] = 0
    dn[0, 31] = 1
    dn[0, 32] = 999
    dn[0, 33] = 1000
    dn[0, 34] = 1001
    dn[0, 35] = 1002
    items = [
        optical(tmp_path / "a", "2022-02-03T10:00:00", 2000, left, baseline="03.01"),
        optical(tmp_path / "a", "2022-02-03T10:01:00", dn, 4, baseline="04.00", mgrs_tile="31UFU"),
    ]
    config = s2_only(tmp_path, roi, items, "2022-02-01", "2022-02-28")
    stack = stacked(ingest(config), "sentinel2")
    np.testing.assert_array_equal(stack["bands"][0, 0, 0], 2000 + BAND)
    np.testing.assert_array_equal(stack["bands"][0, 1, 30], 1000 + BAND)
    np.testing.assert_array_equal(stack["bands"][0, 0, 30:36, 0], [0, 1, 1, 1, 1, 2])


def test_as_published_offset_depends_on_the_date_and_keeps_small_numbers(
    tmp_path: Path, roi: Path
) -> None:
    dn = np.broadcast_to(2000 + BAND, (*SHAPE, 10)).copy()
    dn[0, 0], dn[0, 1], dn[0, 2], dn[0, 3] = 0, 999, 1000, 1001
    items = [
        optical(tmp_path / "a", f"2022-01-{day}T10:00:00", dn, 4, baseline=baseline)
        for day, baseline in (("25", "04.00"), ("26", "03.01"))
    ]
    config = s2_only(tmp_path, roi, items, "2022-01-01", "2022-01-31", preprocessing="as_published")
    stack = stacked(ingest(config), "sentinel2")
    np.testing.assert_array_equal(stack["bands"][0], dn)
    np.testing.assert_array_equal(stack["bands"][1, 0, :5, 0], [0, 999, 0, 1, 1000])


def test_20_m_bands_are_bilinear_and_exclude_no_data(tmp_path: Path, roi: Path) -> None:
    """The offset is applied after resampling; zeros of a file without a no-data value are
    excluded (corrected) or included (as published)."""
    coarse = np.full((20, 25), 3000, np.uint16)
    coarse[:, 10] = 5000
    coarse[:, 15:] = 0
    sizes = {"B05": 20.0}
    bands = np.broadcast_to(2000 + BAND, (*SHAPE, 10)).astype(np.uint16)
    item = write_sentinel2_scene(
        tmp_path / "b",
        bands={
            b: coarse if b == "B05" else np.ascontiguousarray(bands[..., i])
            for i, b in enumerate(BANDS)
        },
        scl=np.full(SHAPE, 4, np.uint8),
        crs=CRS, origin=ORIGIN, datetime=utc("2022-02-03T10:00:00"), mgrs_tile="31UFT",
        pixel_sizes=SIZES | sizes, baseline="04.00",
    )  # fmt: skip
    exact = ingest(s2_only(tmp_path / "x", roi, [item], "2022-02-01", "2022-02-28"))
    row = stacked(exact, "sentinel2")["bands"][0, 20, :, BANDS.index("B05")]
    # GDAL gives no data where the 20 m pixel itself is no data.
    # Column c of the 10 m grid lies at (c + 0.5) / 2 - 0.5 in 20 m columns.
    np.testing.assert_array_equal(row[18:24], [2000, 2500, 3500, 3500, 2500, 2000])
    np.testing.assert_array_equal(row[28:32], [2000, 2000, 0, 0])
    reference = ingest(
        s2_only(
            tmp_path / "y", roi, [item], "2022-02-01", "2022-02-28", preprocessing="as_published"
        )
    )
    row = stacked(reference, "sentinel2")["bands"][0, 20, :, BANDS.index("B05")]
    np.testing.assert_array_equal(row[28:32], [2000, 1250, 750, 0])


def test_day_without_a_valid_pixel_is_dropped_and_last_day_is_included(
    tmp_path: Path, roi: Path
) -> None:
    items = [
        optical(tmp_path / "a", "2021-06-01T00:00:00", 1000),
        optical(tmp_path / "a", "2021-06-10T10:00:00", 2000, 9),
        optical(tmp_path / "a", "2021-06-30T23:59:59", 3000),
        optical(tmp_path / "a", "2021-07-01T00:00:01", 4000),
        optical(tmp_path / "a", "2021-05-31T23:59:59", 5000),
    ]
    layout = ingest(s2_only(tmp_path, roi, items))
    with open_block_file(layout.stack_files("here", "then", "b000_000")["sentinel2"]) as group:
        assert group.attrs["dates"] == ["2021-06-01", "2021-06-30"]
        assert group.attrs["scenes"] == 3
        np.testing.assert_array_equal(group["doys"][:], [152, 181])
        assert group["doys"].dtype == np.uint16
        np.testing.assert_array_equal(group["bands"][:, 0, 0, 0], [1000, 3000])


def test_dates_stay_in_order_across_the_year_end(tmp_path: Path, roi: Path) -> None:
    items = [
        optical(tmp_path / "a", "2024-01-02T10:00:00", 3000),
        optical(tmp_path / "a", "2023-12-30T10:00:00", 1000),
        optical(tmp_path / "a", "2024-12-31T10:00:00", 5000),
        optical(tmp_path / "a", "2023-12-31T10:00:00", 2000),
    ]
    layout = ingest(s2_only(tmp_path, roi, items, "2023-07-01", "2024-12-31"))
    with open_block_file(layout.stack_files("here", "then", "b000_000")["sentinel2"]) as group:
        np.testing.assert_array_equal(group["doys"][:], [364, 365, 2, 366])
        np.testing.assert_array_equal(group["bands"][:, 0, 0, 0], [1000, 2000, 3000, 5000])


def test_cloudy_days_give_an_empty_stack_and_empty_patches(tmp_path: Path, roi: Path) -> None:
    items = [optical(tmp_path / "a", "2021-06-03T10:00:00", 1000, 9)]
    layout = ingest(s2_only(tmp_path, roi, items))
    patches = layout.paths.patches.format(region="here", period="then", block="b000_000")
    with open_block_file(patches) as group:
        patch = group["0_0"]
        assert patch["needed_bands"].shape == (0, 10)
        assert patch["masks"].shape == (0, 40, 50)
        assert patch["doys"].shape == (0,)
        assert patch["sar_ascending"].shape == (0, 40, 50, 2)
        assert patch["sar_descending_doy"].shape == (0,)
        assert patch["roi"][:].all()


def test_pixels_outside_the_region_are_zero_everywhere(tmp_path: Path) -> None:
    triangle = shapely.Polygon([(LEFT, TOP), (LEFT + 405, TOP), (LEFT, TOP - 405)])
    roi = write_polygon(tmp_path / "roi.geojson", triangle)
    items = [
        optical(tmp_path / "a", "2021-06-03T10:00:00", 1000),
        radar(tmp_path / "a", "2021-06-04T06:00:00", 0.1, 0.02),
    ]
    layout = ingest(configuration(tmp_path, roi, items, "2021-06-01", "2021-06-30"))
    rows, columns = np.mgrid[:41, :41]
    inside = (rows + 0.5) + (columns + 0.5) < 40.5
    inside &= rows < 40  # the end of the scenes
    s2, s1 = stacked(layout, "sentinel2"), stacked(layout, "sentinel1")
    np.testing.assert_array_equal(s2["masks"][0].astype(bool), inside)
    np.testing.assert_array_equal(s2["bands"][0].any(axis=-1), inside)
    np.testing.assert_array_equal(s1["sar_ascending"][0].any(axis=-1), inside)


def test_orbits_are_split_and_mosaicked_by_day_first_non_zero_per_channel(
    tmp_path: Path, roi: Path
) -> None:
    half = np.full(SHAPE, 0.1)
    half[:, 30:] = -32768
    zero_vh = np.full(SHAPE, 0.02)
    zero_vh[:20] = 0
    items = [
        radar(tmp_path / "a", "2021-06-04T17:30:25", 0.4, 0.05, platform="SENTINEL-1B"),
        radar(tmp_path / "a", "2021-06-04T17:30:00", half, zero_vh),
        radar(tmp_path / "a", "2021-06-04T05:30:00", 0.2, 0.03, "descending"),
        radar(tmp_path / "a", "2021-06-16T05:30:00", 0.3, 0.04, "descending"),
        radar(tmp_path / "a", "2021-06-20T05:30:00", 0.0, 0.0, "descending"),
        radar(tmp_path / "a", "2021-06-21T05:30:00", 0.3, None, "descending"),
    ]
    config = configuration(
        tmp_path, roi, [*items, optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)],
        "2021-06-01", "2021-06-30",
    )  # fmt: skip
    layout = ingest(config)
    s1 = stacked(layout, "sentinel1")
    assert s1["ascending_dates"] == ["2021-06-04"]
    assert s1["descending_dates"] == ["2021-06-04", "2021-06-16"]

    def dn(power: float) -> int:
        return int(power_to_scaled_decibels(np.array([power], np.float32))[0])

    vv = np.full(SHAPE, dn(0.1))
    vv[:, 30:] = dn(0.4)
    vh = np.full(SHAPE, dn(0.02))
    vh[:20] = dn(0.05)
    np.testing.assert_array_equal(s1["sar_ascending"][0, ..., 0], vv)
    np.testing.assert_array_equal(s1["sar_ascending"][0, ..., 1], vh)
    np.testing.assert_array_equal(
        s1["sar_descending"][:, 3, 3], [[dn(0.2), dn(0.03)], [dn(0.3), dn(0.04)]]
    )
    left_out = manifest(layout, "sentinel1").left_out
    assert [reason for _, reason in left_out] == [
        "has no VH (its assets are vv, tilejson, rendered_preview)"
    ]
    with open_block_file(layout.stack_files("here", "then", "b000_000")["sentinel1"]) as group:
        np.testing.assert_array_equal(group["sar_descending_doy"][:], [155, 167])
        assert group["sar_descending_doy"].dtype == np.int16


def test_one_orbit_only(tmp_path: Path, roi: Path) -> None:
    items = [
        radar(tmp_path / "a", "2021-06-04T17:30:00", 0.1, 0.02),
        radar(tmp_path / "a", "2021-06-04T05:30:00", 0.2, 0.03, "descending"),
        optical(tmp_path / "a", "2021-06-03T10:00:00", 1000),
    ]
    config = configuration(
        tmp_path, roi, items, "2021-06-01", "2021-06-30", sentinel1={"orbits": "descending"}
    )
    layout = ingest(config)
    with open_block_file(layout.stack_files("here", "then", "b000_000")["sentinel1"]) as group:
        assert group["sar_ascending"].shape == (0, 40, 50, 2)
        assert group["sar_descending"].shape == (1, 40, 50, 2)
    assert [r for _, r in manifest(layout, "sentinel1").left_out] == [
        "is ascending, but sentinel1.orbits is descending"
    ]


def test_only_the_newest_baseline_of_an_acquisition_is_used(tmp_path: Path, roi: Path) -> None:
    """Duplicates by reprocessing have the same datatake and tile; their times can differ."""
    items = [
        optical(tmp_path / "a", "2021-06-03T10:00:00", 1000, 9, baseline="03.01"),
        optical(tmp_path / "a", "2021-06-03T10:00:00", 3000, 4, baseline="05.00",
                generation=utc("2023-01-05T00:00:00")),
    ]  # fmt: skip
    items[1]["properties"]["datetime"] = "2021-06-03T10:04:00Z"
    layout = ingest(s2_only(tmp_path, roi, items))
    kept = manifest(layout, "sentinel2")
    assert [item.id for item in kept.items] == [items[1]["id"]]
    assert kept.left_out == ((items[0]["id"], f"older duplicate of {items[1]['id']}"),)
    np.testing.assert_array_equal(stacked(layout, "sentinel2")["bands"][0, 0, 0], 2000 + BAND)


def test_scenes_above_the_cloud_limit_are_left_out_and_recorded(tmp_path: Path, roi: Path) -> None:
    items = [
        optical(tmp_path / "a", "2021-06-03T10:00:00", 1000, cloud_cover=30.0),
        optical(tmp_path / "a", "2021-06-04T10:00:00", 2000, cloud_cover=30.5),
        optical(tmp_path / "a", "2021-06-05T10:00:00", 3000, cloud_cover=None),
    ]
    layout = ingest(s2_only(tmp_path, roi, items, sentinel2={"max_cloud": 30.0}))
    assert stacked(layout, "sentinel2")["dates"] == ["2021-06-03", "2021-06-05"]
    assert manifest(layout, "sentinel2").left_out == (
        (items[1]["id"], "cloud cover 30.5 % is above max_cloud 30.0 %"),
    )


def test_downsampling_keeps_every_nth_pixel(tmp_path: Path, roi: Path) -> None:
    bands = np.arange(1, 40 * 50 * 10 + 1).reshape(40, 50, 10).astype(np.uint16)
    item = optical(tmp_path / "a", "2021-06-03T10:00:00", bands)
    config = s2_only(tmp_path, roi, [item], grid={"block_size": 21, "downsample_rate": 3})
    layout = ingest(config)
    stack = stacked(layout, "sentinel2")
    np.testing.assert_array_equal(stack["bands"][0], bands[::3, ::3])
    geobox = layout.grids["here"].product_geobox
    assert geobox.shape == (14, 17)
    assert geobox.affine @ (0.5, 0.5) == (LEFT + 5, TOP - 5)


def test_unreadable_scl_fails_and_names_item_and_asset(tmp_path: Path, roi: Path) -> None:
    item = optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)
    Path(item["assets"]["SCL"]["href"]).unlink()
    with pytest.raises(ReadError, match=f"asset SCL of item {item['id']}"):
        ingest(s2_only(tmp_path, roi, [item]))


def test_truncated_band_fails_and_leaves_no_output(tmp_path: Path, roi: Path) -> None:
    rng = np.random.default_rng(0)
    item = optical(tmp_path / "a", "2021-06-03T10:00:00",
                   rng.integers(1, 9000, (*SHAPE, 10)).astype(np.uint16))  # fmt: skip
    path = Path(item["assets"]["B11"]["href"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ReadError, match="asset B11"):
        ingest(s2_only(tmp_path, roi, [item]))
    assert not [p for p in (tmp_path / "work").rglob("slices/**/*") if p.is_file()]


def test_block_without_a_scene_is_an_error_or_nodata(tmp_path: Path) -> None:
    roi = write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 2000, TOP)
    items = [optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)]
    grid = {"block_size": 100}
    with pytest.raises(ItemError, match=r"Block b000_001 .*no sentinel2 scene.*on_empty_block"):
        ingest(s2_only(tmp_path, roi, items, grid=grid))
    layout = ingest(s2_only(tmp_path, roi, items, grid=grid, download={"on_empty_block": "nodata"}))
    patches = layout.paths.patches.format(region="here", period="then", block="b000_001")
    with open_block_file(patches) as group:
        assert group["0_0"]["needed_bands"].shape[0] == group["0_0"]["masks"].shape[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"period": ("2019-01-01", "2019-12-31")}, "No Sentinel-2 scene covers region here"),
        ({"offset": 100_000}, "are outside the region or the period"),
        ({"period": ("2190-01-01", "2190-12-31")}, "; the period is in the future"),
        (
            {"radar": False, "least": 1},
            r"No Sentinel-1 scene covers region here.*1 are of other collections \(.*sentinel-2-l2a"
            r".*\), but model\.min_observations\.s1 is 1: .*or set it to 0",
        ),
    ],
)
def test_search_without_a_result_is_explained(tmp_path: Path, change: dict, message: str) -> None:
    left = LEFT + change.get("offset", 0)
    roi = write_box(tmp_path / "roi.geojson", left, TOP - 400, left + 500, TOP)
    items = [optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)]
    if change.get("radar", True):
        items.append(radar(tmp_path / "a", "2021-06-04T06:00:00", 0.1, 0.02))
    start, end = change.get("period", ("2021-06-01", "2021-06-30"))
    model = {"min_observations": {"s1": change.get("least", 0)}}
    with pytest.raises(ItemError, match=message):
        ingest(configuration(tmp_path, roi, items, start, end, model=model), until="items")


def test_item_without_datetime_is_recorded_as_left_out(tmp_path: Path, roi: Path) -> None:
    """STAC allows null with a start and an end; such a scene must not be dropped silently."""
    items = [optical(tmp_path / "a", f"2021-06-0{day}T10:00:00", 1000) for day in (3, 4)]
    items[1]["properties"] |= {"datetime": None, "start_datetime": "2021-06-04T10:00:00Z"}
    kept = manifest(ingest(s2_only(tmp_path, roi, items), until="items"), "sentinel2")
    assert [item.id for item in kept.items] == [items[0]["id"]]
    assert kept.left_out == ((items[1]["id"], "has no datetime, so its day is unknown"),)


@pytest.mark.parametrize("cover", ["80", "n/a", None, float("nan")])
def test_cloud_cover_that_is_not_a_number_counts_as_missing(
    tmp_path: Path, roi: Path, cover: object
) -> None:
    items = [optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)]
    items[0]["properties"]["eo:cloud_cover"] = cover
    config = s2_only(tmp_path, roi, items, sentinel2={"max_cloud": 50.0})
    if cover == "80":
        with pytest.raises(ItemError, match=r"cloud cover 80.0 % is above max_cloud 50.0 %"):
            ingest(config, until="items")
    else:
        assert len(manifest(ingest(config, until="items"), "sentinel2").items) == 1


def test_baseline_can_come_from_the_product_name(tmp_path: Path, roi: Path) -> None:
    item = optical(tmp_path / "a", "2022-02-03T10:00:00", 2000, baseline="04.00")
    del item["properties"]["s2:processing_baseline"]
    config = s2_only(tmp_path, roi, [item], "2022-02-01", "2022-02-28")
    np.testing.assert_array_equal(
        stacked(ingest(config), "sentinel2")["bands"][0, 0, 0], 1000 + BAND
    )
    del item["properties"]["s2:product_uri"]
    config = s2_only(tmp_path, roi, [item], "2022-02-01", "2022-02-28")
    with pytest.raises(
        ItemError, match=r"does not state its processing baseline.*preprocessing: as_pub"
    ):
        ingest(config, until="items")


def test_items_of_other_collections_are_mentioned(tmp_path: Path, roi: Path) -> None:
    items = [optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)]
    config = s2_only(tmp_path, roi, items, sentinel2={"collection": "sentinel-2-c1-l2a"})
    with pytest.raises(ItemError, match="1 are of other collections"):
        ingest(config, until="items")


def test_orbit_direction_in_capitals(tmp_path: Path, roi: Path) -> None:
    items = [
        optical(tmp_path / "a", "2021-06-03T10:00:00", 1000),
        radar(tmp_path / "a", "2021-06-04T06:00:00", 0.1, 0.02),
        radar(tmp_path / "a", "2021-06-05T06:00:00", 0.1, 0.02),
    ]
    items[1]["properties"]["sat:orbit_state"] = "ASCENDING"
    items[2]["properties"]["sat:orbit_state"] = "sideways"
    config = configuration(tmp_path, roi, items, "2021-06-01", "2021-06-30")
    kept = manifest(ingest(config, until="items"), "sentinel1")
    assert [item.orbit for item in kept.items] == ["ascending"]
    assert [r for _, r in kept.left_out] == [
        "has no orbit direction (sat:orbit_state is 'sideways')"
    ]


def test_projection_fields_and_roles_do_not_decide_what_is_read(tmp_path: Path, roi: Path) -> None:
    item = optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)
    item["properties"]["proj:epsg"] = None
    for asset in item["assets"].values():
        asset |= {"roles": ["metadata"], "type": "application/x-unknown"}
    stack = stacked(ingest(s2_only(tmp_path, roi, [item])), "sentinel2")
    np.testing.assert_array_equal(stack["bands"][0, 0, 0], 1000 + BAND)


def rewrite(item: dict, band: str, values: np.ndarray, **options: object) -> None:
    path = item["assets"][band]["href"]
    with rasterio.open(path) as dataset:
        profile = {k: dataset.profile[k] for k in ("crs", "transform", "height", "width")}
    profile |= {"driver": "GTiff", "count": 1, "dtype": values.dtype, **options}
    Path(path).unlink()
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(values, 1)


@pytest.mark.parametrize(
    ("band", "dtype", "value"),
    [
        ("B04", "int16", -5),
        ("B04", "uint32", 70_000),
        ("B04", "float32", 500.9),
        ("SCL", "uint16", 260),
    ],
)
def test_pixels_out_of_range_of_the_dtype_are_an_error(
    tmp_path: Path, roi: Path, band: str, dtype: str, value: float
) -> None:
    item = optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)
    rewrite(item, band, np.full(SHAPE, value, dtype))
    with pytest.raises(ReadError, match=f"asset {band} of item .*has {dtype} values"):
        ingest(s2_only(tmp_path, roi, [item]))


def test_pixels_of_another_dtype_are_converted(tmp_path: Path, roi: Path) -> None:
    item = optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)
    rewrite(item, "B04", np.full(SHAPE, 4321, np.int16))
    stack = stacked(ingest(s2_only(tmp_path, roi, [item])), "sentinel2")
    assert (stack["bands"][0, ..., 0] == 4321).all()


def test_no_data_value_other_than_0_is_not_interpolated(tmp_path: Path, roi: Path) -> None:
    """GDAL supports one no-data value; with another one, zeros would enter the mean."""
    bands = {b: np.full(SHAPE, 500, np.uint16) for b in BANDS}
    bands["B05"] = np.full((20, 25), 500, np.uint16)
    item = write_sentinel2_scene(
        tmp_path / "a", bands=bands, scl=np.full(SHAPE, 4, np.uint8), crs=CRS, origin=ORIGIN,
        datetime=utc("2021-06-03T10:00:00"), mgrs_tile="31UFT",
        pixel_sizes=SIZES | {"B05": 20.0}, baseline="03.01",
    )  # fmt: skip
    rewrite(item, "B05", bands["B05"], nodata=65535)
    with pytest.raises(ReadError, match=r"declares 65535 as no data, but .* 0 is no data"):
        ingest(s2_only(tmp_path, roi, [item]))
