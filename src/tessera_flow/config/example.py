"""Write configuration files: every key with its default and a comment, and the values that are set.

The comments are the first sentences of the descriptions in `sections`.
"""

from __future__ import annotations

import datetime
import json
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .configuration import Config
from .messages import as_yaml, first_sentence, literals, replaces_keys, section_of

_LINE = 100
_PLAIN_TEXT = re.compile(r"[A-Za-z/][\w./-]*")
_READ_AS_OTHERS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def config_text(
    document: Mapping[str, Any],
    intro: str,
    *,
    schema: str | None = None,
    marked: Collection[str] = (),
) -> str:
    """Return a configuration file with every key; values that `document` does not set are defaults.

    Args:
        document: regions and periods by name, and the values to set, as in a configuration file.
        intro: comment at the beginning.
        schema: path of the JSON schema, for editors.
        marked: dotted keys without names of regions and periods (`regions.roi`) whose comments
            begin with `SET:`.
    """
    lines = comment(intro)
    if schema:
        lines.append(f"# yaml-language-server: $schema={schema}")
    for key, field in Config.model_fields.items():
        section = section_of(field.annotation)
        lines.append("")
        lines += comment(field.description if section else _short(field, required=False))
        lines += _entry(key, field, document.get(key), key, "", marked)
    return "\n".join(lines) + "\n"


def comment(text: str | None, indent: str = "") -> list[str]:
    """Return the lines of a comment."""
    return textwrap.wrap(
        text or "", _LINE, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )


def yaml_value(value: Any) -> str:
    """Return a value in YAML syntax, in quotes where YAML would not read it as that text."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, str):
        plain = _PLAIN_TEXT.fullmatch(value) and value.lower() not in _READ_AS_OTHERS
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {yaml_value(v)}" for k, v in value.items()) + "}"
    return as_yaml(value)


def _entry(
    key: str, field: FieldInfo, value: Any, path: str, indent: str, marked: Collection[str]
) -> list[str]:
    """Return the YAML lines of one key; a section includes its keys with one-line comments."""
    section = section_of(field.annotation)
    if section is None:
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        text = as_yaml(default) if value is None else yaml_value(value)
        return [f"{indent}{key}: {text}"]
    model, named = section
    if replaces_keys(model):
        return [f"{indent}{key}: {yaml_value(value or {})}"]
    if named and not value:
        return [f"{indent}{key}: {{}}"]
    lines = [f"{indent}{key}:"]
    if not named:
        return lines + list(_keys(model, value or {}, path, f"{indent}  ", marked))
    for number, (name, values) in enumerate((value or {}).items()):
        lines.append(f"{indent}  {yaml_value(name)}:")
        if number == 0:
            lines += _keys(model, values, path, f"{indent}    ", marked)
        else:  # the comments are those of the first
            lines += [f"{indent}    {k}: {yaml_value(v)}" for k, v in values.items()]
    return lines


def _keys(
    model: type[BaseModel],
    values: Mapping[str, Any],
    path: str,
    indent: str,
    marked: Collection[str],
) -> Iterator[str]:
    for key, field in model.model_fields.items():
        inner = f"{path}.{key}"
        if section_of(field.annotation):
            yield f"{indent}# {first_sentence(field.description or '').replace('`', '')}"
        else:
            yield from comment(_short(field, required=inner in marked), indent)
        yield from _entry(key, field, values.get(key), inner, indent, marked)


def _short(field: FieldInfo, *, required: bool) -> str:
    """Return one line on a key: first sentence of its description, unit and choices."""
    text = first_sentence(field.description or "").replace("`", "")
    choices = literals(field.annotation)
    extra = field.json_schema_extra
    notes = [str(extra["unit"])] if isinstance(extra, Mapping) else []
    if choices:
        notes.append(", ".join(as_yaml(choice) for choice in choices))
    return ("SET: " if required else "") + text + (f" ({'; '.join(notes)})" if notes else "")
