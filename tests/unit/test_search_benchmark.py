"""benchmarks/search.py runs and returns all items that it serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search.py"


def test_search_benchmark_returns_every_item() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--items", "300"], capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in
            done.stdout.splitlines()[2:]]  # fmt: skip
    assert [row[:3] for row in rows] == [[form, "300", "0"] for form in ("api", "cmr", "parquet")]
