"""Every error sentence of the program, read from its source, for docs/troubleshooting.md.

A sentence is the argument of an error of `tessera_flow.errors`, wherever one is made. What is
filled in at run time stands as `<name>`, or as `…` where it has no name.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BASE = "TesseraFlowError"

GROUPS = {
    "ConfigError": (
        "Configuration, and choices that a model or a machine cannot follow",
        "Most are said when the configuration is read, before anything runs, all at once.",
    ),
    "RegionError": (
        "Regions and points",
        "Of a run: before anything runs. Of `tessera-flow roi` and `sample`: at once.",
    ),
    "ItemError": (
        "The list of scenes, and blocks without scenes",
        "In the rules `items` and `retile`.",
    ),
    "CredentialsError": ("Tokens", "In the rule `download`, for OPERA."),
    "ReadError": (
        "Reading scenes",
        "In the rule `download`. [failures.md](failures.md) says what is tried again.",
    ),
    "MissingSceneError": (
        "Scenes that the archive has lost",
        "These become the reason of a scene that is left out (or replaced by its copy), in the "
        "log and in the product's record; they fail a block only through `download.max_missing_percent`.",
    ),
    "CheckpointError": ("Model weights", "In the rules `weights` and `infer`, and in `embed`."),
    "TileError": (
        "Tile folders, intermediate files and products",
        "A file that is asked to be deleted is made again by the next run.",
    ),
    "OutputError": ("Writing", "Before a run (products in the way), or where a file is written."),
    "Stopped": ("Stopped jobs", "Nothing is lost; the next run goes on."),
    "ArgumentTypeError": (
        "Arguments on the command line",
        "Said after `tessera-flow COMMAND: error: argument --NAME:`; `--help` lists what there is.",
    ),
}
"""Class of error: the heading of its sentences, and when they are said. In the page's order."""

# Errors of the configuration come through pydantic (a ValueError of a validator, too); how their
# sentences are completed.
_FORMS = {
    "refused": "{}",
    "expected": "<key> is <value>, but must be {}.",
    "ValueError": "<section>: {}.",
}
_VALIDATORS = {"field_validator", "model_validator"}
_SENTENCE_FUNCTIONS = {"_message", "_unknown_key"}
"""Functions of `config_errors` that return whole sentences."""

_MOST_VARIANTS = 8


class UnknownSentence(Exception):
    """The text of an error cannot be told from the source."""


@dataclass
class _Module:
    name: str
    tree: ast.Module
    constants: dict[str, ast.expr] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.constants[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self.constants[node.target.id] = node.value or ast.Constant(None)
        for inner in ast.walk(self.tree):
            if isinstance(inner, ast.FunctionDef):
                self.functions.setdefault(inner.name, inner)


def sentences(package: Path) -> dict[str, list[str]]:
    """Sentences by class of error, in the order of the alphabet, each once.

    Args:
        package: folder of the Python package.

    Raises:
        UnknownSentence: the text of an error is made in a way that is not understood; write it
            as a literal or an f-string where the error is made.
    """
    modules = [
        _Module(str(path.relative_to(package)), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(package.rglob("*.py"))
    ]
    classes = _error_classes(modules)
    found: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        for function, node in _calls(module.tree, None):
            called = ast.unparse(node.func).rpartition(".")[2]
            kind = called if called in classes or called == "ArgumentTypeError" else None
            form = "{}"
            if called in _FORMS and (called != "ValueError" or _is_validator(function)):
                kind, form = "ConfigError", _FORMS[called]
            if kind and node.args:
                for text in _texts(node.args[0], function, module):
                    found[kind].add(form.format(text))
        for name in _SENTENCE_FUNCTIONS & module.functions.keys():
            for value in _returned(module.functions[name]):
                if isinstance(value, ast.JoinedStr):
                    found["ConfigError"].update(_texts(value, module.functions[name], module))
    return {kind: sorted(texts, key=str.lower) for kind, texts in sorted(found.items())}


def reference(package: Path) -> str:
    """The list of sentences as Markdown, by class of error."""
    found = sentences(package)
    if unnamed := found.keys() - GROUPS.keys():
        raise UnknownSentence(f"no heading for {', '.join(sorted(unnamed))}: add it to GROUPS")
    lines = []
    for kind, (title, when) in GROUPS.items():
        if kind in found:
            lines += [f"### {title}", "", when, ""]
            lines += [f"- {_code(text.partition(chr(10))[0])}" for text in found[kind]]
            lines.append("")
    return "\n".join(lines)


def pattern(text: str) -> re.Pattern[str]:
    """What matches a sentence with anything in place of `<name>` and `…`."""
    parts = re.split(r"<[^<>\s]+>|…", text)
    return re.compile(".*?".join(re.escape(part) for part in parts), re.DOTALL)


def _code(text: str) -> str:
    """As inline code, which may hold backticks itself."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _error_classes(modules: Sequence[_Module]) -> set[str]:
    known = {BASE}
    while True:
        more = {
            node.name
            for module in modules
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef)
            and any(ast.unparse(base).rpartition(".")[2] in known for base in node.bases)
        }
        if more <= known:
            return known
        known |= more


def _calls(
    node: ast.AST, function: ast.FunctionDef | None
) -> Iterator[tuple[ast.FunctionDef | None, ast.Call]]:
    """Every call below a node, with the function that it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield function, child
        yield from _calls(child, child if isinstance(child, ast.FunctionDef) else function)


def _is_validator(function: ast.FunctionDef | None) -> bool:
    return function is not None and any(
        isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in _VALIDATORS
        for decorator in function.decorator_list
    )


def _returned(function: ast.FunctionDef) -> list[ast.expr]:
    return [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and node.value is not None
    ]


def _texts(node: ast.expr, function: ast.FunctionDef | None, module: _Module) -> list[str]:
    """The texts that an expression may have."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        parts = [
            _texts(part, function, module)
            if isinstance(part, ast.Constant)
            else _filled_in(part.value, function, module)
            for part in node.values
            if isinstance(part, ast.Constant | ast.FormattedValue)
        ]
        return _product(parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _product([_texts(side, function, module) for side in (node.left, node.right)])
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, function, module), *_texts(node.orelse, function, module)]
    if isinstance(node, ast.Name):
        values = _assigned(node.id, function, module)
        if values:
            return [text for value in values for text in _texts(value, function, module)]
        if function and node.id in {argument.arg for argument in function.args.args}:
            return []  # made by the caller, where it is found
    if isinstance(node, ast.Call):
        if ast.unparse(node.func) == "'\\n'.join" or ast.unparse(node.func) == "' '.join":
            return _joined(node.args[0], function, module)
        called = module.functions.get(ast.unparse(node.func))
        if called is not None:
            return [text for value in _returned(called) for text in _texts(value, called, module)]
    raise UnknownSentence(f"{module.name}, line {node.lineno}: {ast.unparse(node)}")


def _joined(node: ast.expr, function: ast.FunctionDef | None, module: _Module) -> list[str]:
    """Of lines that are joined: those that the function appends; others are found elsewhere."""
    if not isinstance(node, ast.Name) or function is None:
        return []
    return [
        text
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == f"{node.id}.append"
        for text in _texts(call.args[0], function, module)
    ]


def _assigned(name: str, function: ast.FunctionDef | None, module: _Module) -> list[ast.expr]:
    found = [
        node.value
        for node in (ast.walk(function) if function else ())
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    ]
    return found or ([module.constants[name]] if name in module.constants else [])


def _filled_in(node: ast.expr, function: ast.FunctionDef | None, module: _Module) -> list[str]:
    """What stands for an expression inside an f-string."""
    if isinstance(node, ast.Name):
        values = _assigned(node.id, function, module)
        if len(values) == 1 and isinstance(values[0], ast.JoinedStr | ast.Constant):
            text = values[0]
            if isinstance(text, ast.JoinedStr) or isinstance(text.value, str):
                return _texts(text, function, module)
            return [str(text.value)]
        return [_named(node.id)]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        table = module.constants.get(node.value.id)
        if isinstance(table, ast.Dict):
            return [text for value in table.values for text in _texts(value, None, module)]
    if isinstance(node, ast.Attribute):
        return [_named(node.attr)]
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return [_named(node.slice.value) if isinstance(node.slice.value, str) else "…"]
    if isinstance(node, ast.BoolOp):
        return _filled_in(node.values[0], function, module)
    if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in _CALLS:
        return [f"<{_CALLS[called]}>"]
    return ["…"]


# Names in the source that would say little to a user.
_NAMES = {
    "error": "cause",
    "strerror": "cause",
    "where": "file",
    "label": "asset",
    "described": "asset",
    "what": "what",
    "__name__": "kind",
}
_CALLS = {
    "len": "number",
    "public_href": "address",
    "_described": "asset",
    "Path.cwd": "folder",
    "shown": "value",
    "dotted": "key",
    "document.get": "id",
    "_cause": "cause",
    "_reason": "cause",
    "_crs_name": "crs",
    "os.fspath": "path",
    "int": "number",
}


def _named(name: str) -> str:
    name = name.strip("_") if name not in _NAMES else name
    return f"<{_NAMES.get(name, name.lower())}>"


def _product(parts: Sequence[Sequence[str]]) -> list[str]:
    found = ["".join(chosen) for chosen in itertools.product(*parts)]
    if len(found) > _MOST_VARIANTS:
        raise UnknownSentence(f"more than {_MOST_VARIANTS} variants of: {found[0]}")
    return found
