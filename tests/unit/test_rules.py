"""The paths in the rules are those of the package, and each rule names its files in its opening."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from tessera_flow.jobs.paths import PathPatterns

RULES = sorted((Path(__file__).parents[2] / "workflow/rules").glob("*.smk"))
PATTERNS = set(asdict(PathPatterns.below("<work>", "<results>")).values())


def literals(text: str) -> set[str]:
    return set(re.findall(r'"(<(?:work|results)>/[^"]*)"', text))


def test_the_rules_name_the_files_of_the_package() -> None:
    in_rules = {path for file in RULES for path in literals(file.read_text(encoding="utf-8"))}
    assert in_rules <= PATTERNS
    # These are outputs only on condition, or none, so the rules take them from `ProductFiles`.
    ends = (".vrt", "/arrays.json", "/vrt.json", "/cog.json", "/scenes.parquet", "/cube.zarr")
    conditional = {
        p
        for p in PATTERNS
        if "stitched_" in p or ("/embeddings" in p and p.endswith(".tif")) or p.endswith(ends)
    }
    assert PATTERNS - in_rules == conditional


@pytest.mark.parametrize("file", RULES, ids=lambda path: path.name)
def test_the_opening_of_a_rule_file_lists_its_rules(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    rules = re.findall(r"^(?:use rule \w+ as|rule) (\w+)", text, flags=re.MULTILINE)
    opening = text.split("\n\n", 1)[0]
    assert all(re.search(rf"\b{rule}\b", opening) for rule in rules)


@pytest.mark.parametrize("file", RULES, ids=lambda path: path.name)
def test_log_and_benchmark_lie_side_by_side(file: Path) -> None:
    """`logs/.../<rule>.log` and `.bench.tsv`; the report finds both by these names."""
    text = file.read_text(encoding="utf-8")
    logs = re.findall(r'^    log:\n        "(<logs>/[^"]*)\.log",$', text, flags=re.MULTILINE)
    benchmarks = re.findall(
        r'^    benchmark:\n        "(<logs>/[^"]*)\.bench\.tsv"$', text, flags=re.MULTILINE
    )
    assert len(re.findall(r"^    log:", text, flags=re.MULTILINE)) == len(logs)
    assert [log for log in logs if not log.endswith(("/plan", "/status"))] == benchmarks
