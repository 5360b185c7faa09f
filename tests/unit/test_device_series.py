"""What a device counts and summarises of the time series equals what this machine does."""

import datetime
from dataclasses import replace

import numpy as np
import pytest

from tessera_flow.inference import device_series, runs
from tessera_flow.inference.device_series import SeriesRequest
from tessera_flow.inference.feed import embed_tiles
from tessera_flow.inference.months import PeriodMonths
from tessera_flow.inference.runs import Item
from tessera_flow.inference.series import ordinals, summarise
from tessera_flow.inference.tile import TileArrays

from ..support import golden
from .test_feed import ALL, model_of

pytestmark = pytest.mark.usefixtures("one_thread")

START = datetime.date(2021, 3, 1)


def dates_of(tile: TileArrays, every: int) -> dict[str, list[str]]:
    """Return dates with two steps of each `every`-th day, and an unknown one."""
    numbers = {
        "sentinel2": len(tile.doys),
        "ascending": len(tile.sar_ascending_doy),
        "descending": len(tile.sar_descending_doy),
    }
    dates = {
        stream: [
            (START + datetime.timedelta(9 * (n - n % every % 2))).isoformat() for n in range(number)
        ]
        for stream, number in numbers.items()
    }
    dates["sentinel2"][-1:] = [""] * len(dates["sentinel2"][-1:])
    return dates


@pytest.mark.parametrize("run_bytes", [40_000, runs.RUN_BYTES])
@pytest.mark.parametrize("name", ["main", "one", "none", "long"])
@pytest.mark.parametrize(
    ("step", "months", "family"), [(1, 12, "v2_student_qk"), (3, 32, "v1_0_qat")]
)
def test_equals_what_this_machine_counts(
    name: str, step: int, months: int, family: str, run_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RUN_BYTES", run_bytes)
    monkeypatch.setattr(device_series, "SORTED_VALUES", 1000)
    tile = golden.tile(name)
    tile = replace(tile, bands=tile.bands * np.uint16(7))  # also above 32767
    roi = np.ones(tile.shape, np.uint8)
    roi[2:5, 3:] = 0
    if step == 3:
        tile = replace(tile, roi=roi)
    dates = dates_of(tile, 3 if step == 3 else 1)
    end = START + datetime.timedelta(30 * months)
    names = tuple(f"{START.year + (n + 2) // 12}-{(n + 2) % 12 + 1:02}" for n in range(months))
    by_month = PeriodMonths(START, end, names).of_dates(dates)
    request = SeriesRequest(by_month, ordinals(dates), step, (7, 1001))
    (embedding,) = embed_tiles([Item(tile, (7, 1001), request)], model_of(family), ALL)
    assert embedding.series is not None and embedding.series.masks is not None
    expected_masks = by_month.masks(tile)
    assert embedding.series.masks.dtype == expected_masks.dtype
    np.testing.assert_array_equal(embedding.series.masks, expected_masks)
    if name in ("main", "long"):
        assert expected_masks.any() and (months < 32 or (expected_masks >> 12).any())
    expected = summarise(tile, dates, (7, 1001), step)
    result = embedding.series.arrays()
    assert set(result) == {"median", "days"}
    for key, values in result.items():
        assert values.dtype == expected[key].dtype
        np.testing.assert_array_equal(values, expected[key], err_msg=key)


def test_nothing_is_made_that_was_not_requested() -> None:
    tile = golden.tile("main")
    request = SeriesRequest(None, None, 1, (0, 0))
    (embedding,) = embed_tiles([Item(tile, (0, 0), request)], model_of("v2_student_qk"), ALL)
    assert embedding.series is not None and embedding.series.masks is None
    assert set(embedding.series.arrays()) == {"median"}
