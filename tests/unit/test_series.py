"""The summary of the time series of a block: median image, days, series of a few pixels."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import numpy as np
import pytest

from tessera_flow.block_file import open_block_file
from tessera_flow.inference import block
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import InferenceOptions
from tessera_flow.inference.model import ModelSpec
from tessera_flow.inference.months import PeriodMonths
from tessera_flow.inference.series import median_step, summarise, with_vectors
from tessera_flow.inference.tile import TileArrays

from ..support import golden
from ..support.golden import tile
from .test_block_inference import write_patches

pytestmark = pytest.mark.usefixtures("one_thread")

DAY = datetime.date(2023, 3, 5)


def small() -> TileArrays:
    """Return a tile of 2 x 3 pixels with three optical dates and one radar date."""
    bands = np.zeros((3, 2, 3, 10), np.uint16)
    # B04, B02, B03, B08
    bands[:, 0, 0, :4] = [[300, 100, 200, 900], [900, 700, 800, 100], [500, 400, 450, 500]]
    bands[:, 1, 2, :4] = [[10, 20, 30, 40], [50, 60, 70, 80], [1, 2, 3, 4]]
    masks = np.zeros((3, 2, 3), np.uint8)
    masks[:, 0, 0] = 1
    masks[:2, 1, 2] = 1
    radar = np.zeros((1, 2, 3, 2), np.int16)
    radar[0, 0, 0] = (4000, 3000)  # -15 dB
    radar[0, 1, 0] = (0, 3000)
    roi = np.ones((2, 3), np.uint8)
    roi[0, 1] = 0
    empty = np.zeros((0, 2, 3, 2), np.int16)
    return TileArrays(
        bands, masks, np.array([64, 65, 70]), radar, np.array([64]), empty, np.zeros(0, int), roi
    )


DATES = {
    "sentinel2": ["2023-03-05", "2023-03-06", "2023-03-11"],
    "ascending": ["2023-03-05"],
    "descending": [],
}


def test_median_days_and_series_of_a_patch() -> None:
    summary = summarise(small(), DATES, (0, 0), 1)
    expected = np.zeros((2, 3, 3), np.uint16)
    expected[0, 0] = (500, 450, 400)  # red, green, blue: the middle of three
    expected[1, 2] = (10, 30, 20)  # the lower of two
    np.testing.assert_array_equal(summary["median"], expected)
    assert summary["pixels"].tolist() == [5]
    first = DAY.toordinal()
    assert summary["days"].tolist() == [
        [0, first, 2], [0, first + 1, 2], [0, first + 6, 1], [1, first, 2]
    ]  # fmt: skip
    places = summary["places"].tolist()
    assert sorted(map(tuple, places)) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]
    rows = {
        (*places[int(pixel)], int(stream), int(day) - first): value
        for pixel, stream, day, value in summary["series"].tolist()
    }
    assert rows == pytest.approx({
        (0, 0, 0, 0): 0.5, (0, 0, 0, 1): -0.8, (0, 0, 0, 6): 0.0, (1, 2, 0, 0): 0.6,
        (1, 2, 0, 1): 30 / 130, (0, 0, 1, 0): -15.0,
    })  # fmt: skip


def test_two_steps_of_one_day_are_one_day() -> None:
    twice = DATES | {"sentinel2": ["2023-03-05", "2023-03-05", "2023-03-05"]}
    summary = summarise(small(), twice, (0, 0), 1)
    assert summary["days"][:1].tolist() == [[0, DAY.toordinal(), 2]]


def test_a_date_that_is_not_known_is_in_no_series() -> None:
    summary = summarise(small(), DATES | {"sentinel2": ["", "2023-03-06", ""]}, (0, 0), 1)
    assert summary["days"][:, 0].tolist() == [0, 1]
    assert set(summarise(small(), None, (0, 0), 1)) == {"median", "pixels"}


@pytest.mark.parametrize("position", [(0, 0), (5, 4), (7, 3)])
def test_thinned_median_has_every_nth_row_of_the_region(position: tuple[int, int]) -> None:
    complete = summarise(tile("main"), None, position, 1)["median"]
    thinned = summarise(tile("main"), None, position, 3)["median"]
    rows, columns = (-position[0] % 3, -position[1] % 3)
    np.testing.assert_array_equal(thinned, complete[rows::3, columns::3])
    assert complete.any()


def test_step_of_the_median() -> None:
    assert [median_step(edge) for edge in (1, 1024, 1025, 2000, 2049)] == [1, 1, 2, 2, 3]


def test_vectors_are_dequantised_and_nan_without_an_embedding() -> None:
    summary = summarise(small(), DATES, (0, 0), 1)
    codes = np.arange(12, dtype=np.int8).reshape(2, 3, 2)
    scales = np.full((2, 3), 0.5, np.float32)
    scales[1, 1] = np.nan
    vectors = with_vectors(summary, codes, scales)
    for (y, x), vector in zip(summary["places"].tolist(), vectors["vectors"], strict=True):
        np.testing.assert_array_equal(vector, codes[y, x] * scales[y, x])


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("size", [5, 12])
def test_summary_of_a_block_does_not_depend_on_its_patches(
    tmp_path: Path, size: int, on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on whether this machine or the device makes it."""
    monkeypatch.setattr(block, "_read_ahead", lambda device: int(on_device))
    arrays = tile("main")
    roi = np.ones((12, 10), np.uint8)
    roi[:5, :5] = 0
    write_patches(tmp_path / "p.zip", arrays, size, roi)
    spec = ModelSpec(golden.checkpoint("v2_student_qk"), device="cpu")
    period = PeriodMonths.of("tiles", datetime.date(2023, 1, 1), datetime.date(2023, 12, 31))
    infer_block(
        tmp_path / "p.zip", tmp_path / "e.zip", spec, InferenceOptions(), {}, (3, 4), period=period,
        block_edge=2048,
    )  # fmt: skip
    tile_of_block = dataclasses.replace(arrays, roi=roi)
    assert period is not None
    dates = period.dates([arrays.doys, arrays.sar_ascending_doy, arrays.sar_descending_doy])
    expected = summarise(tile_of_block, dates, (3, 4), 2)
    with open_block_file(tmp_path / "e.zip") as group:
        summary = group["summary"]
        assert summary.attrs.asdict() == {"step": 2, "pixels": int(roi.sum())}
        result = {name: array[...] for name, array in summary.arrays()}
    np.testing.assert_array_equal(result["median"], expected["median"])
    days = {tuple(row[:2]): row[2] for row in expected["days"].tolist()}
    assert {tuple(row[:2]): row[2] for row in result["days"].tolist()} == days
    assert (
        len(result["places"])
        == len(result["vectors"])
        == 16 * (3 if size == 5 else 1)
        + (
            # Patches of 5 pixels: one is outside the region, two are 2 x 5.
            20 if size == 5 else 0
        )
    )
    index = [tuple(place) for place in result["places"].tolist()]
    assert all(roi[place] for place in index) and len(set(index)) == len(index)
    step = arrays.masks[:, index[0][0], index[0][1]] == 1
    red, nir = (arrays.bands[:, index[0][0], index[0][1], band][step] for band in (0, 3))
    ndvi = result["series"][(result["series"][:, 0] == 0) & (result["series"][:, 1] == 0), 3]
    np.testing.assert_allclose(ndvi, (nir.astype(float) - red) / (nir.astype(float) + red), 1e-5)
