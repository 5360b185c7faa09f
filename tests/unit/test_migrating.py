"""Every configuration key and option that docs/migrating.md names exists."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from tessera_flow.cli.main import parser
from tessera_flow.config.configuration import Config
from tessera_flow.config.messages import key_paths

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
ROWS = [
    (re.findall(r"`([^`]+)`", theirs), ours)
    for theirs, ours in re.findall(
        r"^\| (`[^|]+) \| ([^|]+) \| [^|]+ \|$", PAGE, flags=re.MULTILINE
    )
]


def options(command: argparse.ArgumentParser) -> set[str]:
    """Return the long options of a command and its subcommands."""
    result: set[str] = set()
    for action in command._actions:
        result |= {name for name in action.option_strings if name.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                result |= options(inner)
    return result


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Return the configuration keys, and the options of the commands and of Snakemake."""
    import snakemake.cli  # takes a second

    commands = options(parser()) | options(snakemake.cli.get_argument_parser())
    return commands | set(key_paths(Config))


@pytest.mark.parametrize(("theirs", "ours"), ROWS, ids=[row[0][0] for row in ROWS])
def test_names_on_our_side_exist(known: set[str], theirs: list[str], ours: str) -> None:
    names = re.findall(r"`([^`]+)`", ours)
    assert names or ours.startswith("not "), f"{theirs}: no replacement is stated"
    assert not [name for name in names if name not in known]


def test_table_is_read() -> None:
    assert len(ROWS) > 20
