"""The accuracies in docs/tutorial.md are those of the demo."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import yaml

from tessera_flow.demo.build import PERIOD, make_demo
from tests.support.workflow import REPOSITORY, change, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_accuracies_of_the_page_are_reproduced(tmp_path: Path) -> None:
    """Within 0.01, because the last digits of embeddings differ between processors."""
    page = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| .+ \| (0\.\d+) \| (0\.\d+) \|$", page, flags=re.MULTILINE)
    claimed = [(float(accuracy), float(balanced)) for _, accuracy, balanced in rows]
    assert len(claimed) == 3

    (config,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)

    folder = tmp_path / "demo"
    shutil.copy(make_demo(folder).config, folder / "config.yaml")
    examples = REPOSITORY / "examples"
    runpy.run_path(str(examples / "demo_labels.py"))["write_labels"](folder / "labels.csv")
    change(folder, {"products.formats": ["zarr", "tiles"], **yaml.safe_load(config)})
    run(folder)
    results = folder / "results" / "demo" / PERIOD
    record = json.loads((results / "maps" / "cover" / "map.json").read_text())
    assert record["labels"]["states"] == {"ok": 1451, "no embedding": 199}
    assert (results / "maps" / "cover" / "map.html").exists()
    arguments = [results, folder / "labels.csv", "--column", "cover", "--fold-block", "200"]
    main = runpy.run_path(str(examples / "compare_inputs.py"))["main"]
    result = list(main([str(argument) for argument in arguments]).values())
    assert [pytest.approx(pair, abs=0.01) for pair in claimed] == result
    scores = record["accuracy"]["scores"]
    assert result[0] == (scores["accuracy"], scores["balanced_accuracy"])
