"""The estimate of downloads, time and disk for sites, before and after their scenes are listed."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyproj
import pytest

from tessera_flow.cli.main import main
from tessera_flow.config.configuration import Config
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.schedule import Schedule
from tessera_flow.jobs.sites.estimate import SiteEstimate, estimate_sites
from tessera_flow.jobs.sites.files import SiteFiles
from tessera_flow.scenes.manifest import Manifest, SourceItem

from .test_site_plan import config

YEAR = {"y2023": {"start": "2023-01-01", "end": "2023-12-31"}}
DATES = {"sentinel2": 100 * 365 / 365.25, "sentinel1": 90 * 365 / 365.25}
SQUARE = 512 * 512


def table(places: list[tuple[float, float]]) -> str:
    """Return a table of points of zone 31."""
    move = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    rows = [",".join(map(str, (n, *move.transform(*place)))) for n, place in enumerate(places)]
    return "\n".join(["id,lon,lat", *rows, ""])


def estimate(settings: Config) -> SiteEstimate:
    files = RunFiles(settings)
    result = estimate_sites(files, Schedule(files))
    assert result is not None
    return result


# The grid of the cell begins at (595000, 5705000); its squares of 512 pixels have 5120 m, those of
# 20 m pixels 10240 m.
NEAR = [(600_005.0, 5_699_995.0), (600_015.0, 5_699_995.0)]
FAR = (650_005.0, 5_650_005.0)


def test_before_the_search_dates_are_assumed(tmp_path: Path) -> None:
    one = estimate(config(tmp_path, table(NEAR)))
    assert (one.units_left, one.pixels, one.listed, one.lists) == (1, 2, 0, 2)
    # Of each date: the header and a block of 11 Sentinel-2 and 2 Sentinel-1 files.
    expected = 2 * 11 * DATES["sentinel2"] + 2 * 2 * DATES["sentinel1"]
    assert one.requests == round(expected)
    size = SQUARE * (11 * DATES["sentinel2"] * 7 / 5.75 + 2 * DATES["sentinel1"] * 7 / 2)
    assert one.download_gb == pytest.approx(size / 1e9)
    slowest = max(size / 25e6, one.requests * 0.1 / 12)
    assert one.download_hours == pytest.approx(slowest / 3600, rel=0.6)
    assert one.series_gb == pytest.approx(2 * (DATES["sentinel2"] * 11 + DATES["sentinel1"] * 4)
                                          / 1e9)  # fmt: skip
    two = estimate(config(tmp_path, table([*NEAR, FAR])))
    assert two.download_gb == pytest.approx(2 * one.download_gb)
    # 5.1 km apart: another block of the 10 m files, the same of the 20 m files.
    split = estimate(config(tmp_path, table([NEAR[0], (602_005.0, 5_699_995.0)])))
    more = SQUARE * (4 * DATES["sentinel2"] * 7 / 5.75 + 2 * DATES["sentinel1"] * 7 / 2)
    assert split.download_gb - one.download_gb == pytest.approx(more / 1e9)


def scene(name: str, extent: Any) -> SourceItem:
    return SourceItem(name, datetime.date(2023, 8, 1), extent, 0, None, {"assets": {}})


def test_after_the_search_the_scenes_are_counted(tmp_path: Path) -> None:
    settings = config(tmp_path, table([*NEAR, FAR]))
    sites = SiteFiles(RunFiles(settings))
    (unit,) = sites.units
    west = (590_000.0, 5_690_000.0, 620_000.0, 5_710_000.0)
    lists = {
        "sentinel2": [scene("west", west), scene("all", None), scene("away", (0, 0, 1, 1))],
        "sentinel1": [],
    }
    for sensor, path in sites.manifests(*unit).items():
        Manifest(sensor, tuple(lists[sensor]), ()).write(Path(path))
    found = estimate(settings)
    assert (found.listed, found.lists, found.scenes) == (2, 2, 3)
    # `west` has one block with sites, `all` two.
    assert found.requests == 11 * (2 + 3)
    assert found.download_gb == pytest.approx(11 * 3 * SQUARE * 7 / 5.75 / 1e9)
    done = sites.embeddings_file(*unit)
    done.parent.mkdir(parents=True)
    done.touch()
    rest = estimate(settings)
    assert (rest.units, rest.units_left, rest.requests, rest.download_gb) == (1, 0, 0, 0)
    assert rest.final_gb == found.final_gb > 0


def test_squares_and_polygons_touch_more_blocks(tmp_path: Path) -> None:
    # Near the corner of four blocks of the 10 m files.
    corner = [(595_000 + 5120 * 2 + 5.0, 5_705_000 - 5120 * 2 - 5.0)]
    point = estimate(config(tmp_path, table(corner)))
    square = estimate(config(tmp_path, table(corner), sites={"size": 3}))
    assert square.download_gb == pytest.approx(4 * point.download_gb)
    assert square.final_gb == pytest.approx(9 * point.final_gb)


def test_plan_has_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plots.csv").write_text("id,lon,lat,year\na,4.5,51,2021\nb,1,88,2021\n")
    assert main(["init", "--sites", "plots.csv", "--out", "run"]) == 0
    assert main(["plan", "--out", "run"]) == 0
    text = capsys.readouterr().out
    assert "scenes are not listed yet, so their number is assumed" in text
    document = json.loads(Path("results/plan/sites.json").read_text())
    assert f"about {document['requests']:,} requests, {document['download_gb']:,.3g} GB" in text
    assert document["rows"] == 2 and document["jobs"] == 6
