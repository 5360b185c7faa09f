"""Masks of the months in which a pixel has a valid observation."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import numpy as np
import pytest

from tessera_flow.block_file import create_array, create_block_file, open_block_file
from tessera_flow.dates import complete_months, day_of_year, mask_months, period_months
from tessera_flow.errors import TileError
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import InferenceOptions
from tessera_flow.inference.model import ModelSpec
from tessera_flow.inference.months import PeriodMonths
from tessera_flow.inference.tile import ARRAYS, TileArrays
from tessera_flow.region.grid import tiling

from ..support import golden
from ..support.golden import tile

pytestmark = pytest.mark.usefixtures("one_thread")

Day = datetime.date
START, END = Day(2020, 6, 30), Day(2021, 6, 30)


@pytest.mark.parametrize(
    ("start", "end", "touched", "complete"),
    [
        ("2023-07-01", "2023-07-31", ["2023-07"], ["2023-07"]),
        ("2023-07-02", "2023-07-31", ["2023-07"], []),
        ("2023-11-15", "2024-02-29", ["2023-11", "2023-12", "2024-01", "2024-02"],
         ["2023-12", "2024-01", "2024-02"]),
        ("2023-12-01", "2024-01-30", ["2023-12", "2024-01"], ["2023-12"]),
        ("2023-12-05", "2024-01-30", ["2023-12", "2024-01"], []),
    ],
)  # fmt: skip
def test_months_of_a_period(start: str, end: str, touched: list[str], complete: list[str]) -> None:
    days = Day.fromisoformat(start), Day.fromisoformat(end)
    assert period_months(*days) == touched
    assert complete_months(*days) == complete


@pytest.mark.parametrize(
    ("source", "start", "end", "known"),
    [
        ("scenes", "2020-01-01", "2022-08-31", True),  # 32 months
        ("scenes", "2020-01-01", "2022-09-01", False),
        ("tiles", "2023-07-15", "2024-07-14", False),  # 366 days without 29 February as an extra
        ("tiles", "2023-07-15", "2024-07-12", True),
        ("tiles", "2024-01-01", "2024-12-31", True),
        ("geotessera", "2023-01-01", "2023-12-31", False),
    ],
)
def test_masks_are_made_where_the_month_of_a_step_is_certain(
    source: str, start: str, end: str, known: bool
) -> None:
    days = Day.fromisoformat(start), Day.fromisoformat(end)
    assert mask_months(source, *days) == (period_months(*days) if known else [])


def dates_of(days: np.ndarray) -> list[str]:
    """Return dates of the period START to END with these days of the year."""
    by_day = {day_of_year(START + datetime.timedelta(n)): START + datetime.timedelta(n)
              for n in range(366)}  # fmt: skip
    return [by_day[int(day)].isoformat() for day in days]


def expected_masks(arrays: TileArrays, dates: list[list[str]]) -> np.ndarray:
    """Compute the masks pixel by pixel."""
    valid = [
        arrays.masks == 1,
        (arrays.sar_ascending != 0).any(axis=-1),
        (arrays.sar_descending != 0).any(axis=-1),
    ]
    masks = np.zeros((*arrays.shape, 3), np.uint32)
    for kind, names in enumerate(dates):
        for step, name in enumerate(names):
            day = Day.fromisoformat(name)
            bit = 12 * (day.year - START.year) + day.month - START.month
            if bit >= 0:
                masks[valid[kind][step], kind] |= np.uint32(1 << bit)
    return masks


def series(arrays: TileArrays) -> list[np.ndarray]:
    return [arrays.doys, arrays.sar_ascending_doy, arrays.sar_descending_doy]


def write_patches(path: Path, arrays: TileArrays, dates: list[list[str]] | None) -> None:
    height, width = arrays.shape
    patches = [[w.y0, w.x0, *w.shape] for w in tiling(height, width, 7)]
    attributes = {"shape": [height, width], "patch_size": 7, "patches": patches}
    if dates is not None:
        attributes["dates"] = dict(zip(("sentinel2", "ascending", "descending"), dates,
                                       strict=True))  # fmt: skip
    with create_block_file(path, attributes) as group:
        for y, x, h, w in attributes["patches"]:
            patch = group.create_group(f"{y}_{x}")
            stacks = {key: getattr(arrays, key) for key in ARRAYS}
            cut = {k: a[:, y : y + h, x : x + w] if a.ndim > 2 else a for k, a in stacks.items()}
            for key, data in (cut | {"roi": np.ones((h, w), np.uint8)}).items():
                array = create_array(patch, key, data.shape, data.shape, data.dtype)
                if data.size:
                    array[...] = data


def months_of_block(folder: Path, period: PeriodMonths | None) -> tuple[np.ndarray | None, int]:
    spec = ModelSpec(golden.checkpoint("v2_student_qk"), device="cpu")
    infer_block(folder / "p.zip", folder / "e.zip", spec, InferenceOptions(), {}, period=period)
    with open_block_file(folder / "e.zip") as group:
        masks = group["months"][...] if "months" in group else None
        return masks, group.attrs["steps_outside_period"]


def test_block_has_the_months_of_every_pixel(tmp_path: Path) -> None:
    arrays = tile("main")
    dates = [dates_of(days) for days in series(arrays)]
    write_patches(tmp_path / "p.zip", arrays, dates)
    masks, outside = months_of_block(tmp_path, PeriodMonths.of("scenes", START, END))
    expected = expected_masks(arrays, dates)
    assert masks is not None and masks.dtype == np.uint16 and outside == 0
    assert len(np.unique(expected)) > 5, "the tile must have different months"
    np.testing.assert_array_equal(masks, expected)


def test_longer_periods_have_wider_masks_and_unknown_months_none(tmp_path: Path) -> None:
    arrays = tile("main")
    dates = [dates_of(days) for days in series(arrays)]
    write_patches(tmp_path / "p.zip", arrays, dates)
    masks, _ = months_of_block(tmp_path, PeriodMonths.of("scenes", START, Day(2022, 12, 31)))
    assert masks is not None and masks.dtype == np.uint32
    np.testing.assert_array_equal(masks, expected_masks(arrays, dates))
    assert PeriodMonths.of("scenes", START, Day(2024, 1, 1)) is None
    (tmp_path / "e.zip").unlink()
    assert months_of_block(tmp_path, None) == (None, 0)


def test_tile_folders_have_months_by_day_of_the_year_and_days_outside_are_counted(
    tmp_path: Path,
) -> None:
    arrays = tile("main")
    write_patches(tmp_path / "p.zip", arrays, None)
    end = Day(2021, 3, 31)
    masks, outside = months_of_block(tmp_path, PeriodMonths.of("tiles", START, end))
    dates = [dates_of(days) for days in series(arrays)]
    late = sum(name > end.isoformat() for names in dates for name in names)
    assert late > 0 and outside == late
    inside = expected_masks(arrays, dates) & ((1 << 10) - 1)
    np.testing.assert_array_equal(masks, inside)


def test_series_without_dates_is_refused_where_a_day_occurs_twice(tmp_path: Path) -> None:
    write_patches(tmp_path / "p.zip", tile("main"), None)
    period = PeriodMonths.of("scenes", START, Day(2021, 12, 31))
    with pytest.raises(TileError, match="states no dates, and a day of the year occurs twice"):
        months_of_block(tmp_path, period)
    assert not (tmp_path / "e.zip").exists()


def test_empty_direction_does_not_move_the_months_of_the_other(tmp_path: Path) -> None:
    arrays = tile("main")
    arrays = dataclasses.replace(
        arrays, sar_ascending=arrays.sar_ascending[:0], sar_ascending_doy=np.empty(0, np.int16)
    )
    dates = [dates_of(days) for days in series(arrays)]
    write_patches(tmp_path / "p.zip", arrays, dates)
    masks, _ = months_of_block(tmp_path, PeriodMonths.of("scenes", START, END))
    expected = expected_masks(arrays, dates)
    assert not expected[..., 1].any() and expected[..., 2].any()
    np.testing.assert_array_equal(masks, expected)


def test_pixels_outside_the_region_have_no_months() -> None:
    arrays = tile("main")
    roi = np.ones(arrays.shape, np.uint8)
    roi[3:7, 2:] = 0
    dates = [dates_of(days) for days in series(arrays)]
    period = PeriodMonths.of("scenes", START, END)
    assert period is not None
    steps = period.of_dates(dict(zip(("sentinel2", "ascending", "descending"), dates,
                                     strict=True)))  # fmt: skip
    masks = steps.masks(dataclasses.replace(arrays, roi=roi))
    expected = expected_masks(arrays, dates)
    expected[roi == 0] = 0
    np.testing.assert_array_equal(masks, expected)
