"""Reads of scattered pixels over HTTP: only the blocks that contain them, each once."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.sites import CASES, count_reads, write_band

from tessera_flow.raster import pixels

EDGE = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bands")
    write_band(folder / "10m.tif", EDGE, 10.0)
    write_band(folder / "20m.tif", EDGE, 20.0)
    return folder


@pytest.mark.parametrize(("title", "name", "zone", "reach"), CASES, ids=[c[0] for c in CASES])
@pytest.mark.parametrize("points", [12, 400])
def test_each_block_is_read_once(
    folder: Path, monkeypatch, title: str, name: str, zone: str, reach: float, points: int
) -> None:
    # Few blocks at a time, as in files of which not all blocks fit the memory of a batch.
    monkeypatch.setattr(pixels, "BATCH_BYTES", 10 * 2 * 512**2)
    reads = count_reads(folder, name, points, EDGE, zone, reach)
    assert reads.blocks >= 8
    assert reads.requests <= 1 + reads.blocks
    header = 32768
    assert reads.block_bytes <= reads.received <= 1.2 * reads.block_bytes + header
