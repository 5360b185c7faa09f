"""docs/migrating.md: every setting of the reference has a row, every name in it exists."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import snakemake.cli

from tessera_flow.cli.main import parser
from tessera_flow.config.configuration import Config
from tessera_flow.config.messages import key_paths

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
ROWS = [
    (re.findall(r"`([^`]+)`", theirs), ours, note)
    for theirs, ours, note in re.findall(
        r"^\| (`[^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, flags=re.MULTILINE
    )
]

SETTINGS = [
    "INPUT_TIFF",
    "OUT_DIR",
    "TEMP_DIR",
    "PYTHON_ENV",
    "YEAR",
    "RESOLUTION",
    "DATA_SOURCE",
    "START_TIME_OVERRIDE",
    "END_TIME_OVERRIDE",
    "S1_ENABLED",
    "S2_ENABLED",
    "S1_PARTITIONS",
    "S2_PARTITIONS",
    "S1_TOTAL_WORKERS",
    "S2_TOTAL_WORKERS",
    "S1_WORKER_MEMORY",
    "S2_WORKER_MEMORY",
    "S1_CHUNKSIZE",
    "S2_CHUNKSIZE",
    "S1_MIN_COVERAGE",
    "S2_MIN_COVERAGE",
    "S1_OVERWRITE",
    "S2_OVERWRITE",
    "S1_ORBIT_STATE",
    "S2_MAX_CLOUD",
    "DOWNSAMPLE_RATE",
    "patch_size",
    "block_size",
    "num_workers",
    "BASE_DATA_DIR",
    "CPU_GPU_SPLIT",
    "MAX_CONCURRENT_PROCESSES_CPU",
    "MAX_CONCURRENT_PROCESSES_GPU",
    "AVAILABLE_CORES",
    "GPU_BATCH_SIZE",
    "CHECKPOINT_PATH",
    "--dim",
    "--int8",
    "--bf16",
    "--batch-pixels",
]
"""The settings at the head of the reference's scripts, and the options of its inference."""


def options(command: argparse.ArgumentParser) -> set[str]:
    """Long options of a command and its subcommands."""
    found: set[str] = set()
    for action in command._actions:
        found |= {name for name in action.option_strings if name.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found |= options(inner)
    return found


OPTIONS = options(parser()) | options(snakemake.cli.get_argument_parser())


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_of_the_reference_has_one_row(setting: str) -> None:
    assert [theirs for theirs, _, _ in ROWS].count([setting]) + sum(
        setting in theirs for theirs, _, _ in ROWS if len(theirs) > 1
    ) == 1


def test_rows_are_of_these_settings_alone() -> None:
    assert sorted(name for theirs, _, _ in ROWS for name in theirs) == sorted(SETTINGS)


@pytest.mark.parametrize(("theirs", "ours", "note"), ROWS, ids=[row[0][0] for row in ROWS])
def test_every_name_on_our_side_exists(theirs: list[str], ours: str, note: str) -> None:
    names = re.findall(r"`([^`]+)`", ours)
    assert names or ours.startswith("not "), f"{theirs}: nothing is said to take its place"
    for name in names:
        assert name in OPTIONS or name in set(key_paths(Config)), f"{theirs}: {name} is neither"
    if ours.startswith("not "):
        assert "tests/" in note, f"{theirs}: no test shows that it is unnecessary"
