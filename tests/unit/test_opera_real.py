"""OPERA: real pixels from the search to the time series, and real lists of granules.

The services have their real host names (see `support.internet`); what they serve is recorded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.warp import transform

from tessera_flow.config.sections import Download, Period, Sentinel1
from tessera_flow.scenes.area import search_boxes
from tessera_flow.scenes.manifest import Manifest
from tessera_flow.scenes.search import list_items

from ..support.cmr_server import (
    ASF_HOST,
    CMR_HOST,
    S3_HOST,
    AsfServer,
    CmrServer,
    S3Server,
    granule,
    granule_outlines,
    serve_cmr,
)
from ..support.internet import internet
from ..support.pipeline import configuration, ingest, manifest, stacked, write_polygon

SHARED = Path(__file__).parents[3] / "shared"
CROPS = SHARED / "real" / "opera_rtc"
TOKEN = "eyJ0eXAi.t0ken-of_a.test"
ZONE = "EPSG:32611"

# Of the second burst, whose crop is x 244920 to 247920, y 3813660 to 3816660. The region extends
# beyond it in the east, and is not aligned with its 30 m pixels.
LEFT, BOTTOM, RIGHT, TOP = 247_520, 3_815_500, 248_020, 3_815_850
BURST = "T137-292319-IW2"
DAYS = {
    "2021-11-25": "ASCENDING",
    "2021-12-07": "ASCENDING",
    "2022-11-02": "DESCENDING",  # in truth ascending, like all crops of this burst
    "2023-10-16": "DESCENDING",
}


def real_items() -> list[dict[str, Any]]:
    if not (CROPS / "items.json").is_file():
        pytest.skip(f"no real pixels at {CROPS}")
    features: list[dict[str, Any]] = json.loads((CROPS / "items.json").read_text())["features"]
    return features


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CmrServer]:
    """Serve granules of two bursts on four days, with the real pixels."""
    archive = tmp_path / "archive"
    granules = []
    for item in real_items():
        direction = DAYS.get(item["properties"]["datetime"][:10])
        if direction is None:
            continue
        folder = archive / "OPERA" / "OPERA_L2_RTC-S1" / item["id"]
        folder.mkdir(parents=True)
        for key in ("VV", "VH"):
            shutil.copy(CROPS / f"{item['id']}_{key}.tif", folder)
        outline = shapely.geometry.shape(item["geometry"])
        granules.append(granule(item["id"], item["properties"]["datetime"], outline, direction))
    assert len(granules) == 2 * len(DAYS)
    cmr = CmrServer(granules=granules)
    hosts = {CMR_HOST: cmr, ASF_HOST: AsfServer(token=TOKEN), S3_HOST: S3Server(folder=archive)}
    with internet(tmp_path / "tls", hosts) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
        yield cmr


def expected(day: str, key: str) -> np.ndarray:
    """Return the scaled decibels of the region, by bilinear interpolation of the real crop.

    A pixel whose centre is outside the crop has no data. Near its edge, the weights of the
    pixels that exist are normalised.
    """
    (path,) = CROPS.glob(f"*_{BURST}_{day.replace('-', '')}T*_{key}.tif")
    with rasterio.open(path) as dataset:
        power, affine = dataset.read(1).astype(np.float64), dataset.transform
    x = (np.arange(LEFT, RIGHT, 10) + 5 - affine.c) / affine.a
    y = (np.arange(TOP, BOTTOM, -10) - 5 - affine.f) / affine.e
    columns, rows = np.floor(x - 0.5).astype(int), np.floor(y - 0.5).astype(int)
    sums, weights = np.zeros((2, len(y), len(x)))
    for down in (0, 1):
        for right in (0, 1):
            weight = np.outer(
                1 - np.abs(y - 0.5 - rows - down), 1 - np.abs(x - 0.5 - columns - right)
            )
            at = np.ix_(
                np.clip(rows + down, 0, power.shape[0] - 1),
                np.clip(columns + right, 0, power.shape[1] - 1),
            )
            exists = np.outer(
                (rows + down < power.shape[0]), (columns + right < power.shape[1])
            ) & np.isfinite(power[at])
            sums += np.where(exists, weight * power[at], 0)
            weights += np.where(exists, weight, 0)
    inside = np.outer((y > 0) & (y < power.shape[0]), (x > 0) & (x < power.shape[1]))
    values = np.where(inside & (weights > 0), sums / np.maximum(weights, 1e-12), np.nan)
    decibels = (20 * np.log10(values) + 50) * 200
    return np.where(np.isfinite(decibels), np.trunc(np.clip(decibels, 0, 32767)), 0).astype(int)


def test_real_pixels_from_the_search_to_the_time_series(
    tmp_path: Path, services: CmrServer
) -> None:
    """Both directions, the grid of 10 m, and the edge of a burst; the other burst is elsewhere."""
    roi = write_polygon(tmp_path / "roi.geojson", shapely.box(LEFT, BOTTOM, RIGHT, TOP), ZONE)
    config = configuration(
        tmp_path, roi, [], "2021-11-01", "2023-12-31",
        sentinel1={"provider": "opera", "location": None}, sentinel2={"enabled": False},
        model={"min_observations": {"s2": 0, "s1": 1}}, grid={"block_size": 20},
    )  # fmt: skip
    files = ingest(config)
    assert files.grids["here"].crs == ZONE
    listed = manifest(files, "sentinel1")
    assert [(item.date.isoformat(), str(item.orbit).upper()) for item in listed.items] == list(
        DAYS.items()
    )
    assert all(BURST in item.id for item in listed.items)
    stack = stacked(files, "sentinel1")
    for direction in ("ascending", "descending"):
        days = [day for day, other in DAYS.items() if other == direction.upper()]
        assert stack[f"{direction}_dates"] == days
        for index, day in enumerate(days):
            for channel, key in enumerate(("VV", "VH")):
                actual = stack[f"sar_{direction}"][index, ..., channel].astype(int)
                oracle = expected(day, key)
                # 100 m of the region are east of the crop.
                assert (actual[:, 40:] == 0).all() and (actual[:, :40] > 0).mean() > 0.95
                difference = np.abs(actual - oracle)
                # GDAL interpolates in float32, which can change a value by 1.
                assert difference.max() <= 1, (day, key)
                assert (difference == 0).mean() > 0.98, (day, key)


def recorded(name: str) -> list[dict[str, Any]]:
    """Return the granules of a recorded list, all as descending (the list has no directions)."""
    path = SHARED / "items" / name
    if not path.is_file():
        pytest.skip(f"no recorded granules at {path}")
    return [
        granule(
            row["opera_id"],
            row["acq_dt"].isoformat().replace("+00:00", "Z"),
            shapely.from_wkb(row["geometry"]),
            "DESCENDING",
            row["polarizations"].split("+"),
        )
        for row in pq.read_table(path).to_pylist()
    ]


def listed(granules: list[dict[str, Any]], geobox: GeoBox, start: str, end: str) -> Manifest:
    with serve_cmr(granules, page_size=500) as api:
        source = {"provider": "opera", "location": f"{api.url}/search/granules.umm_json"}
        return list_items(
            Sentinel1.model_validate(source), "here", geobox,
            Period.model_validate({"start": start, "end": end}), "corrected", Download(),
        )  # fmt: skip


def test_real_bursts_of_hh_and_hv_are_all_left_out_with_their_reason() -> None:
    """In Greenland every burst has HH and HV: a year without radar, and a warning that says why."""
    granules = recorded("opera_granules_22WFD_hh_hv.parquet")
    outline = shapely.union_all([granule_outlines(g["umm"])[0] for g in granules])
    x, y = (v[0] for v in geo_center(outline, "EPSG:32622"))
    geobox = GeoBox((2000, 2000), Affine(10, 0, x - 10_000, 0, -10, y + 10_000), "EPSG:32622")
    result = listed(granules, geobox, "2022-01-01", "2024-12-31")
    assert result.items == ()
    assert {reason for _, reason in result.left_out} == {"has no VV and no VH (it has HH and HV)"}
    (warning,) = result.warnings
    assert warning.startswith(
        f"No Sentinel-1 scene can be used: all {len(result.left_out)} of the region and period "
        "were left out (has no VV and no VH (it has HH and HV))"
    )
    (box,) = search_boxes(geobox)
    touching = {
        g["umm"]["GranuleUR"]
        for g in granules
        if granule_outlines(g["umm"])[0].intersects(shapely.box(*box))
    }
    assert len(touching) > 100
    assert {name for name, _ in result.left_out} == touching


def geo_center(outline: shapely.Geometry, crs: str) -> tuple[list[float], list[float]]:
    x, y = transform("EPSG:4326", crs, [outline.centroid.x], [outline.centroid.y])
    return x, y


@pytest.mark.parametrize(
    ("crs", "left", "top", "sides"),
    # East and west of 180 degrees, each in the UTM zone of its side, and across it.
    [
        ("EPSG:32601", 310_000, 5_800_000, 1),
        ("EPSG:32660", 630_000, 5_780_000, 1),
        ("EPSG:32601", 240_000, 5_800_000, 2),
    ],
)
def test_real_bursts_at_the_antimeridian_are_found(
    crs: str, left: int, top: int, sides: int
) -> None:
    granules = recorded("opera_granules_01UBT_antimeridian.parquet")
    size = 1000 if sides == 1 else 8000
    geobox = GeoBox((size, size), Affine(10, 0, left, 0, -10, top), crs)
    assert len(search_boxes(geobox)) == sides
    result = listed(granules, geobox, "2022-01-01", "2024-12-31")
    region = shapely.box(*geobox.boundingbox)
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    touching = {}
    for entry in granules:
        (outline,) = granule_outlines(entry["umm"])
        on_grid = shapely.transform(
            outline, lambda points: np.stack(to_grid.transform(*points.T), axis=1)
        )
        if on_grid.buffer(-200).intersects(region):
            touching[entry["umm"]["GranuleUR"]] = outline.centroid.x > 0
    assert len(touching) > 50 and len(set(touching.values())) == sides
    found = {item.id for item in result.items} | {name for name, _ in result.left_out}
    assert set(touching) <= found
    assert all(item.orbit == "descending" for item in result.items)
