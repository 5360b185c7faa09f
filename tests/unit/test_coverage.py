"""Warnings about what a list of scenes lacks, and runs that continue without a sensor."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_flow.block_file import get_array, open_block_file
from tessera_flow.config.sections import Period, Sentinel1, Sentinel2
from tessera_flow.errors import ItemError
from tessera_flow.scenes.coverage import coverage_warnings
from tessera_flow.scenes.manifest import SourceItem
from tessera_flow.scenes.publication import period_warning

from ..support.pipeline import ORIGIN, configuration, ingest, manifest, write_box
from ..support.scenes import optical, radar

LEFT, TOP = ORIGIN
LATER = dt.date(2030, 1, 1)


def period(start: str, end: str) -> Period:
    return Period.model_validate({"start": start, "end": end})


def scenes(*days: str, orbits: tuple[str, ...] = ("ascending", "descending")) -> list[SourceItem]:
    return [
        SourceItem(f"S{number}", dt.date.fromisoformat(day), None, 0, orbits[number % len(orbits)],
                   {})
        for number, day in enumerate(days)
    ]  # fmt: skip


def warnings(
    items: list[SourceItem],
    left_out: tuple[tuple[str, str], ...] = (),
    orbits: str = "both",
    start: str = "2022-01-01",
    end: str = "2022-12-31",
    today: dt.date = LATER,
    sensor: str = "sentinel1",
) -> list[str]:
    return coverage_warnings(
        sensor, items, left_out, "sentinel-1-rtc", "3 items of the search are outside",
        period(start, end), orbits, 30, today,
    )  # fmt: skip


YEAR = [f"2022-{month:02d}-{day:02d}" for month in range(1, 13) for day in (3, 9)]


def test_complete_list_has_no_warning() -> None:
    assert warnings(scenes(*YEAR)) == []


def test_list_without_scenes_says_whether_any_exist() -> None:
    assert warnings([]) == [
        "No Sentinel-1 scene of the region and period exists in collection sentinel-1-rtc (3 items "
        "of the search are outside). The embeddings are computed without Sentinel-1."
    ]
    left_out = (("A", "has no VH"), ("B", "has no VH"), ("C", "is sigma0"))
    assert warnings([], left_out) == [
        "No Sentinel-1 scene can be used: all 3 of the region and period were left out (has no VH; "
        "is sigma0). The embeddings are computed without Sentinel-1."
    ]


def test_one_direction_only() -> None:
    """Since Sentinel-1B was lost, many regions have one direction."""
    ascending = scenes(*YEAR, orbits=("ascending",))
    assert warnings(ascending) == ["All Sentinel-1 scenes (24) are ascending: none is descending."]
    assert warnings(ascending, orbits="ascending") == []


def test_months_without_scenes_are_named() -> None:
    days = [day for day in YEAR if day[5:7] not in ("01", "05", "06", "12")]
    assert warnings(scenes(*days)) == [
        "There is no Sentinel-1 scene in 2022-01, 2022-05 to 2022-06, 2022-12."
    ]
    one_orbit = scenes(*days, orbits=("ascending",))
    assert warnings(one_orbit, sensor="sentinel2", start="2022-04-01", end="2022-06-30") == [
        "There is no Sentinel-2 scene in 2022-05 to 2022-06."
    ]


def test_incomplete_months_at_the_ends_do_not_count() -> None:
    assert warnings(scenes("2022-02-03", "2022-02-09"), start="2022-01-31", end="2022-03-30") == []
    assert warnings(scenes("2021-12-03", "2022-01-09"), start="2021-11-15", end="2022-02-28") == [
        "There is no Sentinel-1 scene in 2022-02."
    ]


def test_months_that_are_not_over_do_not_count() -> None:
    texts = warnings(scenes(*YEAR[:4]), today=dt.date(2022, 4, 30))
    assert texts[1:] == ["There is no Sentinel-1 scene in 2022-03."]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("2022-09-01", "The period is not over: it ends on 2022-09-01, which is in the future. "),
        ("2022-06-15", "The period is not over: it ends on 2022-06-15. "),
        ("2022-06-14", "The period ended on 2022-06-14, and Sentinel-1 scenes can be published 30"),
        ("2022-05-17", "The period ended on 2022-05-17, and Sentinel-1 scenes can be published 30"),
        ("2022-05-16", ""),
    ],
)
def test_period_that_is_not_over_or_just_over(end: str, expected: str) -> None:
    arguments = ("sentinel1", period("2022-01-01", end), 30, dt.date(2022, 6, 15))
    listed, planned = (period_warning(*arguments, listed) for listed in (True, False))
    if not expected:
        assert listed == planned == ""
        return
    kept = "and then kept: to include later scenes, run again with `--forcerun items`."
    assert listed.startswith(expected)
    assert listed.endswith(f"The list of Sentinel-1 scenes was made on 2022-06-15 {kept}")
    assert planned.startswith(expected)
    assert planned.endswith(f"The list of Sentinel-1 scenes is made by the first run {kept}")


def test_period_that_has_not_started() -> None:
    """Such as 2032 in place of 2023."""
    year = period("2032-01-01", "2032-12-31")
    text = period_warning("sentinel2", year, 30, dt.date(2022, 6, 15))
    start = "The period has not started: its first day, 2032-01-01, is in the future."
    assert text.startswith(start)


def test_delay_depends_on_the_archive() -> None:
    local = {"provider": "local", "location": "items.json"}
    assert Sentinel1.model_validate({"provider": "opera"}).publication_delay == 30
    assert Sentinel1.model_validate(local | {"item_format": "opera"}).publication_delay == 30
    assert Sentinel2.model_validate(local).publication_delay == 7
    assert Sentinel2.model_validate({"provider": "earth-search"}).publication_delay == 7


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    return write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)


def run(folder: Path, roi: Path, items: list[Any], least: tuple[int, int], **sections: Any) -> Any:
    model = {"min_observations": {"s2": least[0], "s1": least[1]}}
    return ingest(
        configuration(folder, roi, items, "2021-06-01", "2021-06-30", model=model, **sections)
    )


def patch(layout: Any) -> dict[str, tuple[int, ...]]:
    path = layout.paths.patches.format(region="here", period="then", block="b000_000")
    with open_block_file(path) as group:
        return {name: get_array(group["0_0"], name).shape for name in group["0_0"]}


def test_region_without_radar_has_empty_radar_streams(tmp_path: Path, roi: Path) -> None:
    items = [optical(tmp_path / "a", "2021-06-03T10:00:00", 1000)]
    layout = run(tmp_path, roi, items, (1, 0))
    (warning,) = manifest(layout, "sentinel1").warnings
    assert warning.startswith("No Sentinel-1 scene of the region and period exists")
    shapes = patch(layout)
    assert (shapes["masks"], shapes["needed_bands"]) == ((1, 40, 50), (2000, 10))
    assert shapes["sar_ascending"] == shapes["sar_descending"] == (0, 40, 50, 2)
    assert shapes["sar_ascending_doy"] == shapes["sar_descending_doy"] == (0,)


def test_region_without_optical_scenes_has_an_empty_optical_stream(
    tmp_path: Path, roi: Path
) -> None:
    items = [radar(tmp_path / "a", "2021-06-04T06:00:00", 0.1, 0.02)]
    layout = run(tmp_path, roi, items, (0, 1))
    (warning,) = manifest(layout, "sentinel2").warnings
    assert warning.startswith("No Sentinel-2 scene of the region and period exists")
    assert manifest(layout, "sentinel1").warnings == (
        "All Sentinel-1 scenes (1) are ascending: none is descending.",
    )
    shapes = patch(layout)
    assert (shapes["masks"], shapes["needed_bands"], shapes["doys"]) == (
        (0, 40, 50), (0, 10), (0,),
    )  # fmt: skip
    assert shapes["sar_ascending"] == (1, 40, 50, 2)


def test_block_without_radar_is_logged(
    tmp_path: Path, roi: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Radar covers only the first of two blocks."""
    roi = write_box(tmp_path / "wide.geojson", LEFT, TOP - 400, LEFT + 3000, TOP)
    items = [
        optical(tmp_path / "a", "2021-06-03T10:00:00", np.full((40, 300, 10), 1000, np.uint16)),
        radar(tmp_path / "a", "2021-06-04T06:00:00", 0.1, 0.02),
    ]
    layout = run(tmp_path, roi, items, (1, 0), grid={"block_size": 150})
    assert len(layout.grids["here"].blocks) == 2
    assert caplog.text.count("no sentinel1 scene covers this block in the period") == 1


def test_region_without_any_scene_is_an_error_of_its_blocks(tmp_path: Path, roi: Path) -> None:
    with pytest.raises(ItemError, match="covered by no sentinel2 and no sentinel1 scene"):
        run(tmp_path, roi, [], (0, 0))


def test_radar_that_cannot_be_used_is_not_called_absent(tmp_path: Path, roi: Path) -> None:
    items = [
        optical(tmp_path / "a", "2021-06-03T10:00:00", 1000),
        radar(tmp_path / "a", "2021-06-04T06:00:00", 0.1, 0.02),
    ]
    del items[1]["assets"]["vh"]
    listed = manifest(run(tmp_path / "x", roi, items, (1, 0)), "sentinel1")
    reason = "has no VH (its assets are vv, tilejson, rendered_preview)"
    assert listed.left_out == ((items[1]["id"], reason),)
    assert listed.warnings[0].startswith("No Sentinel-1 scene can be used: all 1 of the region")
    with pytest.raises(
        ItemError, match=r"since all 1 were left out \(has no VH .*\), for region here"
    ):
        run(tmp_path / "y", roi, items, (1, 1))


def test_items_without_any_direction_are_refused(tmp_path: Path, roi: Path) -> None:
    """All radar would be lost by an omission in the items, which the user can correct."""
    items = [
        optical(tmp_path / "a", "2021-06-03T10:00:00", 1000),
        radar(tmp_path / "a", "2021-06-04T06:00:00", 0.1, 0.02),
    ]
    del items[1]["properties"]["sat:orbit_state"]
    with pytest.raises(
        ItemError, match=rf"state no orbit direction, .*{items[1]['id']}: add `sat:orbit_state`"
    ):
        run(tmp_path / "x", roi, items, (1, 0))


def test_the_only_sensor_is_required(tmp_path: Path, roi: Path) -> None:
    with pytest.raises(ItemError, match=r"No Sentinel-1 scene .*sentinel1 is the only sensor in"):
        run(tmp_path, roi, [], (0, 0), sentinel2={"enabled": False})
