"""Sentences for what is wrong in a configuration: the key, the value, what to do.

pydantic says what failed and where; this module turns each finding into one line that
names the dotted key (`regions.fens.roi`), shows the value given with its type, and says
what belongs there.
"""

from __future__ import annotations

import datetime
import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

_LONGEST_VALUE = 60
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a section with at least one name in it",
    "model_type": "a section (keys with values under it)",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "filled: at least one entry is needed",
    "string_too_short": "filled",
}


def refused(sentence: str) -> PydanticCustomError:
    """To raise in a validator: `sentence` is complete and names its keys itself."""
    return PydanticCustomError("sentence", "{sentence}", {"sentence": sentence})


def expected(what: str) -> PydanticCustomError:
    """To raise in a validator of one value: `<key> is <value>, but must be <what>`."""
    return PydanticCustomError("expected", "{what}", {"what": what})


def dotted(location: tuple[int | str, ...]) -> str:
    """`('products', 'formats', 0)` as `products.formats[0]`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: Any) -> str:
    """A value and, in brackets, its type, as a reader of YAML knows it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    if isinstance(value, Mapping):
        return "a section" if value else "an empty section"
    kinds = (
        (str, "text"),
        (int, "whole number"),
        (float, "number"),
        (datetime.datetime, "date with a time"),
        (datetime.date, "date"),
        (list, "list"),
    )
    kind = next((name for cls, name in kinds if isinstance(value, cls)), type(value).__name__)
    text = repr(value) if isinstance(value, str | list) else str(value)
    if len(text) > _LONGEST_VALUE:
        text = text[: _LONGEST_VALUE - 3] + "..."
    return f"{text} ({kind})"


def as_yaml(value: Any) -> str:
    """A default or an allowed value as one writes it in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(as_yaml(entry) for entry in value)}]"
    return str(value)


def first_sentence(description: str) -> str:
    """The first sentence of a key's description, without its full stop."""
    return description.split(". ")[0].rstrip(".")


def sentences(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per problem that `error` found in a document of `model`."""
    return [
        line
        for details in error.errors(include_url=False)
        for line in _sentence(details, model).splitlines()
    ]


def _sentence(details: ErrorDetails, root: type[BaseModel]) -> str:
    location, kind, value = details["loc"], details["type"], details["input"]
    if kind == "sentence":
        return details["msg"]
    if kind == "extra_forbidden":
        return _unknown_key(location, root)
    if location[-1:] == ("[key]",):
        return f"{dotted(location[:-2])} has the name {shown(value)}: give it {details['msg']}."
    key = dotted(location)
    if kind == "missing":
        field = _field(location, root)
        meaning = first_sentence(field.description or "") if field else "needed"
        return f"{key} is missing and has no default: set it ({meaning[:1].lower()}{meaning[1:]})."
    if kind == "value_error":
        return f"{key}: {details['ctx']['error']}."
    if kind == "literal_error":
        return f"{key} is {shown(value)}, but must be one of {_choices(location, root, value)}."
    if kind == "expected":
        what = details["msg"]
    elif kind in _EXPECTED:
        what = _EXPECTED[kind].format(**details.get("ctx", {}))
    else:
        return f"{key} is {shown(value)}: {details['msg']}."
    return f"{key} is {shown(value)}, but must be {what}.{_advice(kind, location, root, value)}"


def _advice(kind: str, location: tuple[int | str, ...], root: type[BaseModel], value: Any) -> str:
    """What to write instead, where the type alone does not say it."""
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f" Put quotes around it: '{str(value).lower()}'."
    if kind == "list_type" and value is not None and not isinstance(value, Mapping):
        return f" Put brackets around it: [{value}]."
    field = _field(location, root)
    if field is None or field.is_required() or kind in ("model_type", "dict_type"):
        return ""
    default = field.get_default(call_default_factory=True)
    if default is None or isinstance(default, BaseModel):
        return ""
    return f" The default is {as_yaml(default)}."


def _unknown_key(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    parent, key = location[:-1], str(location[-1])
    model = _model(parent, root)
    known = list(model.model_fields) if model else []
    start = f"{dotted((*parent, key))} is not a known key"
    near = difflib.get_close_matches(key.lower(), known, n=1)
    if near:
        return f"{start}: did you mean {dotted((*parent, near[0]))}?"
    elsewhere = [path for path in key_paths(root) if path.rpartition(".")[2] == key]
    if elsewhere:
        return f"{start}: it belongs elsewhere, as {' or '.join(elsewhere)}."
    place = f"in {dotted(parent)}" if parent else "at the top level"
    return f"{start}: the keys {place} are {', '.join(known)}."


def _choices(location: tuple[int | str, ...], root: type[BaseModel], value: Any) -> str:
    field = _field(location, root) or _field(location[:-1], root)
    choices = [str(choice) for choice in literals(field.annotation)] if field else []
    near = difflib.get_close_matches(str(value).lower(), choices, n=1)
    return ", ".join(choices) + (f" (did you mean {near[0]}?)" if near else "")


def literals(annotation: Any) -> tuple[Any, ...]:
    """The values a `Literal`, or a list of one, allows; empty for another annotation."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return tuple(value for inner in typing.get_args(annotation) for value in literals(inner))


def section_of(annotation: Any) -> tuple[type[BaseModel], bool] | None:
    """The section model that an annotation holds, and whether it holds one per name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if typing.get_origin(annotation) is dict:
        return typing.get_args(annotation)[1], True
    return None


def key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key under `model`, dotted, such as `grid.resolution` and `regions.<name>.roi`."""
    for key, field in model.model_fields.items():
        path = f"{prefix}{key}"
        yield path
        section = section_of(field.annotation)
        if section:
            inner, named = section
            yield from key_paths(inner, f"{path}.<name>." if named else f"{path}.")


def _model(location: tuple[int | str, ...], root: type[BaseModel]) -> type[BaseModel] | None:
    """The section model at a location; None where the location is no section."""
    model, parts = root, list(location)
    while parts:
        field = model.model_fields.get(str(parts.pop(0)))
        section = section_of(field.annotation) if field else None
        if section is None or (section[1] and not parts):
            return None
        model, named = section
        if named:
            parts.pop(0)
    return model


def _field(location: tuple[int | str, ...], root: type[BaseModel]) -> Any:
    """The field at a location; None where it is not a key of a section."""
    if not location:
        return None
    model = _model(location[:-1], root)
    return model.model_fields.get(str(location[-1])) if model else None
