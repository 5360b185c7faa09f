"""No token in the files and the output of a run, whether it succeeds or fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ..support.scenes import optical, radar
from ..support.servers import Fault, FileServer, serve_files
from ..support.workflow import CHECKPOINT, box, change, run, write_config

pytestmark = pytest.mark.e2e

HOST = "http://scenes.blob.core.windows.net"
SHAPE = (40, 50)
KEY = "Subscr1ption-key-secret"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Serve an archive whose URLs the library of Planetary Computer signs, behind a proxy, with a
    local signing service."""
    rng = np.random.default_rng(3)
    scenes = tmp_path / "archive" / "s2"
    items = [
        optical(scenes, "2021-06-10T10:00:00", rng.integers(1, 9000, (*SHAPE, 10))),
        optical(scenes, "2021-06-20T10:00:00", rng.integers(1, 9000, (*SHAPE, 10))),
        radar(scenes, "2021-06-12T05:00:00", 0.1, 0.02, "descending"),
    ]
    folder = tmp_path / "run"
    folder.mkdir()
    text = json.dumps({"type": "FeatureCollection", "features": items})
    (folder / "items.json").write_text(text.replace(str(scenes), f"{HOST}/s2"))
    box(folder / "roi.geojson", (0, 50), (0, 40))
    shutil.copy(CHECKPOINT, folder / "weights.pt")
    source = {"provider": "mpc", "location": "items.json"}
    settings = {
        "regions": {"here": {"roi": "roi.geojson"}},
        "periods": {"then": {"start": "2021-06-01", "end": "2021-06-30"}},
        "model": {"weights": "weights.pt"},
        "sentinel2": source,
        "sentinel1": source,
        "download": {"attempts": 2},
        "paths": {"keep": ["slices", "stack", "patches"]},
    }
    write_config(folder, settings)
    with serve_files(tmp_path / "archive", signed=True) as running:
        monkeypatch.setenv("http_proxy", running.url)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("PC_SDK_SAS_URL", "http://signing.example/sas")
        monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", KEY)
        yield running


def command_lines() -> str:
    """Return the arguments of every process of the machine (Linux)."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                lines.append((entry / "cmdline").read_bytes().decode(errors="replace"))
    return "\n".join(lines)


def assert_no_secret(folder: Path, output: str) -> int:
    """Search all files below `folder`, those of Snakemake included, and the output.

    Block files are zip files with uncompressed entries, so their metadata are searched, too.

    Returns:
        The number of files searched.
    """
    secrets = (b"T0ken-", b"sig=", KEY.encode())
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        for secret in secrets:
            assert secret not in data, f"{path} contains {secret.decode()}"
    for secret in secrets:
        assert secret.decode() not in output
    return len(files)


def test_no_token_in_files_output_or_command_lines(server: FileServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lines: list[str] = []

    def watch() -> None:
        if len(lines) < 200:
            lines.append(command_lines())

    server.on_request = watch
    server.faults = [Fault("status", "_B08_", count=None, value=403)]
    output = run(folder, "--verbose", fails=True)
    assert "asset B08 of item" in output and "HTTP 403" in output
    assert "again in" in (next(folder.rglob("download/sentinel2/**/*.log"))).read_text()
    assert_no_secret(folder, output)

    missing = next((server.folder / "s2").rglob("*_B08_*")).name
    server.faults = [Fault("status", missing, count=None, value=404), Fault("reset", "iw-v")]
    change(folder, {"download.max_missing_percent": 50})
    output = run(folder, "--verbose")
    assert_no_secret(folder, output)
    assert list(folder.rglob("embeddings.zarr"))
    assert any("left_out" in p.read_bytes().decode("latin-1") for p in folder.rglob("*.zip"))

    assert server.tokens and all(token in " ".join(server.paths) for token in server.tokens)
    assert any("snakemake" in line for line in lines)
    assert not any("T0ken-" in line or KEY in line for line in lines)
