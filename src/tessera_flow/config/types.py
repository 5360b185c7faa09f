"""How the value of one configuration key is read: from YAML, or as text of a command line.

What a day, a name, a number of heads or a share looks like, and what every section does with
its keys; the keys themselves are in `config_sections`.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from .messages import expected, literals

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _day(value: Any) -> datetime.date:
    """A day from YAML (a date), from the command line (text) or from another tool (midnight)."""
    what = "a day written as 2023-01-31"
    if isinstance(value, str):
        if not re.match(r"\d{4}-\d{2}-\d{2}", value.strip()):
            raise expected(what)
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            raise expected(f"{what} that exists in the calendar") from None
    if isinstance(value, datetime.datetime):
        moment = value.astimezone(datetime.UTC) if value.tzinfo else value
        if moment.time() != datetime.time(0):
            raise expected("a whole day, without a time of day")
        return moment.date()
    if isinstance(value, datetime.date):
        return value
    raise expected(what)


def _name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise expected(
            "a name of letters, digits, _ and - that begins with a letter or digit (it becomes "
            "the name of a folder)"
        )
    return value


def name_text(value: Any) -> Any:
    """A name as text: YAML reads `2023` as a number and `2023-01-01` as a date."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole or isinstance(value, datetime.date) else value


def _names_text(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [name_text(name) for name in value]
    return value


def _heads(value: Any) -> Any:
    """[S2, S1] from one number, a list of one or two, or text such as `4,2`."""
    parts = value
    if isinstance(value, str):
        parts = [int(p) if p.strip().isdigit() else p for p in value.strip(" []").split(",")]
    elif isinstance(value, int) and not isinstance(value, bool):
        parts = [value]
    whole = isinstance(parts, list | tuple) and all(type(p) is int and p > 0 for p in parts)
    if not whole or len(parts) not in (1, 2):
        raise expected("one number of heads from 1, or two, as in [4, 2]: Sentinel-2, Sentinel-1")
    return [parts[0], parts[-1]]


def _shares(value: Any) -> Any:
    """[CPU, GPU] from a list, from text such as `1:4`, or `auto`."""
    parts = value
    if isinstance(value, str):
        if value.strip() == "auto":
            return "auto"
        parts = [int(p) if p.strip().isdigit() else p for p in re.split("[:,]", value.strip(" []"))]
    whole = isinstance(parts, list | tuple) and all(type(p) is int and p >= 0 for p in parts)
    if not whole or len(parts) != 2 or not any(parts):
        raise expected(
            "auto, or two whole numbers as in [1, 4]: shares of the blocks for CPUs and for GPUs, "
            "not both 0"
        )
    return list(parts)


_SHARES_SCHEMA = {
    "anyOf": [
        {"const": "auto"},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2},
        {"type": "string", "pattern": r"^\s*\d+\s*[:,]\s*\d+\s*$"},
    ]
}

_HEADS_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 1,
            "maxItems": 2,
        },
        {"type": "string", "pattern": r"^\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)?$"},
    ]
}

HeadCounts = Annotated[list[int], BeforeValidator(_heads), WithJsonSchema(_HEADS_SCHEMA)]
Shares = Annotated[list[int] | str, BeforeValidator(_shares), WithJsonSchema(_SHARES_SCHEMA)]
Day = Annotated[datetime.date, BeforeValidator(_day)]
Name = Annotated[str, AfterValidator(_name)]
NameReference = Annotated[list[str], BeforeValidator(_names_text), Field(min_length=1)]


class Section(BaseModel):
    """What every section does: refuse unknown keys, stay as it is, take numbers as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        """A heading with nothing under it (YAML: null) is a section at its defaults."""
        if value is None:
            return {}
        return dict(value) if isinstance(value, Mapping) else value

    @field_validator("*", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any, info: ValidationInfo) -> Any:
        """`snakemake --config 'grid={block_size: 50}'` hands 50 over as text."""
        if not isinstance(value, str) or info.field_name is None:
            return value
        annotation = cls.model_fields[info.field_name].annotation
        choices = literals(annotation)
        if annotation in (int, float, bool) or (choices and isinstance(choices[0], int)):
            try:
                plain = json.loads(value.lower())
            except ValueError:
                return value
            return plain if isinstance(plain, int | float) else value
        return value


def key(default: Any, description: str, unit: str | None = None, **limits: Any) -> Any:
    """A key of a section.

    Args:
        default: its default; `...` where it must be set.
        description: its meaning, for the reference page; the first sentence stands alone.
        unit: of a number.
        limits: bounds, as pydantic's `Field` names them.
    """
    return Field(
        default,
        description=description,
        json_schema_extra={"unit": unit} if unit else None,
        **limits,
    )
