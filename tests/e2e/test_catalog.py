"""Requirements of the Snakemake workflow catalog, and the entry of this workflow."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support.workflow import REPOSITORY, run

CATALOG = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())
RULES = REPOSITORY / "workflow" / "rules"


def test_files_required_by_the_catalog_exist() -> None:
    for name in ("workflow/Snakefile", "config/README.md", "config/config.yaml", "LICENSE"):
        assert (REPOSITORY / name).is_file(), name
    usage = CATALOG["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    for name in re.findall(r"\S+/\S+\.(?:txt|yaml)", usage["software-stack-deployment"]["other"]):
        assert (REPOSITORY / name).is_file(), name


def test_every_result_in_a_report_has_a_caption() -> None:
    results = [
        text
        for path in RULES.glob("*.smk")
        for text in re.findall(r"=report\(\n(.*?)\n {8}\)", path.read_text(), re.DOTALL)
    ]
    assert len(results) == 3
    for text in results:
        caption = re.search(r'caption="(.+)"', text)
        assert caption is not None, text
        assert (RULES / caption[1]).read_text().strip().endswith("."), text


@pytest.mark.e2e
def test_report_can_be_created(finished: Path) -> None:
    """The catalog entry has `report: true`."""
    assert CATALOG["usage"]["report"] is True
    run(finished, "--report", "report.zip")
    with zipfile.ZipFile(finished / "report.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith("preview.png")]
        texts = [archive.read(n).decode() for n in archive.namelist() if n.endswith(".html")]
    assert len(names) == 1
    caption = "three principal components of the embeddings of here, then"
    assert any(caption in text or caption in json.dumps(text) for text in texts)
