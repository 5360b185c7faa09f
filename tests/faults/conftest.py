"""Fixtures: an archive, its server, and the expected arrays, read without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from planetary_computer import sas
from planetary_computer.settings import Settings

from tessera_flow.raster import retry

from ..support.fault_archive import HOST, SETTINGS, SHAPE, Archive, read
from ..support.pipeline import ORIGIN, configuration, ingest, write_box
from ..support.scenes import optical, radar
from ..support.servers import FileServer, serve_files

LEFT, TOP = ORIGIN


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(11)
    scenes = folder / "scenes" / "s2"

    def noise() -> np.ndarray:
        return rng.integers(1, 10_000, (*SHAPE, 10)).astype(np.uint16)

    def classes() -> np.ndarray:
        return rng.choice([4, 5, 6, 9, 3], SHAPE).astype(np.uint8)

    power = [rng.uniform(0.01, 1, SHAPE) for _ in range(4)]
    items = [
        optical(scenes, "2021-06-10T10:00:00", noise(), classes(), mgrs_tile="31UFU"),
        optical(scenes, "2021-06-10T10:00:20", noise(), classes(), mgrs_tile="31UFT"),
        optical(scenes, "2021-06-20T10:00:00", noise(), classes(), baseline="05.09"),
        radar(scenes, "2021-06-15T17:00:00", *power[:2], shape=SHAPE),
        radar(scenes, "2021-06-12T05:00:00", *power[2:], "descending", shape=SHAPE),
    ]
    remote = json.loads(json.dumps(items).replace(str(scenes.absolute()), f"{HOST}/s2"))
    roi = write_box(folder / "roi.geojson", LEFT, TOP - 1400, LEFT + 1500, TOP)
    source = {"provider": "mpc", "location": str(folder / "items.json")}
    config = configuration(
        folder, roi, remote, "2021-06-01", "2021-06-30",
        sentinel2=source, sentinel1=source, download=SETTINGS,
    )  # fmt: skip
    return Archive(folder, config, ingest(config, until="items"), folder / "scenes")


@pytest.fixture
def server(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The archive at its own host name, with a signing service."""
    with serve_files(archive.scenes, signed=True) as running:
        monkeypatch.setenv("http_proxy", running.url)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("PC_SDK_SAS_URL", "http://signing.example/sas")
        monkeypatch.setattr(retry, "FIRST_PAUSE", 0.002)
        Settings.get.cache_clear()
        sas.TOKEN_CACHE.clear()
        yield running
    Settings.get.cache_clear()
    sas.TOKEN_CACHE.clear()


@pytest.fixture(scope="module")
def undisturbed(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Arrays read from files, without a server."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = {}
    for sensor in ("sentinel2", "sentinel1"):
        local = folder / f"{sensor}.json"
        text = archive.list_of(sensor).read_text()
        local.write_text(text.replace(f"{HOST}/", f"{archive.scenes.absolute()}/"))
        arrays, attributes = read(archive, folder / f"{sensor}.zip", sensor, local)
        assert attributes["left_out"] == attributes["replaced"] == []
        assert all(any(data) for data in arrays.values())
        result |= {f"{sensor}/{name}": data for name, data in arrays.items()}
    assert len(result) == 3 + 4
    return result
