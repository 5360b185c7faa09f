"""Generate the schema, the reference page and the default file of the configuration.

`tools/generate.py` writes the files; a test fails when one is out of date. Each function
returns the text of one file.
"""

from __future__ import annotations

import datetime
import functools
import json
import operator
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tessera_flow.config.configuration import Config
from tessera_flow.config.example import config_text
from tessera_flow.config.messages import as_yaml, literals, replaces_keys, section_of
from tessera_flow.config.types import NAME_PATTERN, Day, PathText

_NOTICE = "Generated from src/tessera_flow/config/*.py by `make generate`; edit those instead."

# Values of the default config.yaml for required keys.
_EXAMPLE: dict[str, Any] = {
    "regions": {"my_region": {"roi": "path/to/region.geojson"}},
    "periods": {"y2023": {"start": datetime.date(2023, 1, 1), "end": datetime.date(2023, 12, 31)}},
    "model": {"weights": "v2-medium"},
}


def config_schema() -> str:
    """Return the JSON schema of the configuration (for editors and other tools).

    The schema rejects unknown keys, wrong types and values out of range. Constraints between
    keys (an end before a start, a period that does not exist) are checked by `load_config`
    only. `load_config` also accepts names that YAML reads as numbers, numbers written as text,
    and empty sections.
    """
    schema = Config.model_json_schema()
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": _NOTICE,
        **schema,
        "title": "tessera-flow configuration",
    }
    for key in ("regions", "periods", "maps"):
        schema["properties"][key]["propertyNames"] = {"pattern": f"^{NAME_PATTERN.pattern}$"}
    _allow_sites_alone(schema)
    for section in schema["$defs"].values():
        if section.get("title", "").endswith("Override"):  # keys that are left out have no default
            for key in section["properties"].values():
                key.pop("default", None)
    _allow_years(schema["$defs"]["Period"])
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _allow_sites_alone(schema: dict[str, Any]) -> None:
    """Require regions and periods only without a table of sites."""
    needed = ("regions", "periods")
    schema["required"] = [key for key in schema.get("required", []) if key not in needed]
    table = {"properties": {"table": {"type": "string"}}, "required": ["table"]}
    schema["if"] = {"properties": {"sites": table}, "required": ["sites"]}
    schema["then"] = {}
    schema["else"] = {
        "properties": {key: {"minProperties": 1} for key in needed},
        "required": list(needed),
    }


def _allow_years(period: dict[str, Any]) -> None:
    """Allow a period with `years`, whose first and last day are a month and a day."""
    for key in ("start", "end"):
        plain = period["properties"][key]
        kinds = [{"type": plain.pop("type"), "format": plain.pop("format")}]
        plain["anyOf"] = [*kinds, {"type": "string", "pattern": r"^\d\d-\d\d$"}]
    period["anyOf"] = [{"required": period.pop("required")}, {"required": ["years"]}]


def configuration_page() -> str:
    """Return `docs/configuration.md`: type, default, unit and description of every key."""
    lines = [
        "# Configuration",
        "",
        f"<!-- {_NOTICE} -->",
        "",
        "The configuration is one YAML file: `config/config.yaml`, or the file passed with "
        "`--configfile`. `regions`, `periods` and `model.weights` are required (`model.weights` "
        "not with `source: geotessera`); all other keys are optional. An unknown key is an error "
        "that suggests a similar key, or lists the keys of the section; a key that occurs twice is "
        "an error, too.",
        "",
        "Paths are relative to the working directory. In every path, `~`, `~user`, `$NAME` and "
        "`${NAME}` are replaced when the configuration is read, and a variable that is not set is "
        "an error; `$$` is a plain `$`. URLs are not changed. Variables must have the same value "
        "on the machine that runs Snakemake and in its jobs; `jobs.scratch` alone is expanded on "
        "each node.",
        "",
        *_table("Top level", None, Config),
    ]
    for path, model in _sections(Config):
        lines += ["", *_table(f"`{path}`", model.__doc__, model)]
    return "\n".join(lines) + "\n"


def default_config() -> str:
    """Return `config/config.yaml`: required keys with examples, all others at their defaults."""
    return config_text(
        _EXAMPLE,
        "Set the values marked SET: the region and the period. All other keys have their default "
        "values, except model.weights, and may be removed. docs/configuration.md describes every "
        "key.",
        schema="../workflow/schemas/config.schema.json",
        marked=("regions.roi", "periods.start", "periods.end"),
    )


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for key, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section and not replaces_keys(section[0]):
            inner, named = section
            path = f"{prefix}{key}.<name>" if named else f"{prefix}{key}"
            yield path, inner
            yield from _sections(inner, f"{path}.")


def _table(title: str, intro: str | None, model: type[BaseModel]) -> list[str]:
    lines = [f"## {title}", ""]
    if intro:
        lines += [intro, ""]
    lines += ["| key | type | default | unit | description |", "|---|---|---|---|---|"]
    for key, field in model.model_fields.items():
        cells = (f"`{key}`", _type(field), _default(field), _unit(field), field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    section = section_of(annotation)
    if section:
        return "sections by name" if section[1] else "section"
    choices = literals(annotation)
    if choices:
        values = ", ".join(f"`{choice}`" for choice in choices)
        if typing.get_origin(annotation) is list:
            return f"list of {values}"
        return f"one of {values}{', or `null`' if _optional(annotation) else ''}"
    if _optional(annotation):
        kinds = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        inner = functools.reduce(operator.or_, kinds)
        return f"{_plain_type(inner)}, or `null`"
    return _plain_type(annotation) + _limits(field)


def _optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def _plain_type(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    plain = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "`true` or `false`",
        list[str]: "list of text",
        list[PathText]: "list of text",
        list[int]: "whole number, or list of two",
        list[int] | str: "list of two whole numbers, or `auto`",
        str | list[float]: "text, or list of four numbers",
        int | str | list[int]: "whole number, text or list",
        typing.get_args(Day)[0]: "date",
    }
    return plain[annotation]


def _limits(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return f" {' and '.join(limits)}" if limits else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if replaces_keys(type(value)):
        return "`{}`"
    return "see below" if isinstance(value, BaseModel) else f"`{as_yaml(value)}`"


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["unit"]) if isinstance(extra, Mapping) else ""
