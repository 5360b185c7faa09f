"""Mixtures of faults of a search: the manifest of the complete list, or an error."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.archives import query
from tessera_flow.config.sections import Download, Period, Sentinel2
from tessera_flow.errors import ItemError
from tessera_flow.scenes.search import list_items

from ..support.faulty_search import FAULTS, FaultySearch
from ..support.pipeline import CRS, ORIGIN, to_lonlat
from ..support.servers import running

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "SCL")
GEOBOX = GeoBox((50, 50), Affine(10, 0, ORIGIN[0], 0, -10, ORIGIN[1]), CRS)
COUNT = 60


def items() -> list[dict[str, Any]]:
    """Return scenes of a year over the region; some days have two tiles of the same time."""
    west, south = to_lonlat(ORIGIN[0] - 5000, ORIGIN[1] - 5000)
    east, north = to_lonlat(ORIGIN[0] + 5000, ORIGIN[1] + 5000)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    result = []
    for number in range(COUNT):
        day = (number // 2) * 11 + 1
        month, tile = 1 + day // 28, "31UFT" if number % 2 else "31UFU"
        stamp = f"2021-{month:02d}-{1 + day % 28:02d}T10:50:31.024Z"
        name = f"S2A_{stamp[:10]}_{tile}"
        result.append({
            "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a",
            "bbox": [west, south, east, north],
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "datetime": stamp, "s2:processing_baseline": "03.01", "s2:mgrs_tile": tile,
                "s2:datatake_id": f"GS2A_{stamp[:10]}_03", "eo:cloud_cover": 1.0,
            },
            "assets": {key: {"href": f"https://x.example/{name}/{key}.tif"} for key in BANDS},
            "links": [],
        })  # fmt: skip
    return result


def search(api: FaultySearch, path: Path) -> bytes:
    source = Sentinel2.model_validate({"provider": "mpc", "location": api.url})
    period = Period.model_validate({"start": "2021-01-01", "end": "2021-12-31"})
    download = Download(attempts=2, timeout=10.0, deadline=60.0)
    list_items(source, "here", GEOBOX, period, "corrected", download).write(path)
    return path.read_bytes()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "PAUSE", 0.0)


def expected(folder: Path) -> bytes:
    api = FaultySearch(items=items(), page_size=200)
    with running(api):
        content = search(api, folder / "expected.json")
    assert len(json.loads(content)["items"]) == COUNT
    return content


def outcomes(folder: Path, seeds: range) -> dict[str, int]:
    """Search with the faults of each seed; return how many lists were complete and refused."""
    whole = expected(folder)
    counts = {"complete": 0, "refused": 0}
    for seed in seeds:
        chance = random.Random(seed)
        api = FaultySearch(
            items=items(),
            page_size=chance.choice([3, 7, 10, 25, 200]),
            post=chance.random() < 0.5,
            seed=seed,
            kinds=frozenset(chance.sample(FAULTS, chance.randint(1, 3))),
            rate=chance.choice([0.03, 0.1, 0.3]),
            announces=chance.random() < 0.5,
        )
        with running(api):
            try:
                content = search(api, folder / "actual.json")
            except ItemError as error:
                assert "\n" not in str(error)
                counts["refused"] += 1
                continue
        assert content == whole, (seed, sorted(api.kinds), api.page_size, api.announces)
        counts["complete"] += 1
    return counts


@pytest.mark.usefixtures("no_pauses")
def test_search_with_faults_is_complete_or_refused(tmp_path: Path) -> None:
    counts = outcomes(tmp_path, range(3))
    assert counts["complete"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_pauses")
def test_search_with_faults_is_complete_or_refused_for_200_seeds(tmp_path: Path) -> None:
    counts = outcomes(tmp_path, range(200))
    assert counts["complete"] > 60
