"""Check configuration files as they are written, before YAML loses or changes what is in them.

YAML readers keep the last of two equal keys, and read `010` as 8, `1:30` as 90, `no` as false and
`2021_22` as 202122. After reading, none of this can be seen, so the text is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError
from ..input_files import is_special

_INT = "tag:yaml.org,2002:int"
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9_]+(:[0-5]?[0-9])+")


_TOO_DEEP = "its sections and lists are nested too deeply: it is damaged, or not a configuration."


def check_config_files(paths: Iterable[str | Path]) -> None:
    """Check configuration files for keys that occur twice, changed values and encoding.

    Files that do not exist, or that cannot be read as YAML or JSON, are left to Snakemake, which
    reports them.

    Raises:
        ConfigError: one line per problem, with the file and its lines.
    """
    problems = [f"{path}: {problem}" for path in paths for problem in _problems(Path(path))]
    if problems:
        raise ConfigError("\n".join(problems))


def check_config_values(entries: Iterable[str]) -> None:
    """Check entries `name=value` of the option `--config` for keys that occur twice in a value.

    Raises:
        ConfigError: one line per problem.
    """
    problems = []
    for entry in entries:
        name, _, text = entry.partition("=")
        try:
            loader = yaml.SafeLoader(text)
            root = loader.get_single_node()
            if root is not None:
                problems += [f"--config: {p}" for p in _Checker(loader, False).problems(root, name)]
        except yaml.YAMLError:
            pass  # text for Snakemake
        except RecursionError:
            problems.append(f"--config: {name}: {_TOO_DEEP}")
    if problems:
        raise ConfigError("\n".join(problems))


def _problems(path: Path) -> list[str]:
    try:
        if is_special(path):
            return []  # it can be read once only, and Snakemake has done so
        content = path.read_bytes()
    except OSError:
        return []
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return [
            f"line {line}: the byte {content[error.start]:#04x} is not UTF-8: save the file in the "
            "encoding UTF-8."
        ]
    try:
        twice: list[str] = []
        json.loads(text, object_pairs_hook=lambda pairs: _json_object(pairs, twice))
        return twice
    except ValueError:
        pass  # not JSON: YAML
    except RecursionError:
        return [_TOO_DEEP]
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError:
        return []  # control characters
    try:
        root = loader.get_single_node()
        if root is None:
            return []
        # A workflow that uses this one as a module has keys of its own, in its own style.
        is_workflow = isinstance(root, yaml.MappingNode) and any(
            k.value == "regions" for k, _ in root.value
        )
        return list(_Checker(loader, is_workflow).problems(root, ""))
    except yaml.YAMLError:
        return []
    except RecursionError:
        return [_TOO_DEEP]
    finally:
        loader.dispose()


def _json_object(pairs: list[tuple[str, Any]], twice: list[str]) -> dict[str, Any]:
    result = dict(pairs)
    for key in result:
        count = sum(name == key for name, _ in pairs)
        if count > 1:
            twice.append(f"the key {key} is defined {_times(count)}: keep one of them.")
    return result


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Checker:
    """Walks the nodes of a document, each once."""

    def __init__(self, loader: yaml.SafeLoader, own: bool) -> None:
        self._loader = loader
        self._own = own
        self._seen: set[int] = set()

    def problems(self, node: yaml.Node, location: str) -> Iterator[str]:
        """Yield the problems of a node and those below it."""
        if id(node) in self._seen:  # an alias
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield from self._mapping(node, location)
        elif isinstance(node, yaml.SequenceNode):
            for number, entry in enumerate(node.value):
                yield from self.problems(entry, f"{location}[{number}]")
        elif self._own and isinstance(node, yaml.ScalarNode):
            yield from self._value(node, location)

    def _mapping(self, node: yaml.MappingNode, location: str) -> Iterator[str]:
        lines: dict[str, list[int]] = {}
        for key, value in node.value:
            name = self._name(key)
            path = f"{location}.{name}" if location else name
            lines.setdefault(name, []).append(_line(key))
            if self._own and key.tag != _MERGE:
                yield from self._key(key, name, location)
            yield from self.problems(value, path)
        for name, at in lines.items():
            if len(at) > 1:
                path = f"{location}.{name}" if location else name
                numbers = list(dict.fromkeys(at))
                lines_text = f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
                yield (
                    f"the key {path} is defined {_times(len(at))} ({lines_text}): YAML would keep "
                    "only the last; join or rename them."
                )

    def _name(self, key: yaml.Node) -> str:
        """Return a key as the configuration has it: `2023` and "2023" are one name."""
        if key.tag == _MERGE:
            return "<<"
        value = self._constructed(key)
        if value is None:
            return str(key.value)
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _constructed(self, node: yaml.Node) -> Any:
        """Return the value of a scalar; None if it is none, or cannot be made."""
        if not isinstance(node, yaml.ScalarNode):
            return None
        try:
            return self._loader.construct_object(node)
        except (ValueError, yaml.YAMLError):
            return None

    def _key(self, key: yaml.Node, name: str, location: str) -> Iterator[str]:
        where = f"in {location}" if location else "at the top level"
        if not isinstance(key, yaml.ScalarNode):
            yield f"line {_line(key)}: a key {where} is not text: check the indentation and colons."
        elif key.tag != _TEXT and name != key.value:
            yield (
                f'line {_line(key)}: YAML reads the key {key.value} {where} as {name}: write "'
                f'{key.value}", with quotes.'
            )

    def _value(self, node: yaml.ScalarNode, location: str) -> Iterator[str]:
        text = str(node.value)
        if node.tag == "tag:yaml.org,2002:timestamp" and self._constructed(node) is None:
            yield (
                f"line {_line(node)}: {location} is {text}, which is not a date in the calendar: "
                "correct it."
            )
        elif node.tag == _INT and (_OCTAL.fullmatch(text) or _SEXAGESIMAL.fullmatch(text)):
            yield (
                f"line {_line(node)}: YAML reads {location}: {text} as "
                f"{self._constructed(node)}: write the number without leading zeros or colons, or "
                f'as "{text}", with quotes.'
            )
