"""Limits on the length of files and functions, and on the names of modules."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from .test_layers import MODULES, SCRIPTS, adaptors, own_imports

ROOT = Path(__file__).resolve().parents[2]

FILE_LINES = {"src": 500, "workflow": 500, "tools": 500, "benchmarks": 500, "examples": 500,
              "tests": 600}  # fmt: skip
FUNCTION_LINES = {"src": 60, "workflow": 60, "tools": 60, "benchmarks": 60, "examples": 60,
                  "tests": 70}  # fmt: skip
"""Without the docstring."""
SNAKEFILE_LINES = 60
RULE_FILE_LINES = 150
SCRIPT_LINES = 40
ADAPTOR_LINES = 105
"""Limit of a script that other scripts import: it holds their common steps."""
VAGUE_NAMES = {"utils", "util", "common", "misc", "helpers", "helper", "tools"}
"""Names that do not say what a module contains."""

PYTHON = sorted(
    path.relative_to(ROOT) for folder in FILE_LINES for path in (ROOT / folder).rglob("*.py")
)


def lines(path: Path) -> int:
    return (ROOT / path).read_text(encoding="utf-8").count("\n")


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines from `def` to the end, without the docstring."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return length
    docstring = node.body[0]
    return length - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def functions(tree: ast.Module) -> list[tuple[str, int]]:
    """Return the name and the number of lines of each function."""
    return [
        (node.name, function_lines(node))
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@cache
def parsed(path: Path) -> tuple[list[tuple[str, int]], str | None]:
    """Return the functions of a file, see `functions`, and its docstring."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return functions(tree), ast.get_docstring(tree)


def test_a_function_is_measured_without_its_docstring() -> None:
    body = "\n".join(["    x = 1"] * 5)
    source = f'async def f():\n    """One.\n\n    Two.\n    """\n{body}\n'
    assert functions(ast.parse(source)) == [("f", 6)]


def test_files_and_functions_are_short() -> None:
    assert {path.parts[0] for path in PYTHON} == set(FILE_LINES)
    long = [
        f"{path} has {lines(path)} lines"
        for path in PYTHON
        if lines(path) > FILE_LINES[path.parts[0]]
    ]
    for path in PYTHON:
        limit = FUNCTION_LINES[path.parts[0]]
        long += [f"{path}: {name} ({n} lines)" for name, n in parsed(path)[0] if n > limit]
    assert long == [], "split them"


def test_the_workflow_is_short() -> None:
    limits = {ROOT / "Snakefile": SNAKEFILE_LINES, ROOT / "workflow/Snakefile": SNAKEFILE_LINES}
    limits |= dict.fromkeys((ROOT / "workflow/rules").glob("*.smk"), RULE_FILE_LINES)
    assert len(limits) > 8
    long = {path.name: lines(path) for path, limit in limits.items() if lines(path) > limit}
    assert not long, f"too long: {long}"


def test_modules_have_a_docstring_and_a_specific_name() -> None:
    names = [name for name in MODULES if name]
    vague = [name for name in names if name.rpartition(".")[2] in VAGUE_NAMES]
    assert vague == [], "name them after what is in them"
    assert [n for n in names if not parsed(MODULES[n].relative_to(ROOT))[1]] == []


def test_imports_have_no_cycle() -> None:
    try:
        order = list(TopologicalSorter({m: own_imports(m) for m in MODULES if m}).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")
    assert order.index("errors") < order.index("jobs.files")


def test_scripts_are_short() -> None:
    limits = {path: ADAPTOR_LINES if path.stem in adaptors() else SCRIPT_LINES for path in SCRIPTS}
    long = {path.name: lines(path) for path, limit in limits.items() if lines(path) > limit}
    assert limits and not long, f"too long: {long}"
