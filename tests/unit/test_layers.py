"""Who may import whom, as docs/design.md says it; the table there is the one that is tested."""

from __future__ import annotations

import ast
import re
import sys
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src/tessera_flow"
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))
RULES = sorted((ROOT / "workflow/rules").glob("*.smk"))


def module_name(path: Path) -> str:
    """`products.arrays` for src/tessera_flow/products/arrays.py; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layers() -> list[tuple[str, list[str]]]:
    """(name, module patterns) of each row of the table in docs/design.md, lowest first."""
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    section = text.split("## Modules of `tessera_flow`", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (\w+) \| (`[^|]*`) \|", section, flags=re.MULTILINE)
    return [(name, re.findall(r"`([^`]+)`", patterns)) for name, patterns in rows]


LAYERS = layers()


def matches(module: str, pattern: str) -> bool:
    """`models.*` stands for the package `models` and what is in it."""
    return fnmatch(module, pattern) or pattern == f"{module}.*"


def layer_numbers(module: str) -> list[int]:
    """The rows of the table that name a module."""
    return [
        number
        for number, (_, patterns) in enumerate(LAYERS)
        if any(matches(module, pattern) for pattern in patterns)
    ]


def imports(path: Path, package: str | None = None) -> set[str]:
    """Full names of the modules a file imports, anywhere in it.

    `from a.b import c` gives `a.b.c` (c may be a module or not). Relative imports are
    resolved against `package`.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                assert package is not None, f"{path} has a relative import"
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def package_imports(module: str) -> set[str]:
    """Full names that a module of the package imports."""
    path = MODULES[module]
    full = f"tessera_flow.{module}" if module else "tessera_flow"
    return imports(path, full if path.name == "__init__.py" else full.rpartition(".")[0])


def own_imports(module: str) -> set[str]:
    """The modules of the package that a module imports, by their names in MODULES."""
    found = set()
    for name in package_imports(module):
        if not name.startswith("tessera_flow."):
            continue
        inner = name.removeprefix("tessera_flow.")
        if inner not in MODULES:
            inner = inner.rpartition(".")[0]
        if inner in MODULES and inner:
            found.add(inner)
    return found


def test_table_is_found() -> None:
    assert [name for name, _ in LAYERS][:2] == ["base", "settings"]
    assert LAYERS[-1][0] == "front"
    assert "errors" in LAYERS[0][1]


def test_resolution_of_imports() -> None:
    assert own_imports("config") == {
        "config_errors",
        "config_sections",
        "config_values",
        "errors",
    }
    assert "atomic" in own_imports("products.arrays")
    assert "products.blocks" in own_imports("products.arrays")


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_every_module_stands_once_in_the_table(module: str) -> None:
    rows = layer_numbers(module)
    assert len(rows) == 1, (
        f"{module} stands in {len(rows)} rows of the module table in docs/design.md: put it in "
        "exactly one"
    )


def test_the_table_names_no_module_that_is_gone() -> None:
    patterns = [pattern for _, row in LAYERS for pattern in row]
    gone = [p for p in patterns if not any(matches(module, p) for module in MODULES if module)]
    assert not gone, f"docs/design.md names modules that do not exist: {gone}"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_its_layer_or_below(module: str) -> None:
    if not module:
        assert not own_imports(module), "the package itself imports none of its modules"
        return
    own = max(layer_numbers(module), default=-1)
    upwards = {name for name in own_imports(module) if min(layer_numbers(name), default=99) > own}
    assert not upwards, f"{module} ({LAYERS[own][0]}) imports from layers above it: {upwards}"


def reached(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Whom each layer reaches, by one arrow or several."""
    while True:
        more = {(a, d) for a, b in edges for c, d in edges if b == c and a != d} - edges
        if not more:
            return edges
        edges = edges | more


def test_the_picture_of_imports_is_true() -> None:
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    section = text.split("## Modules of `tessera_flow`", 1)[1].split("```")[1]
    names = [name for name, _ in LAYERS]
    drawn = set()
    for line in section.splitlines():
        chain = [part.strip() for part in line.split("──►")]
        drawn |= {(a, b) for a, b in pairwise(chain) if a in names}
    layer = {module: names[layer_numbers(module)[0]] for module in MODULES if module}
    found = {(layer[module], layer[other]) for module in layer for other in own_imports(module)}
    assert reached(drawn) == reached({(a, b) for a, b in found if a != b})


@pytest.mark.parametrize("module", MODULES)
def test_package_does_not_know_snakemake(module: str) -> None:
    names = {name.split(".")[0] for name in package_imports(module)}
    assert not {name for name in names if name.startswith("snakemake")}


@pytest.mark.parametrize("module", MODULES)
def test_no_import_by_a_string(module: str) -> None:
    """`importlib.import_module(...)` would pass by the tests above."""
    assert not {name for name in package_imports(module) if name.endswith("import_module")}
    assert "__import__" not in MODULES[module].read_text(encoding="utf-8")


def adaptors() -> set[str]:
    """Scripts that other scripts import."""
    names = {path.stem for path in SCRIPTS}
    return {name.split(".")[0] for path in SCRIPTS for name in imports(path)} & names


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_thin(path: Path) -> None:
    """It reads `snakemake` and calls one function: no pixels here."""
    allowed = {"tessera_flow", "snakemake"} | adaptors() | sys.stdlib_module_names
    others = {name.split(".")[0] for name in imports(path)} - allowed
    assert not others, f"{path.name} imports {others}: move the work into tessera_flow"


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_hold_declarations_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^\s+run:", text, flags=re.MULTILINE), f"{path.name} has a run: block"
    if path.name != "common.smk":
        assert not re.search(r"^\s*(def|class)\s", text, flags=re.MULTILINE), (
            f"{path.name} defines a function: it belongs in common.smk"
        )
