"""Preprocessing of Sentinel scenes against numbers from the published code (tests/golden/prep)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tessera_flow.sensors.sentinel1 import add_to_mosaic, power_to_scaled_decibels
from tessera_flow.sensors.sentinel2 import (
    BANDS,
    DayMosaic,
    remove_offset,
    scl_is_valid,
    select_first_valid,
)

PREP = Path(__file__).parents[1] / "golden" / "prep"


@pytest.fixture(scope="module")
def golden():
    return {name: np.load(PREP / f"{name}.npz") for name in
            ("scl_mosaic", "harmonize", "amplitude_to_db")}  # fmt: skip


def test_band_order() -> None:
    assert BANDS == ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12")


def test_scl_classes(golden) -> None:
    data = golden["scl_mosaic"]
    np.testing.assert_array_equal(scl_is_valid(data["scl_codes"]), data["scl_is_valid"])
    np.testing.assert_array_equal(
        scl_is_valid(np.arange(12, dtype=np.uint8)),
        [False, False, False, False, True, True, True, True, False, False, True, True],
    )


def test_selected_item_of_each_pixel(golden) -> None:
    data = golden["scl_mosaic"]
    inside = data["roi"]
    selection = select_first_valid(data["scl_stack"], inside)
    np.testing.assert_array_equal(selection, data["tile_selection"])
    share = 100 * (selection >= 0)[inside].mean()
    assert share == pytest.approx(float(data["valid_pct"]), abs=1e-12)


def test_mosaic_of_bands_and_scl(golden) -> None:
    """Each pixel has the values of its selected item. The reference uses a random item where none
    is valid, so these pixels are compared with the first item instead."""
    data = golden["scl_mosaic"]
    inside = data["roi"]
    selection = select_first_valid(data["scl_stack"], inside)
    stack = data["band_stack"].astype(np.uint16)
    day = DayMosaic(selection, inside)
    for index, image in enumerate(stack):
        if day.needs(index):
            day.add(index, [image] * 10, None)
    mosaic = day.image()
    assert (mosaic == mosaic[..., :1]).all()
    seen = inside & ~data["never_valid"]
    np.testing.assert_array_equal(mosaic[seen][:, 0], data["band_mosaic"][seen])
    np.testing.assert_array_equal(mosaic[data["never_valid"]][:, 0], stack[0][data["never_valid"]])
    assert (mosaic[~inside] == 0).all()
    scl = np.nan_to_num(data["scl_stack"]).astype(np.uint8)
    selected = np.take_along_axis(scl, np.maximum(selection, 0)[None].astype(int), axis=0)[0]
    np.testing.assert_array_equal(np.where(selection >= 0, selected, 0), data["scl_mosaic"])


def test_items_that_supply_no_pixel_are_not_needed() -> None:
    selection = np.array([[0, 0], [0, -1]], np.int16)
    day = DayMosaic(selection, np.ones((2, 2), bool))
    assert day.needs(0) and day.needs(1) and day.supplies(0) and not day.supplies(1)
    day.add(0, [np.array([[7, 7], [7, 0]], np.uint16)] * 10, None)
    assert day.needs(1)
    day.add(1, [np.array([[0, 0], [0, 8]], np.uint16)] * 10, None)
    assert not day.needs(2)
    np.testing.assert_array_equal(day.image()[..., 3], [[7, 7], [7, 8]])


def test_first_item_with_data_fills_pixels_that_are_never_valid() -> None:
    """Items that cover only part of the area, against the rule applied pixel by pixel."""
    rng = np.random.default_rng(1)
    shape = (70, 50)
    inside = rng.random(shape) < 0.9
    selection = rng.integers(-1, 3, shape).astype(np.int16)
    selection[~inside] = -1
    windows = [np.s_[0:40, 0:50], np.s_[10:70, 5:30], np.s_[0:70, 20:50]]
    images = []
    for index, window in enumerate(windows):
        image = np.zeros((*shape, 10), np.uint16)
        size = image[window].shape
        image[window] = rng.integers(0, 3000, size) * (rng.random(size[:2]) < 0.7)[..., None]
        selection[(selection == index) & ~image.any(axis=-1)] = -1
        images.append(image)
    day = DayMosaic(selection, inside)
    for index, image in enumerate(images):
        day.add(index, list(np.moveaxis(image, -1, 0)), "corrected" if index else None)
    expected = np.zeros((*shape, 10), np.uint16)
    for y, x in np.ndindex(shape):
        values = [image[y, x] for image in images]
        values = [values[0], *(remove_offset(v, "corrected") for v in values[1:])]
        with_data = [v for v in values if v.any()]
        if selection[y, x] >= 0:
            expected[y, x] = values[selection[y, x]]
        elif inside[y, x] and with_data:
            expected[y, x] = with_data[0]
    np.testing.assert_array_equal(day.image(), expected)


def test_offset_as_published(golden) -> None:
    data = golden["harmonize"]
    for index, date in enumerate(data["dates"]):
        expected = data["out_u16_mpc"][index]
        if date > "2022-01-25":
            np.testing.assert_array_equal(remove_offset(data["in_u16"], "as_published"), expected)
        else:
            np.testing.assert_array_equal(data["in_u16"], expected)


def test_offset_corrected() -> None:
    dn = np.array([0, 1, 999, 1000, 1001, 1002, 11_000, 65_535], np.uint16)
    result = remove_offset(dn, "corrected")
    np.testing.assert_array_equal(result, [0, 1, 1, 1, 1, 2, 10_000, 64_535])
    assert result.dtype == np.uint16


def test_decibels_from_float64_are_exact(golden) -> None:
    data = golden["amplitude_to_db"]
    result = power_to_scaled_decibels(data["amp_f64"])
    assert result.dtype == np.int16
    np.testing.assert_array_equal(result, data["out_f64"])


def test_decibels_from_float32_differ_by_at_most_one(golden) -> None:
    """The reference computes in float32 here, which is occasionally off by one."""
    data = golden["amplitude_to_db"]
    difference = np.abs(power_to_scaled_decibels(data["amp_f32"]).astype(int) - data["out_f32"])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002


def test_mosaic_of_radar_is_first_non_zero_per_channel() -> None:
    mosaic = np.zeros((1, 3, 2), np.int16)
    add_to_mosaic(mosaic, np.array([[[5, 0], [0, 0], [7, 8]]], np.int16))
    add_to_mosaic(mosaic, np.array([[[9, 6], [0, 4], [1, 1]]], np.int16))
    np.testing.assert_array_equal(mosaic, [[[5, 6], [0, 4], [7, 8]]])
