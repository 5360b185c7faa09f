"""Reads of the scenes of a search: which files and bytes are requested."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_flow.archives.signing import Access
from tessera_flow.errors import ReadError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.raster.reader import Asset, Reader
from tessera_flow.raster.resample import ReadOptions
from tessera_flow.raster.retry import RetryPolicy
from tessera_flow.region.mask import mask_geobox
from tessera_flow.sensors.sentinel1 import power_to_scaled_decibels

from ..support.pipeline import configuration, ingest, manifest, stacked, write_box
from ..support.scenes import optical, radar
from ..support.search_run import (
    END,
    LEFT,
    START,
    TOKEN,
    TOP,
    Items,
    assert_no_secret,
    assert_same,
    located,
    outcome,
    relocated,
)
from ..support.servers import FileServer, serve_files, serve_stac


def test_footprint_smaller_than_the_raster_does_not_omit_pixels(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, expected: dict[str, Any]
) -> None:
    """Published footprints are simplified, so the raster extent is used, for any block size."""
    for item in archive:
        west, south = item["bbox"][:2]
        east, north = west + 1e-4, south + 1e-4
        item["bbox"] = [west, south, east, north]
        ring = [[west, south], [east, south], [east, north], [west, south]]
        item["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    prefix = scenes.absolute().as_uri() + "/"
    with serve_stac(relocated(archive, scenes, prefix)) as api:
        for size in (25, 100):
            grid = {"block_size": size}
            run_files = ingest(located(tmp_path / str(size), roi, api.url, grid=grid))
            assert len(run_files.grids["here"].blocks) == (4 if size == 25 else 1)
            assert_same(outcome(run_files), expected)


def test_only_scenes_that_overlap_a_block_are_read(
    tmp_path: Path, archive: Items, scenes: Path, server: FileServer
) -> None:
    """A scene outside may be unreadable; a scene of another block is not requested."""
    roi = write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 2000, TOP)
    second = optical(scenes, "2021-06-03T10:00:00", 3000, origin=(LEFT + 1500, TOP))
    far = scenes / archive[5]["id"]
    for path in far.iterdir():
        path.write_bytes(b"unreadable")
    items = relocated([archive[3], archive[5], second], scenes, f"{server.url}/")
    config = configuration(
        tmp_path / "x", roi, items, START, END,
        sentinel1={"enabled": False}, grid={"block_size": 100},
    )  # fmt: skip
    run_files = ingest(config)
    stack = stacked(run_files, "sentinel2")
    assert stack["dates"] == ["2021-06-01", "2021-06-03"]
    assert stack["masks"][0].any(axis=0).nonzero()[0].tolist() == list(range(50))
    assert stack["masks"][1].any(axis=0).nonzero()[0].tolist() == list(range(150, 200))
    assert not server.asked(archive[5]["id"])
    # Two blocks with one scene each: no asset is opened twice.
    headers = [
        r for r in server.asked("_B11_") if r.headers.get("range", "").startswith("bytes=0-")
    ]
    assert len(headers) == 2


def test_reads_request_ranges_instead_of_complete_files(tmp_path: Path, scenes: Path) -> None:
    rng = np.random.default_rng(0)
    power = rng.uniform(0.01, 1, (1200, 1500)).astype(np.float32)
    item = radar(scenes, "2021-06-04T06:00:00", power, power[::-1], shape=power.shape)
    roi = write_box(tmp_path / "roi.geojson", LEFT + 7000, TOP - 6400, LEFT + 7400, TOP - 6000)
    with serve_files(scenes) as server:
        config = configuration(
            tmp_path / "x", roi, relocated([item], scenes, f"{server.url}/"), START, END,
            sentinel2={"enabled": False},
            model={"min_observations": {"s2": 0}},
        )  # fmt: skip
        stack = stacked(ingest(config), "sentinel1")
        requests = list(server.requests)
    window = np.s_[600:640, 700:740]
    np.testing.assert_array_equal(
        stack["sar_ascending"][0],
        np.stack([power_to_scaled_decibels(p[window]) for p in (power, power[::-1])], axis=-1),
    )
    for channel in ("vv", "vh"):
        size = (scenes / item["id"] / f"iw-{channel}.rtc.tiff").stat().st_size
        reads = [r for r in requests if f"iw-{channel}" in r.path]
        assert size > 6_000_000
        assert 0 < sum(r.sent for r in reads) < size / 10
        # The header, then the adjacent blocks that overlap the window.
        assert [r.method for r in reads] == ["GET"] * 2
        assert all("range" in r.headers and r.status == 206 for r in reads)


def test_login_page_instead_of_a_scene_is_a_failed_read(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, server: FileServer
) -> None:
    items = relocated(archive[3:4], scenes, f"{server.url}/")
    path = items[0]["assets"]["SCL"]["href"].removeprefix(server.url)
    server.replaced[path] = b"<!doctype html><title>Sign in</title>" * 100
    config = configuration(tmp_path / "x", roi, items, START, END, sentinel1={"enabled": False})
    with pytest.raises(ReadError, match=f"asset SCL of item {items[0]['id']}"):
        ingest(config)


def test_signatures_are_sent_to_the_server_but_not_logged(
    tmp_path: Path,
    roi: Path,
    archive: Items,
    scenes: Path,
    server: FileServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    items = relocated(archive[3:4], scenes, f"{server.url}/")
    config = configuration(tmp_path / "x", roi, items, START, END, sentinel1={"enabled": False})
    (scene,) = manifest(ingest(config, until="items"), "sentinel2").items
    geobox = mask_geobox(Path(RunFiles(config).paths.roi.format(region="here")))

    def access(href: str, fresh: bool = False) -> Access:
        return Access(f"{href}?sv=1&sig={TOKEN}")

    def read(key: str) -> np.ndarray:
        asset = Asset(scene.id, key, scene.stac["assets"][key]["href"])
        with Reader(access, RetryPolicy(attempts=2)) as reader:
            return reader.read(asset, geobox, "uint16", ReadOptions("nearest", True))[1]

    assert read("B04").all()
    assert all(TOKEN in r.path for r in server.requests)
    server.unavailable = 99
    with pytest.raises(ReadError, match=r"asset B03 of item .*\.tif\) after 2 attempts") as raised:
        read("B03")
    assert_no_secret(str(raised.value), caplog.text)
    assert "again in" in caplog.text
