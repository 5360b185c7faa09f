"""Days whose values differ by about 1000 from those of the days around them."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tessera_flow.block_file import open_block_file
from tessera_flow.sensors.levels import DayLevel, Jump, find_jumps
from tessera_flow.sensors.sentinel2 import BANDS

from ..support.pipeline import ORIGIN, configuration, ingest, write_box
from ..support.scenes import optical

REAL = Path(__file__).parents[3] / "shared" / "real" / "tile_31UFS_monthly"
LEFT, TOP = ORIGIN
VISIBLE = [BANDS.index(band) for band in ("B02", "B03", "B04")]
SHORTWAVE = [BANDS.index(band) for band in ("B11", "B12")]

Image = np.ndarray
FIRST = dt.date(2021, 4, 1)


def land(seed: int, day: int) -> Image:
    """Return (60, 60, 10) values of vegetation, soil and a river, greener from day to day."""
    rng = np.random.default_rng(seed)
    means = np.array([500, 400, 700, 2500, 2700, 1000, 2100, 2500, 1900, 1100.0])
    means[[3, 4, 6, 7]] += 15 * day
    image = means * rng.uniform(0.5, 1.6, (60, 60, 1)) + rng.normal(0, 30, (60, 60, 10))
    image[:, 20:24] *= 0.25
    return np.clip(image, 1, 10000)


def too_bright(image: Image) -> Image:
    return image + 1000


def too_dark(image: Image) -> Image:
    return np.maximum(image - 1000, 1)


def snow(image: Image) -> Image:
    """Snow on the southern part: bright in the visible bands, dark in the short-wave ones."""
    result = image.copy()
    result[10:, :, :8] = 6000
    result[10:, :, SHORTWAVE] = 600
    return result


def thin_snow(image: Image) -> Image:
    """A rise of 1000 in the visible bands alone."""
    result = image.copy()
    result[..., VISIBLE] += 1000
    return result


def haze(image: Image) -> Image:
    result = image.copy()
    result[..., VISIBLE] += 500
    return result + 300


def cirrus(image: Image) -> Image:
    """Thin clouds brighten all bands, the dark pixels most."""
    return image * 0.7 + 1050


def cloud_edges(image: Image) -> Image:
    result = image.copy()
    result[:20] += 3000
    return result


def flood(image: Image) -> Image:
    result = image.copy()
    result[15:] *= 0.2
    return np.maximum(result, 1)


def level(day: dt.date, image: Image, valid: Image | None = None) -> DayLevel | None:
    valid = np.ones(image.shape[:2], bool) if valid is None else valid
    return DayLevel.of(day, image.astype(np.uint16), valid)


def series(change: Callable[[int, Image], Image], days: int = 12) -> list[DayLevel]:
    levels = []
    for number in range(days):
        image = change(number, land(number, 5 * number))
        found = level(FIRST + dt.timedelta(days=5 * number), image)
        assert found is not None
        levels.append(found)
    return levels


def on(days: set[int], change: Callable[[Image], Image]) -> Callable[[int, Image], Image]:
    return lambda number, image: change(image) if number in days else image


@pytest.mark.parametrize("days", [{0}, {5}, {11}, {4, 5}, {2, 8}])
@pytest.mark.parametrize(("change", "sign"), [(too_bright, 1), (too_dark, -1)])
def test_days_with_another_offset_are_found(
    days: set[int], change: Callable[[Image], Image], sign: int
) -> None:
    jumps = find_jumps(series(on(days, change)))
    assert {(jump.last - FIRST).days // 5 for jump in jumps} == days
    for jump in jumps:
        assert jump.first == jump.last
        assert 400 <= sign * jump.change <= 1200
        assert ("above" if sign > 0 else "below") in jump.text()
        assert jump.last.isoformat() in jump.text()
        assert Jump.from_json(json.loads(json.dumps(jump.to_json()))) == jump


@pytest.mark.parametrize("first", [1, 3, 6, 9, 11])
def test_change_of_the_offset_within_the_period_is_found(first: int) -> None:
    jumps = find_jumps(series(on(set(range(first, 12)), too_bright)))
    assert len(jumps) == 1
    # With one day on one side, that day is the outlier.
    assert (jumps[0].last - FIRST).days // 5 == (0 if first == 1 else first)
    assert abs(jumps[0].change) == pytest.approx(1000, abs=150)


def test_two_days_are_compared() -> None:
    (jump,) = find_jumps(series(on({1}, too_bright), days=2))
    assert (jump.first, jump.last) == (FIRST, FIRST + dt.timedelta(days=5))
    assert find_jumps(series(on(set(), too_bright), days=2)) == []
    assert find_jumps(series(on(set(), too_bright), days=1)) == find_jumps([]) == []


@pytest.mark.parametrize("change", [snow, thin_snow, haze, cirrus, cloud_edges, flood])
@pytest.mark.parametrize("days", [{5}, {0}, set(range(6, 12))])
def test_nature_is_not_an_offset(change: Callable[[Image], Image], days: set[int]) -> None:
    assert find_jumps(series(on(days, change))) == []


def test_level_of_too_few_pixels_is_unknown() -> None:
    valid = np.zeros((60, 60), bool)
    valid[0, :50] = True
    assert level(FIRST, land(0, 0), valid) is None
    assert level(FIRST, np.zeros((60, 60, 10))) is None


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real pixels at {REAL}")
def test_real_landscape_has_no_jump_until_one_is_made() -> None:
    bands, valid = np.load(REAL / "bands.npy"), np.load(REAL / "masks.npy") > 0
    days = [FIRST + dt.timedelta(days=30 * number) for number in range(len(bands))]

    def jumps(images: Image) -> list[Jump]:
        levels = [level(day, image, v) for day, image, v in zip(days, images, valid, strict=True)]
        return find_jumps([found for found in levels if found])

    assert jumps(bands) == []
    for number in (5, 8, 10):
        for change in (too_bright, too_dark):
            changed = bands.copy()
            changed[number] = change(bands[number].astype(int)) * (bands[number] > 0)
            (jump,) = jumps(changed)
            assert jump.first == jump.last == days[number]


def test_thin_clouds_by_scl_do_not_count(tmp_path: Path) -> None:
    roi = write_box(tmp_path / "roi.geojson", LEFT, TOP - 600, LEFT + 600, TOP)
    items = [
        optical(
            tmp_path / "a", f"2021-{month:02d}-05T10:00:00", land(0, 0) + 1000 * (month == 6),
            scl=10 if month == 6 else 4,
        )
        for month in (4, 5, 6, 7)
    ]  # fmt: skip
    config = configuration(
        tmp_path, roi, items, "2021-04-01", "2021-07-31", sentinel1={"enabled": False}
    )
    files = ingest(config)
    path = files.paths.patches.format(region="here", period="then", block="b000_000")
    with open_block_file(path) as group:
        assert group.attrs["level_jumps"] == []


def test_jump_is_recorded_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The record travels from the slices to the patches; slices are compared with each other."""
    roi = write_box(tmp_path / "roi.geojson", LEFT, TOP - 600, LEFT + 600, TOP)
    items = [
        optical(tmp_path / "a", f"2021-{month:02d}-05T10:00:00", land(0, 0) + 1000 * (month == 6))
        for month in (4, 5, 6, 7)
    ]
    config = configuration(
        tmp_path, roi, items, "2021-04-01", "2021-07-31", sentinel1={"enabled": False},
        download={"slice_months": 1},
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        files = ingest(config)
    text = (
        "2021-06-05: the Sentinel-2 values of all bands are about 1000 above those of the days "
        f"around it ({items[2]['id']})"
    )
    assert text in caplog.text
    path = files.paths.patches.format(region="here", period="then", block="b000_000")
    with open_block_file(path) as group:
        assert group.attrs["level_jumps"] == [
            {
                "first": "2021-06-05",
                "last": "2021-06-05",
                "change": 1000,
                "items": [items[2]["id"]],
            }
        ]
