"""The numbers of docs/fidelity.md are those of benchmarks/fidelity.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks import fidelity

PAGE = Path(__file__).parents[2] / "docs/fidelity.md"


def test_the_table_of_differences_is_what_the_benchmark_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fidelity.py"])
    fidelity.main()
    printed = capsys.readouterr().out.strip()
    assert printed.count("\n") == 12
    assert printed in PAGE.read_text(encoding="utf-8"), (
        "docs/fidelity.md has other numbers than `python benchmarks/fidelity.py`:\n" + printed
    )
    for line in printed.splitlines():
        if line.endswith("here | 0 | | | |"):  # the window changes nothing
            break
    else:
        raise AssertionError(printed)
