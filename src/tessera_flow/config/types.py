"""Define the types of configuration values, from YAML or from text on the command line.

Days, names, numbers of heads and ratios, and the base class of all sections. The keys are in
`sections`.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

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
from pydantic_core import PydanticCustomError

from ..urls import stated_secret
from .bounding_box import bounding_box
from .messages import expected, literals
from .path_text import expanded_path

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _day(value: Any) -> datetime.date:
    """Return a day from YAML (a date), the command line (text) or another tool (midnight)."""
    requirement = "a date such as 2023-01-31"
    if isinstance(value, str):
        if not re.match(r"\d{4}-\d{2}-\d{2}", value.strip()):
            raise expected(requirement)
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            raise expected(f"{requirement} that exists in the calendar") from None
    if isinstance(value, datetime.datetime):
        moment = value.astimezone(datetime.UTC) if value.tzinfo else value
        if moment.time() != datetime.time(0):
            raise expected("a date without a time of day")
        return moment.date()
    if isinstance(value, datetime.date):
        return value
    raise expected(requirement)


def _name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise expected(
            "a name of letters, digits, _ and - that begins with a letter or digit (it is used as "
            "the name of a folder)"
        )
    return value


def name_text(value: Any) -> Any:
    """Return a name as text: YAML reads `2023` as a number and `2023-01-01` as a date."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if integer or isinstance(value, datetime.date) else value


def _names_text(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [name_text(name) for name in value]
    return value


def _heads(value: Any) -> Any:
    """Return [S2, S1] from one number, a list of one or two, or text such as `4,2`."""
    parts = value
    if isinstance(value, str):
        parts = [int(p) if p.strip().isdigit() else p for p in value.strip(" []").split(",")]
    elif isinstance(value, int) and not isinstance(value, bool):
        parts = [value]
    integers = isinstance(parts, list | tuple) and all(type(p) is int and p > 0 for p in parts)
    if not integers or len(parts) not in (1, 2):
        raise expected(
            "one whole number of at least 1, or two such as [4, 2] for Sentinel-2 and Sentinel-1"
        )
    return [parts[0], parts[-1]]


def _shares(value: Any) -> Any:
    """Return [CPU, GPU] from a list, from text such as `1:4`, or `auto`."""
    parts = value
    if isinstance(value, str):
        if value.strip() == "auto":
            return "auto"
        parts = [int(p) if p.strip().isdigit() else p for p in re.split("[:,]", value.strip(" []"))]
    integers = isinstance(parts, list | tuple) and all(type(p) is int and p >= 0 for p in parts)
    if not integers or len(parts) != 2 or not any(parts):
        raise expected(
            "auto, or two whole numbers such as [1, 4] (ratio of blocks on CPUs and on GPUs), not "
            "both 0"
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


def _path(value: str) -> str:
    if secret := stated_secret(value):
        raise PydanticCustomError("secret", "{what}", {"what": secret})
    try:
        return expanded_path(value)
    except ValueError as error:
        raise expected(str(error)) from None


def _roi(value: Any) -> Any:
    """Return a path, or a box of four numbers."""
    if isinstance(value, list | tuple):
        return bounding_box(value)
    if not isinstance(value, str) or not value:
        raise expected("the path of a file, or a box such as [5.1, 52.0, 5.3, 52.1]")
    return _path(value)


_BOX_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
    ]
}

_YEARS_SCHEMA = {
    "anyOf": [
        {"type": "null"},
        {"type": "integer"},
        {
            "type": "string",
            "pattern": r"^\s*\d{4}\s*(-\s*\d{4}\s*)?(,\s*\d{4}\s*(-\s*\d{4}\s*)?)*$",
        },
        {"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 1},
    ]
}

PathText = Annotated[str, AfterValidator(_path)]
RoiText = Annotated[str | list[float], BeforeValidator(_roi), WithJsonSchema(_BOX_SCHEMA)]
Years = Annotated[int | str | list[int] | None, WithJsonSchema(_YEARS_SCHEMA)]
HeadCounts = Annotated[list[int], BeforeValidator(_heads), WithJsonSchema(_HEADS_SCHEMA)]
Shares = Annotated[list[int] | str, BeforeValidator(_shares), WithJsonSchema(_SHARES_SCHEMA)]
Day = Annotated[datetime.date, BeforeValidator(_day)]
Name = Annotated[str, AfterValidator(_name)]
NameReference = Annotated[list[str], BeforeValidator(_names_text), Field(min_length=1)]


class Section(BaseModel):
    """Base class of sections: immutable, rejects unknown keys, accepts numbers as text."""

    is_override: ClassVar[bool] = False
    """Whether the keys replace those of another section, and have no defaults of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        """Return an empty section for a key without a value (YAML: null): defaults apply."""
        if value is None:
            return {}
        return dict(value) if isinstance(value, Mapping) else value

    @field_validator("*", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Convert text to a number: `--config 'grid={block_size: 50}'` passes 50 as text."""
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
    """Return the field of a key of a section.

    Args:
        default: default value; `...` if the key is required.
        description: meaning, for the reference page. The first sentence is also used alone.
        unit: unit of a number.
        limits: bounds, as in pydantic's `Field`.
    """
    return Field(
        default,
        description=description,
        json_schema_extra={"unit": unit} if unit else None,
        **limits,
    )
