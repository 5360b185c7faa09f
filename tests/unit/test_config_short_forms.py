"""Boxes instead of region files, and periods that repeat every year."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest

from tessera_flow.config.configuration import load_config, runs
from tessera_flow.config.fingerprint import content_hash
from tessera_flow.region.blocks import load_region_grid

from .test_config import changed, follows_schema, problems

BOX = [5.1, 52.0, 5.13, 52.01]
DAY = datetime.date


def test_a_box_is_a_region(tmp_path: Path) -> None:
    """The grid contains all of the box, to a pixel, and is the same when it is read again."""
    document = changed(regions={"here": {"roi": BOX}}, paths={"work": str(tmp_path / "work")})
    assert follows_schema(document)
    config = load_config(document)
    grid, fingerprint = load_region_grid(config, "here")
    assert load_region_grid(config, "here") == (grid, fingerprint)
    assert str(grid.geobox.crs) == "EPSG:32631"
    west, south, east, north = BOX
    edge = np.linspace(0, 1, 101)
    lon = np.concatenate(
        [west + edge * (east - west)] * 2 + [np.full(101, west), np.full(101, east)]
    )
    lat = np.concatenate(
        [np.full(101, south), np.full(101, north)] + [south + edge * (north - south)] * 2
    )
    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32631", always_xy=True).transform(
        lon, lat
    )
    left, bottom, right, top = grid.geobox.boundingbox
    assert 0 <= x.min() - left < 10 and 0 <= right - x.max() < 10
    assert 0 <= y.min() - bottom < 10 and 0 <= top - y.max() < 10
    moved = load_config({**document, "regions": {"here": {"roi": [5.1, 52.0, 5.14, 52.01]}}})
    assert load_region_grid(moved, "here")[1] != fingerprint


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 52, 5.2], "such as [5.1, 52.0, 5.3, 52.1]."),
        ([5, 52, "x", 53], "such as [5.1, 52.0, 5.3, 52.1]."),
        ([5, 52, float("nan"), 53], "such as [5.1, 52.0, 5.3, 52.1]."),
        ([5, True, 6, 53], "such as [5.1, 52.0, 5.3, 52.1]."),
        ([52, 100, 53, 101], "seem swapped; perhaps 100, 52, 101, 53 is meant."),
        ([100, 91, 101, 92], "latitudes end at 90."),
        ([200, 5, 201, 6], "longitudes are between -180 and 180."),
        ([6e5, 5e6, 6.1e5, 5.1e6], "these numbers are not degrees; reproject them, or use a file."),
        ([5, 53, 6, 52], "less than north; perhaps 5, 52, 6, 53 is meant."),
        ([5, 52, 5, 53], "west must be less than east."),
        ([179, 1, -179, 2], "a box across 180 degrees must be divided there into two regions."),
    ],
)
def test_a_wrong_box_is_refused(box: list[Any], message: str) -> None:
    (line,) = problems(regions={"here": {"roi": box}})
    assert line.startswith("regions.here.roi is [") and line.endswith(message)


@pytest.mark.parametrize("roi", [True, 5, {"a": 1}, "", None])
def test_a_region_is_a_path_or_a_box(roi: Any) -> None:
    (line,) = problems(regions={"here": {"roi": roi}})
    assert "must be the path of a file, or a box such as" in line
    assert not follows_schema(changed(regions={"here": {"roi": roi}}))


def test_a_box_has_no_layer() -> None:
    assert problems(regions={"here": {"roi": BOX, "layer": "a"}}) == [
        "regions.here: roi is a box, which has no layers; remove layer."
    ]


@pytest.mark.parametrize(
    ("years", "expected"),
    [
        (2023, [2023]),
        ("2023", [2023]),
        ("2017-2019", [2017, 2018, 2019]),
        ([2017, 2019], [2017, 2019]),
        (["2017-2018", 2020], [2017, 2018, 2020]),
        ("2017-2018, 2020", [2017, 2018, 2020]),
    ],
)
def test_years(years: Any, expected: list[int]) -> None:
    document = changed(periods={"y": {"years": years}})
    assert follows_schema(document)
    config = load_config(document)
    assert list(config.periods) == [f"y_{year}" for year in expected]
    assert [period.year for period in config.periods.values()] == expected


def test_seasons_of_several_years() -> None:
    """A season that ends before it starts ends in the next year; regions name it once."""
    config = load_config(
        changed(
            regions={"a": {"roi": "a.tif", "periods": ["winter"]}, "b": {"roi": "b.tif"}},
            periods={
                "winter": {"years": "2022-2023", "start": "11-01", "end": "02-29",
                           "sentinel1": {"enabled": False}},
                "once": {"start": "2020-05-01", "end": "2020-05-31", "years": None},
            },
        )
    )  # fmt: skip
    dates = {name: (period.start, period.end) for name, period in config.periods.items()}
    assert dates == {
        "winter_2022": (DAY(2022, 11, 1), DAY(2023, 2, 28)),
        "winter_2023": (DAY(2023, 11, 1), DAY(2024, 2, 29)),
        "once": (DAY(2020, 5, 1), DAY(2020, 5, 31)),
    }
    assert runs(config) == [
        ("a", "winter_2022"), ("a", "winter_2023"),
        ("b", "winter_2022"), ("b", "winter_2023"), ("b", "once"),
    ]  # fmt: skip
    assert not config.for_run("a", "winter_2023").sentinel1.enabled
    assert config.for_run("b", "once").sentinel1.enabled


def test_years_are_the_same_periods() -> None:
    """No step runs again when a period is written in the other form."""
    short = load_config(changed(periods={"y": {"years": 2023}}))
    long = load_config(changed(periods={"z": {"start": "2023-01-01", "end": "2023-12-31"}}))
    assert content_hash(short, "fens", "y_2023") == content_hash(long, "fens", "z")


@pytest.mark.parametrize(
    ("period", "message"),
    [
        ({"years": "2017-x"}, "years is '2017-x' (text), but must be a year such as 2023, a range"),
        ({"years": True}, "years is true (true/false), but must be a year"),
        ({"years": []}, "years is [] (list), but must be a year"),
        ({"years": 17}, "years is 17 (whole number), but must be a year"),
        ({"years": 1990}, "from 2014 to 2200"),
        ({"years": "2020-2017"}, "the earlier year of a range first"),
        ({"years": [2017, "2016-2018"]}, "with each year once"),
        ({"years": 2017, "start": "2017-03-01"}, "it must be a month and a day such as 03-31"),
        ({"years": 2017, "end": "02-30"}, "it must be a month and a day such as 03-31"),
    ],
)
def test_wrong_years_are_refused(period: dict[str, Any], message: str) -> None:
    (line,) = problems(periods={"y": period})
    assert line.startswith("periods.y: ") and message in line


def test_names_of_years_occur_once() -> None:
    lines = problems(
        periods={"y": {"years": 2017}, "y_2017": {"start": "2018-01-01", "end": "2018-01-02"}}
    )
    assert lines == [
        "periods.y: the name of one of its years is also defined under periods; rename one of them."
    ]
    lines = problems(periods={"y": {"years": 2017}}, regions={"a": {"roi": "a", "periods": ["z"]}})
    assert "which is not defined under periods: use y_2017" in lines[0]
