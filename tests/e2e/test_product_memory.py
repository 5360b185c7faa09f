"""No product holds its region in memory, measured with the benchmark of large regions."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.products import DIM, PRODUCTS, measure, write_first

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_peak_memory_of_every_product(tmp_path: Path) -> None:
    """Each in a process of its own, of a region with 2 GB of codes (smooth, so that the test is
    quick): less than half of that, with what the interpreter and its libraries take."""
    edge = 4000
    write_first(tmp_path / "block.zip", noise=0)
    peaks = measure(tmp_path, edge, list(PRODUCTS))
    assert set(peaks) == set(PRODUCTS)
    assert max(peaks.values()) * 2**20 < edge * edge * DIM / 2, peaks


def test_peak_memory_of_the_geotiff(tmp_path: Path) -> None:
    """It must not grow with the region, as when freed tiles were kept: 730 MiB here, now 416."""
    write_first(tmp_path / "block.zip", noise=0)
    peaks = measure(tmp_path, 2000, ["cog"], cog_dtype="int8")
    assert peaks["cog"] < 550, peaks
