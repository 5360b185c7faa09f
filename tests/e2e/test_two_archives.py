"""Complete workflow with optical scenes from Earth Search and radar scenes from OPERA, under their
real host names, and a check of all files of a run for secrets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_flow.jobs.files import RunFiles
from tessera_flow.sensors.sentinel1 import power_to_scaled_decibels

from ..support import workflow
from ..support.archives import earth_search_item, opera_burst
from ..support.cmr_server import (
    ASF_HOST,
    CMR_HOST,
    LOGIN_HOST,
    S3_HOST,
    AsfServer,
    CmrServer,
    LoginServer,
    S3Server,
)
from ..support.internet import internet
from ..support.pipeline import ORIGIN, read_config, stacked
from ..support.scenes import optical
from ..support.servers import FileServer, Server, StacServer

pytestmark = pytest.mark.e2e

SEARCH_HOST = "earth-search.aws.element84.com"
COGS = "sentinel-cogs.s3.us-west-2.amazonaws.com"
WITH_OFFSET = "e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com"
TOKEN = "eyJ0eXAiOiJKV1Qi.b3BlcmE.c2VjcmV0LXRva2Vu"
SHAPE = (40, 50)
LEFT, TOP = ORIGIN


@dataclass
class EarthSearchServer(StacServer):
    """STAC API with the URL of Earth Search."""

    @property
    def url(self) -> str:
        return f"https://{SEARCH_HOST}/v1"

    def respond(self, method: str, path: str, headers: Any, body: Any) -> Any:
        return super().respond(method, path.removeprefix("/v1") or "/", headers, body)


@dataclass
class Archives:
    """Servers by host, and the pixels that they serve."""

    hosts: dict[str, Server]
    bands: dict[str, np.ndarray]
    power: np.ndarray


def archives(folder: Path) -> Archives:
    """Create two optical scenes, one with the offset removed at the archive, and a radar burst."""
    rng = np.random.default_rng(11)
    bands = {day: rng.integers(1001, 9000, (*SHAPE, 10)).astype(np.uint16) for day in "37"}
    items = []
    for day, host in (("3", COGS), ("7", WITH_OFFSET)):
        scene = optical(folder, f"2023-06-0{day}T10:00:00", bands[day], baseline="05.09",
                        href_prefix=f"https://{host}")  # fmt: skip
        items.append(earth_search_item(scene, host.split(".")[0]))
    power = np.full((20, 24), 0.25)
    granules = [opera_burst(folder, "2023-06-04T05:30:00", power, power / 4,
                            (LEFT - 60, TOP + 60))]  # fmt: skip
    files = FileServer(folder=folder)
    return Archives(
        {
            SEARCH_HOST: EarthSearchServer(items=items, post=True),
            COGS: files,
            WITH_OFFSET: files,
            CMR_HOST: CmrServer(granules=granules),
            ASF_HOST: AsfServer(token=TOKEN),
            S3_HOST: S3Server(folder=folder),
            LOGIN_HOST: LoginServer(),
        },
        bands,
        power,
    )


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archives]:
    result = archives(tmp_path / "archive")
    with internet(tmp_path / "tls", result.hosts) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("EARTHDATA_TOKEN", raising=False)
        monkeypatch.setenv("EARTHDATA_TOKEN_FILE", str(tmp_path / "token"))
        (tmp_path / "token").write_text(TOKEN)
        (tmp_path / "token").chmod(0o600)
        yield result


def configured(folder: Path) -> Path:
    folder.mkdir()
    workflow.box(folder / "roi.geojson", (0, SHAPE[1]), (0, SHAPE[0]))
    document = workflow.document(folder, "2023-06-01", "2023-06-30")
    document |= {
        "model": {"weights": str(workflow.CHECKPOINT)},
        "sentinel2": {"provider": "earth-search"},
        "sentinel1": {"provider": "opera"},
        "paths": {"keep": ["stack"]},
        "grid": {"block_size": 50, "patch_size": 25},
        "download": {"attempts": 2, "threads": 2},
    }
    workflow.write_config(folder, document)
    return folder


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_embeddings_from_two_archives(
    tmp_path: Path, served: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = configured(tmp_path / "run")
    output = workflow.run(folder)
    monkeypatch.chdir(folder)
    run_files = RunFiles(read_config(folder / "config.yaml"))
    s2 = stacked(run_files, "sentinel2")
    assert s2["dates"] == ["2023-06-03", "2023-06-07"]
    np.testing.assert_array_equal(s2["bands"][0], served.bands["3"])
    np.testing.assert_array_equal(s2["bands"][1], served.bands["7"] - 1000)
    s1 = stacked(run_files, "sentinel1")
    assert s1["descending_dates"] == ["2023-06-04"] and s1["ascending_dates"] == []
    for channel, power in enumerate((0.25, 0.25 / 4)):
        expected = power_to_scaled_decibels(np.array([power], np.float32))[0]
        assert np.unique(s1["sar_descending"][0, ..., channel]).tolist() == [expected]
    codes = np.load(folder / "results/here/then/stitched_representation.npy")
    assert codes.shape == (*SHAPE, 128) and len(np.unique(codes)) > 10
    record = (folder / "results/here/then/stitched_representation.json").read_text()
    assert f"https://{SEARCH_HOST}/v1" in record and CMR_HOST in record
    assert TOKEN.encode() not in all_bytes(folder) + output.encode()
    for host, server in served.hosts.items():
        sent = {request.headers.get("authorization") for request in server.requests}
        assert server.requests or host == LOGIN_HOST
        assert sent <= ({f"Bearer {TOKEN}"} if host == ASF_HOST else {None})


def test_rejected_token_is_in_no_file_of_a_failed_run(tmp_path: Path, served: Archives) -> None:
    secret = "another.secret-token"
    (tmp_path / "token").write_text(secret)
    folder = configured(tmp_path / "run")
    output = workflow.run(folder, "--verbose", fails=True)
    assert "asset VV of item OPERA_L2_RTC-S1_T131-279916-IW1" in output
    assert secret.encode() not in all_bytes(folder) + output.encode()
