"""`make audit` never passes in silence if nothing was looked up."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "audit.py"))
WHOLE = {"name": "numpy", "version": "2.4.0", "vulns": []}
OWN = {"name": "tessera-flow", "skip_reason": "not found"}
TORCH = {"name": "torch", "skip_reason": "not found on PyPI: torch (2.9.0+cpu)"}
ABSENT = {"name": "zarr", "skip_reason": "not found on PyPI: zarr (3.1.6)"}
BAD = {
    "name": "zipp",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}, {"id": "PYSEC-2", "fix_versions": []}],
}


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([WHOLE, OWN], 0, "1 of 1 packages"),
        ([WHOLE, OWN, TORCH], 0, "1 of 2 packages"),
        ([WHOLE, OWN, ABSENT], 2, "NOT AUDITED: 1 packages (zarr"),
        ([OWN, TORCH, ABSENT], 2, "0 of 2 packages"),
        ([OWN, TORCH], 2, "NOT AUDITED"),
        ([OWN], 2, "NOT AUDITED"),
        ([WHOLE, BAD], 1, "zipp 1.0: PYSEC-1, fixed in 1.1"),
        ([ABSENT, BAD], 1, "zipp 1.0: PYSEC-2, fixed in no version"),
    ],
)
def test_result(packages: list[dict[str, Any]], status: int, words: str) -> None:
    result, lines = TOOL["judge"]({"dependencies": packages})
    assert result == status
    assert words in "\n".join(lines)


def test_a_tool_that_does_not_start_is_no_pass(capfd: pytest.CaptureFixture[str]) -> None:
    assert TOOL["main"]("false") == 2
    assert "NOT AUDITED: pip-audit has ended with 1" in capfd.readouterr().out
