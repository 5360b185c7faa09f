"""OPERA RTC-S1: searched in CMR, read with a token, on a 30 m grid. All hosts have their real
names (see `support.internet`)."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_flow.config.configuration import Config
from tessera_flow.errors import CredentialsError, ItemError, ReadError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.sensors.sentinel1 import power_to_scaled_decibels

from ..support.archives import PIXEL, opera_burst, opera_item, opera_title
from ..support.cmr_server import (
    ASF_HOST,
    CMR_HOST,
    LOGIN_HOST,
    S3_HOST,
    AsfServer,
    CmrServer,
    LoginServer,
    S3Server,
    granule,
    granule_outlines,
)
from ..support.internet import internet
from ..support.pipeline import ORIGIN, configuration, ingest, manifest, stacked, write_box

LEFT, TOP = ORIGIN
HEIGHT, WIDTH = 40, 50
TOKEN = "eyJ0eXAi.t0ken-of_a.test"
START, END = "2023-06-01", "2023-06-30"
# The raster of the burst extends beyond the region on every side.
CORNER = (LEFT - 60, TOP + 60)
SHAPE = (20, 24)


_numbers = itertools.count()


@dataclass
class Services:
    """Servers of a test, and the folder of the archive."""

    cmr: CmrServer
    asf: AsfServer
    s3: S3Server
    login: LoginServer
    folder: Path

    def add(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        # GDAL caches data by URL, so each test needs its own URLs.
        options = {"processed": f"20230605T{next(_numbers):06d}Z", **options}
        granule = opera_burst(self.folder, *arguments, **options)
        self.cmr.granules = [*self.cmr.granules, granule]
        return granule


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    return write_box(tmp_path / "roi.geojson", LEFT, TOP - 10 * HEIGHT, LEFT + 10 * WIDTH, TOP)


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    folder = tmp_path / "archive"
    folder.mkdir()
    result = Services(CmrServer(), AsfServer(token=TOKEN), S3Server(folder=folder), LoginServer(),
                      folder)  # fmt: skip
    hosts = {
        CMR_HOST: result.cmr, ASF_HOST: result.asf, S3_HOST: result.s3, LOGIN_HOST: result.login,
    }  # fmt: skip
    with internet(tmp_path / "tls", hosts) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("EARTHDATA_TOKEN_FILE", raising=False)
        yield result


def opera(folder: Path, roi: Path, **sections: Any) -> Config:
    sentinel1 = {"provider": "opera", "location": None} | sections.pop("sentinel1", {})
    return configuration(
        folder, roi, [], START, END, sentinel1=sentinel1, sentinel2={"enabled": False},
        model={"min_observations": {"s2": 0, "s1": 1}}, **sections,
    )  # fmt: skip


def power(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.02, 1.0, shape).astype(np.float32)


def bilinear(coarse: np.ndarray, corner: tuple[float, float]) -> np.ndarray:
    """Return the 10 m pixels of the region from a 30 m raster by bilinear interpolation."""
    columns = (LEFT + 10 * (np.arange(WIDTH) + 0.5) - corner[0]) / PIXEL - 0.5
    rows = (corner[1] - (TOP - 10 * (np.arange(HEIGHT) + 0.5))) / PIXEL - 0.5
    x, y = np.floor(columns).astype(int), np.floor(rows).astype(int)
    u, v = (columns - x)[None, :], (rows - y)[:, None]
    c = coarse.astype(np.float64)
    top = c[np.ix_(y, x)] * (1 - u) + c[np.ix_(y, x + 1)] * u
    low = c[np.ix_(y + 1, x)] * (1 - u) + c[np.ix_(y + 1, x + 1)] * u
    return top * (1 - v) + low * v


def assert_close(actual: np.ndarray, expected_power: np.ndarray) -> None:
    """Assert equality except for float32 rounding in GDAL, which can change a value by 1."""
    expected = power_to_scaled_decibels(expected_power)
    difference = np.abs(actual.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.98


def written(folder: Path) -> str:
    paths = [p for p in folder.rglob("*") if p.is_file() and "archive" not in p.parts]
    assert paths
    return "".join(p.read_bytes().decode("latin-1") for p in paths)


def test_burst_is_resampled_bilinearly_and_only_asf_receives_the_token(
    tmp_path: Path, roi: Path, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    vv, vh = power(1), power(2) / 5
    title = services.add("2023-06-04T05:30:00", vv, vh, CORNER)["umm"]["GranuleUR"]
    run_files = ingest(opera(tmp_path / "x", roi))
    stack = stacked(run_files, "sentinel1")
    assert stack["ascending_dates"] == [] and stack["descending_dates"] == ["2023-06-04"]
    assert_close(stack["sar_descending"][0, ..., 0], bilinear(vv, CORNER))
    assert_close(stack["sar_descending"][0, ..., 1], bilinear(vh, CORNER))
    item = manifest(run_files, "sentinel1").items[0]
    root = f"https://{ASF_HOST}/OPERA/OPERA_L2_RTC-S1/{title}/{title}"
    assert {key: asset["href"] for key, asset in item.stac["assets"].items()} == {
        "VV": f"{root}_VV.tif", "VH": f"{root}_VH.tif",
    }  # fmt: skip
    assert {r.headers.get("authorization") for r in services.asf.requests} == {f"Bearer {TOKEN}"}
    for server in (services.cmr, services.s3, services.login):
        for request in server.requests:
            assert TOKEN not in str(request.headers) and TOKEN not in request.path
    assert services.s3.asked("_VV.tif") and services.s3.asked("_VH.tif")
    assert TOKEN not in written(tmp_path) + caplog.text


def test_searching_downloads_nothing_and_needs_no_token(
    tmp_path: Path,
    roi: Path,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    services.add("2023-06-04T05:30:00", power(1), power(2), CORNER)
    monkeypatch.delenv("EARTHDATA_TOKEN")
    run_files = ingest(opera(tmp_path / "x", roi), until="items")
    listed = manifest(run_files, "sentinel1")
    assert [item.orbit for item in listed.items] == ["descending"]
    assert not services.asf.requests and not services.s3.requests
    assert "need an Earthdata Login token" in caplog.text
    with pytest.raises(CredentialsError, match=r"need an Earthdata Login token.*urs\.earthdata"):
        ingest(opera(tmp_path / "x", roi))


def test_bursts_of_a_day_and_direction_become_one_mosaic(
    tmp_path: Path, roi: Path, services: Services
) -> None:
    """The first burst by time is used where it has data; no data is never interpolated."""
    first, second = np.full(SHAPE, 0.2), np.full(SHAPE, 0.5)
    first[:, 12:] = np.nan  # from 300 m east of the left edge of the region
    services.add("2023-06-04T05:30:03", second, second / 2, CORNER, burst="T131-279917-IW1")
    services.add("2023-06-04T05:30:00", first, first / 2, CORNER)
    services.add("2023-06-04T17:20:00", power(5), power(6), CORNER, "ASCENDING", satellite="S1C")
    stack = stacked(ingest(opera(tmp_path / "x", roi)), "sentinel1")
    assert stack["descending_dates"] == stack["ascending_dates"] == ["2023-06-04"]
    assert_close(stack["sar_ascending"][0, ..., 0], bilinear(power(5), CORNER))

    def dn(value: float) -> int:
        return int(power_to_scaled_decibels(np.array([value], np.float32))[0])

    vv, vh = stack["sar_descending"][0, ..., 0], stack["sar_descending"][0, ..., 1]
    assert np.unique(vv[:, :30]).tolist() == [dn(0.2)]
    assert np.unique(vv[:, 30:]).tolist() == [dn(0.5)]
    assert np.unique(vh[:, :30]).tolist() == [dn(0.1)]
    assert np.unique(vh[:, 30:]).tolist() == [dn(0.25)]


def test_blocks_have_no_seam(tmp_path: Path, roi: Path, services: Services) -> None:
    services.add("2023-06-04T05:30:00", power(1), power(2), CORNER)
    one_block = stacked(ingest(opera(tmp_path / "one", roi)), "sentinel1")
    blocks = stacked(ingest(opera(tmp_path / "many", roi, grid={"block_size": 17})), "sentinel1")
    np.testing.assert_array_equal(blocks["sar_descending"], one_block["sar_descending"])


def test_list_has_only_the_scenes_of_the_direction_that_is_used(
    tmp_path: Path, roi: Path, services: Services
) -> None:
    """CMR states the direction, so that scenes of the other one are neither listed nor read."""
    services.add("2023-06-04T05:30:00", power(1), power(2), CORNER, "descending")
    services.add("2023-06-05T17:30:00", power(3), power(4), CORNER, "ascending")
    for orbits, days in (("both", 2), ("descending", 1)):
        services.asf.requests.clear()
        run_files = ingest(opera(tmp_path / orbits, roi, sentinel1={"orbits": orbits}))
        stack = stacked(run_files, "sentinel1")
        assert stack["descending_dates"] == ["2023-06-04"]
        assert stack["ascending_dates"] == (["2023-06-05"] if orbits == "both" else [])
        listed = manifest(run_files, "sentinel1")
        assert [item.orbit for item in listed.items] == ["descending", "ascending"][:days]
        read = {request.path.rpartition("/")[2].split("_")[4] for request in services.asf.requests}
        assert read == {"20230604T053000Z", "20230605T173000Z"} if days == 2 else {
            "20230604T053000Z"
        }  # fmt: skip


def test_granule_without_direction_is_left_out_with_a_reason(
    tmp_path: Path, roi: Path, services: Services
) -> None:
    services.add("2023-06-04T05:30:00", power(1), power(2), CORNER)
    other = services.add("2023-06-05T05:30:00", power(1), power(2), CORNER, None)
    run_files = ingest(opera(tmp_path / "x", roi), until="items")
    listed = manifest(run_files, "sentinel1")
    assert [item.date.isoformat() for item in listed.items] == ["2023-06-04"]
    ((name, reason),) = listed.left_out
    assert name == other["umm"]["GranuleUR"]
    assert reason.startswith("has no orbit direction")


def test_bursts_of_hh_and_hv_are_left_out_with_a_reason(
    tmp_path: Path, roi: Path, services: Services
) -> None:
    """Polar bursts have no VV and VH; the list names them and their polarisations."""
    services.add("2023-06-04T05:30:00", power(1), power(2), CORNER)
    title = opera_title("2023-06-05T20:39:42", "T017-034783-IW3")
    outline = granule_outlines(services.cmr.granules[0]["umm"])[0]
    polar = granule(title, "2023-06-05T20:39:42Z", outline, polarisations=("HH", "HV"))
    services.cmr.granules = [*services.cmr.granules, polar]
    listed = manifest(ingest(opera(tmp_path / "x", roi), until="items"), "sentinel1")
    assert [item.date.isoformat() for item in listed.items] == ["2023-06-04"]
    assert listed.left_out == ((title, "has no VV and no VH (it has HH and HV)"),)


def test_renewed_token_is_used_without_a_restart(
    tmp_path: Path, roi: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.add("2023-06-04T05:30:00", power(1), power(2), CORNER)
    monkeypatch.delenv("EARTHDATA_TOKEN")
    file = tmp_path / "token"
    file.write_text("stale.token\n")
    file.chmod(0o600)
    monkeypatch.setenv("EARTHDATA_TOKEN_FILE", str(file))
    respond = services.asf.respond

    def renewing(*arguments: Any) -> Any:
        answer = respond(*arguments)
        renewed = tmp_path / f"token.{threading.get_ident()}"
        renewed.write_text(f"Bearer {TOKEN}\n")
        renewed.chmod(0o600)
        renewed.replace(file)  # other threads are reading it
        return answer

    services.asf.respond = renewing  # type: ignore[method-assign]
    stack = stacked(ingest(opera(tmp_path / "x", roi, download={"attempts": 3})), "sentinel1")
    assert stack["sar_descending"].shape == (1, HEIGHT, WIDTH, 2)
    assert "Bearer stale.token" in {r.headers.get("authorization") for r in services.asf.requests}


def test_invalid_token_fails_the_block_and_is_not_logged(
    tmp_path: Path,
    roi: Path,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    title = services.add("2023-06-04T05:30:00", power(1), power(2), CORNER)["umm"]["GranuleUR"]
    monkeypatch.setenv("EARTHDATA_TOKEN", "wrong.secret")
    with pytest.raises(ReadError, match=f"asset VV of item {title}") as raised:
        ingest(opera(tmp_path / "x", roi))
    assert "HTTP 401" in str(raised.value)
    assert "has not approved the application 'Alaska Satellite Facility" in str(raised.value)
    assert "wrong.secret" not in str(raised.value) + caplog.text + written(tmp_path)


def test_reprocessed_granule_is_used_and_the_old_one_is_a_duplicate(
    tmp_path: Path, roi: Path, services: Services
) -> None:
    when = "2023-06-04T05:30:00"
    services.add(when, power(1), power(2), CORNER, processed="20240101T111111Z")
    services.add(when, power(3), power(4), CORNER, processed="20230604T111111Z")
    run_files = ingest(opera(tmp_path / "x", roi))
    (item,) = manifest(run_files, "sentinel1").items
    old = opera_title(when, processed="20230604T111111Z")
    assert [other.id for other in item.duplicates] == [old]
    assert set(item.duplicates[0].stac["assets"]) == {"VV", "VH"}
    assert manifest(run_files, "sentinel1").left_out == ((old, f"older duplicate of {item.id}"),)
    assert_close(
        stacked(run_files, "sentinel1")["sar_descending"][0, ..., 0], bilinear(power(1), CORNER)
    )


def test_burst_without_vh_is_left_out_with_a_reason(
    tmp_path: Path, roi: Path, services: Services
) -> None:
    services.add("2023-06-04T05:30:00", power(1), power(2), CORNER)
    other = services.add("2023-06-05T05:30:00", power(1), power(2), CORNER)
    links = other["umm"]["RelatedUrls"]
    links[:] = [link for link in links if "_VH" not in link["URL"]]
    listed = manifest(ingest(opera(tmp_path / "x", roi), until="items"), "sentinel1")
    assert [item.date.isoformat() for item in listed.items] == ["2023-06-04"]
    assert listed.left_out == ((other["umm"]["GranuleUR"], "has no VH (its assets are VV, mask)"),)


def test_period_without_data_has_one_clear_message(
    tmp_path: Path, roi: Path, services: Services
) -> None:
    with pytest.raises(ItemError, match=r"No Sentinel-1 scene.*C2777436413-ASF of https://cmr"):
        ingest(opera(tmp_path / "x", roi), until="items")


def test_local_archive_has_the_same_pixels(
    tmp_path: Path, roi: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    granule = services.add("2023-06-04T05:30:00", power(1), power(2), CORNER)
    remote = stacked(ingest(opera(tmp_path / "remote", roi)), "sentinel1")
    monkeypatch.delenv("EARTHDATA_TOKEN")
    count = len(services.asf.requests)
    config = configuration(
        tmp_path / "local", roi, [opera_item(granule, services.folder)], START, END,
        sentinel1={"item_format": "opera"}, sentinel2={"enabled": False},
        model={"min_observations": {"s2": 0, "s1": 1}},
    )  # fmt: skip
    run_files: RunFiles = ingest(config)
    np.testing.assert_array_equal(
        stacked(run_files, "sentinel1")["sar_descending"], remote["sar_descending"]
    )
    assert len(services.asf.requests) == count


def test_redirect_to_another_host_does_not_receive_the_token(
    tmp_path: Path, roi: Path, services: Services
) -> None:
    """A login page instead of the scene is also a failed read."""
    title = services.add("2023-06-04T05:30:00", power(1), power(2), CORNER)["umm"]["GranuleUR"]
    services.asf.respond = lambda *_: (  # type: ignore[method-assign]
        302, {"Location": f"https://{LOGIN_HOST}/oauth/authorize"}, b"",
    )  # fmt: skip
    with pytest.raises(ReadError, match=f"asset VV of item {title} .*web page.*has not approved"):
        ingest(opera(tmp_path / "x", roi))
    assert services.asf.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert services.login.requests
    assert not [r for r in services.login.requests if "authorization" in r.headers]
