"""The accuracies in docs/tutorial.md are those of the demo."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest

from tessera_flow.demo.build import PERIOD, make_demo
from tests.support.workflow import REPOSITORY, change, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_accuracies_of_the_page_are_reproduced(tmp_path: Path) -> None:
    """Within 0.01, because the last digits of embeddings differ between processors."""
    page = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| .+ \| (0\.\d+) \| (0\.\d+) \|$", page, flags=re.MULTILINE)
    claimed = [(float(accuracy), float(balanced)) for _, accuracy, balanced in rows]
    assert len(claimed) == 3

    folder = tmp_path / "demo"
    shutil.copy(make_demo(folder).config, folder / "config.yaml")
    change(folder, {"products.formats": ["zarr", "tiles"]})
    run(folder)
    examples = REPOSITORY / "examples"
    labels = tmp_path / "labels.csv"
    runpy.run_path(str(examples / "demo_labels.py"))["write_labels"](labels)
    results = folder / "results" / "demo" / PERIOD
    arguments = [results / "embeddings.zarr", labels, "--column", "cover"]
    arguments += ["--tiles", results / "tiles", "--out", tmp_path / "classes.tif"]
    main = runpy.run_path(str(examples / "classify.py"))["main"]
    result = list(main([str(argument) for argument in arguments]).values())
    assert [pytest.approx(pair, abs=0.01) for pair in claimed] == result
