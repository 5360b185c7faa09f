"""Packages import only those listed before them in the table of docs/design.md."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERNALS = ("internals.smk", "internals_locks.smk", "internals_resources.smk")
PACKAGE = ROOT / "src/tessera_flow"
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))
RULES = sorted((ROOT / "workflow/rules").glob("*.smk"))


def module_name(path: Path) -> str:
    """Return `products.arrays` for src/tessera_flow/products/arrays.py; empty for the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def packages() -> list[str]:
    """Return the names of the packages in the tables of docs/design.md, lowest first; the parts of
    a package follow it."""
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    section = text.split("## Packages of `tessera_flow`", 1)[1].split("\n## ", 1)[0]
    names = re.findall(r"^\| `([a-z_.]+)` \|", section, flags=re.MULTILINE)
    tops = [name for name in names if "." not in name]
    return sorted(names, key=lambda name: tops.index(name.partition(".")[0]))


FILES = 30
"""The most files of a folder."""
BASE = "tessera_flow"
"""The files directly in the folder of the package, below all packages."""
PACKAGES = [BASE, *packages()]


def package_of(module: str) -> str:
    """Return the package of a module: the longest package name that it is in."""
    names = [name for name in PACKAGES if module == name or module.startswith(f"{name}.")]
    return max(names, key=len, default=BASE)


@cache
def imports(path: Path, package: str | None = None) -> frozenset[str]:
    """Return the full names of the modules that a file imports, anywhere in it.

    `from a.b import c` gives `a.b.c` (c may be a module or not). Relative imports are
    resolved against `package`.
    """
    result: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                assert package is not None, f"{path} has a relative import"
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            result |= {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(result)


def package_imports(module: str) -> frozenset[str]:
    """Return the full names that a module of the package imports."""
    path = MODULES[module]
    full = f"tessera_flow.{module}" if module else "tessera_flow"
    return imports(path, full if path.name == "__init__.py" else full.rpartition(".")[0])


@cache
def own_imports(module: str) -> frozenset[str]:
    """Return the modules of the package that a module imports, by their names in MODULES."""
    result = set()
    for name in package_imports(module):
        if not name.startswith("tessera_flow."):
            continue
        inner = name.removeprefix("tessera_flow.")
        if inner not in MODULES:
            inner = inner.rpartition(".")[0]
        if inner in MODULES and inner:
            result.add(inner)
    return frozenset(result)


def test_every_package_is_in_the_table_once() -> None:
    folders = {module_name(path) for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE}
    assert len(PACKAGES) == len(set(PACKAGES))
    assert set(PACKAGES) == folders | {BASE}


def test_package_folder_is_short() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 12
    assert 10 <= len([name for name in packages() if "." not in name]) <= 16


def test_no_folder_is_a_heap() -> None:
    sizes = {path.parent: len(list(path.parent.glob("*.py"))) for path in MODULES.values()}
    assert len(sizes) > 16
    assert not {str(folder): size for folder, size in sizes.items() if size > FILES}


def test_resolution_of_imports() -> None:
    assert own_imports("products.arrays") >= {"atomic", "npy_file", "products.blocks"}
    assert package_of("products.arrays") == "products"
    assert package_of("products.report.page") == "products.report"
    assert package_of("atomic") == BASE


def test_modules_import_only_from_their_package_or_those_below() -> None:
    level = {name: PACKAGES.index(package_of(name)) for name in MODULES if name}
    assert len(level) > 300
    upwards = {
        module: above
        for module, own in level.items()
        if (above := sorted(name for name in own_imports(module) if level[name] > own))
    }
    assert not upwards, f"modules import from packages above theirs: {upwards}"


def test_public_names_are_imported_on_first_use() -> None:
    """`import tessera_flow` loads only the standard library."""
    tree = ast.parse(MODULES[""].read_text(encoding="utf-8"))
    guarded = {
        node
        for top in tree.body
        if isinstance(top, ast.If | ast.FunctionDef)
        for node in ast.walk(top)
    }
    eager = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in guarded
    }
    assert eager <= {"__future__", "typing"}


def transitive(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the transitive closure of the edges."""
    while True:
        more = {(a, d) for a, b in edges for c, d in edges if b == c and a != d} - edges
        if not more:
            return edges
        edges = edges | more


def test_diagram_of_imports_agrees_with_the_code() -> None:
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    section = text.split("## Packages of `tessera_flow`", 1)[1].split("```")[1]
    shown = set()
    for line in section.splitlines():
        chain = [name.strip() for name in line.split("──►")]
        shown |= {(a, b) for a, b in pairwise(chain) if a in PACKAGES}
    used = {
        (package_of(module).partition(".")[0], package_of(other).partition(".")[0])
        for module in MODULES
        if module
        for other in own_imports(module)
    }
    # The diagram omits the base modules, which nearly every package imports, and parts of packages.
    edges = {(a, b) for a, b in used if a != b and b != BASE}
    assert transitive(shown) == transitive(edges)


def test_package_does_not_import_snakemake() -> None:
    names = {(module, name) for module in MODULES for name in package_imports(module)}
    assert not {pair for pair in names if pair[1].split(".")[0].startswith("snakemake")}


def test_no_import_by_a_string() -> None:
    """The tests above would not see `importlib.import_module(...)`."""
    names = {(module, name) for module in MODULES for name in package_imports(module)}
    assert not {pair for pair in names if pair[1].endswith("import_module")}
    texts = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
    assert not {module for module, text in texts.items() if "__import__" in text}


def adaptors() -> set[str]:
    """Return the scripts that other scripts import."""
    names = {path.stem for path in SCRIPTS}
    return {name.split(".")[0] for path in SCRIPTS for name in imports(path)} & names


def test_scripts_are_thin() -> None:
    """They read `snakemake` and call one function; they import no library that computes."""
    allowed = {"tessera_flow", "snakemake"} | adaptors() | sys.stdlib_module_names
    used = {path.name: {name.split(".")[0] for name in imports(path)} for path in SCRIPTS}
    others = {name: more for name, libraries in used.items() if (more := libraries - allowed)}
    assert len(used) > 20 and not others, f"move the work into tessera_flow: {others}"


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_hold_declarations_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^\s+run:", text, flags=re.MULTILINE), f"{path.name} has a run: block"
    if path.name not in ("common.smk", "config_files.smk", *INTERNALS, "start_and_end.smk"):
        assert not re.search(r"^\s*(def|class)\s", text, flags=re.MULTILINE), (
            f"{path.name} defines a function: it belongs in common.smk"
        )


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_undocumented_parts_of_snakemake_are_used_in_one_place(path: Path) -> None:
    if path.name not in INTERNALS:
        assert not re.search(r"\bworkflow\.", path.read_text(encoding="utf-8"))
