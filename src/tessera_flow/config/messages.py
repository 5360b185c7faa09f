"""Turn pydantic's validation errors into messages: the key, its value, and what to do.

Each error becomes one line with the dotted key (`regions.fens.roi`), the value and its type,
and the expected value.
"""

from __future__ import annotations

import datetime
import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ..urls import public_href

_MAX_VALUE_LENGTH = 60
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a section with at least one entry",
    "model_type": "a section (keys with values under it)",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "filled: at least one entry is required",
    "string_too_short": "filled",
}


def refused(message: str) -> PydanticCustomError:
    """Return an error for a validator to raise; `message` is complete, with the names of keys."""
    return PydanticCustomError("message", "{message}", {"message": message})


def expected(requirement: str) -> PydanticCustomError:
    """Return an error for a validator of one value to raise.

    The message is `<key> is <value>, but must be <requirement>`.
    """
    return PydanticCustomError("expected", "{requirement}", {"requirement": requirement})


def dotted(location: tuple[int | str, ...]) -> str:
    """Return a location as text: `('products', 'formats', 0)` as `products.formats[0]`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: Any) -> str:
    """Return a value and, in brackets, its type in terms of YAML."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    if isinstance(value, Mapping):
        return "a section" if value else "an empty section"
    types = (
        (str, "text"),
        (int, "whole number"),
        (float, "number"),
        (datetime.datetime, "date with a time"),
        (datetime.date, "date"),
        (list, "list"),
    )
    type_ = next((name for cls, name in types if isinstance(value, cls)), type(value).__name__)
    text = repr(value) if isinstance(value, str | list) else str(value)
    if len(text) > _MAX_VALUE_LENGTH:
        text = text[: _MAX_VALUE_LENGTH - 3] + "..."
    return f"{text} ({type_})"


def as_yaml(value: Any) -> str:
    """Return a default or an allowed value in YAML syntax."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(as_yaml(entry) for entry in value)}]"
    return str(value)


def first_sentence(description: str) -> str:
    """Return the first sentence of a description, without its full stop."""
    return description.split(". ")[0].rstrip(".")


def error_messages(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per problem in `error`, the validation error of a document of `model`."""
    return [
        line
        for details in error.errors(include_url=False)
        for line in _message(details, model).splitlines()
    ]


def _message(details: ErrorDetails, root: type[BaseModel]) -> str:
    location, kind, value = details["loc"], details["type"], details["input"]
    if kind == "message":
        return details["msg"]
    if kind == "extra_forbidden":
        return _unknown_key(location, root)
    if location[-1:] == ("[key]",):
        return f"{dotted(location[:-2])} has the name {shown(value)}: give it {details['msg']}."
    key = dotted(location)
    if kind == "secret":
        return (
            f"{key} ({public_href(str(value))}) contains {details['msg']}, which would be written "
            "to files that others can read: put a user name and password into ~/.netrc, or the "
            "value into a variable of the environment, and write ${NAME} in its place."
        )
    if kind == "missing":
        field = _field(location, root)
        meaning = first_sentence(field.description or "") if field else "required"
        return f"{key} is missing and has no default: set it ({meaning[:1].lower()}{meaning[1:]})."
    if kind == "value_error":
        return f"{key}: {details['ctx']['error']}."
    if kind == "literal_error":
        return f"{key} is {shown(value)}, but must be one of {_choices(location, root, value)}."
    if kind == "expected":
        requirement = details["msg"]
    elif kind in _EXPECTED:
        requirement = _EXPECTED[kind].format(**details.get("ctx", {}))
    else:
        return f"{key} is {shown(value)}: {details['msg']}."
    return (
        f"{key} is {shown(value)}, but must be {requirement}.{_advice(kind, location, root, value)}"
    )


def _advice(kind: str, location: tuple[int | str, ...], root: type[BaseModel], value: Any) -> str:
    """Return a hint or the default, with a leading space; empty if there is none."""
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f" Put quotes around it: '{str(value).lower()}'."
    if kind == "list_type" and value is not None and not isinstance(value, Mapping):
        return f" Put brackets around it: [{value}]."
    field, model = _field(location, root), _model(location[:-1], root)
    if field is None or field.is_required() or kind in ("model_type", "dict_type"):
        return ""
    if model is not None and replaces_keys(model):
        return ""
    default = field.get_default(call_default_factory=True)
    if default is None or isinstance(default, BaseModel):
        return ""
    return f" The default is {as_yaml(default)}."


def _unknown_key(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    parent, key = location[:-1], str(location[-1])
    model = _model(parent, root)
    known = list(model.model_fields) if model else []
    start = f"Unknown key {dotted((*parent, key))}"
    similar = difflib.get_close_matches(key.lower(), known, n=1)
    if similar:
        return f"{start}: did you mean {dotted((*parent, similar[0]))}?"
    same_name = [path for path in key_paths(root) if path.rpartition(".")[2] == key]
    if same_name:
        return f"{start}: did you mean {' or '.join(same_name)}?"
    section = f"in {dotted(parent)}" if parent else "at the top level"
    return f"{start}: the keys {section} are {', '.join(known)}."


def _choices(location: tuple[int | str, ...], root: type[BaseModel], value: Any) -> str:
    field = _field(location, root) or _field(location[:-1], root)
    choices = [str(choice) for choice in literals(field.annotation)] if field else []
    similar = difflib.get_close_matches(str(value).lower(), choices, n=1)
    return ", ".join(choices) + (f" (did you mean {similar[0]}?)" if similar else "")


def literals(annotation: Any) -> tuple[Any, ...]:
    """Return the values that a `Literal`, or a list of one, allows; empty for other annotations."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return tuple(value for inner in typing.get_args(annotation) for value in literals(inner))


def section_of(annotation: Any) -> tuple[type[BaseModel], bool] | None:
    """Return the section model of an annotation, and whether it is a mapping of names to sections.

    None if the annotation is not a section.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if typing.get_origin(annotation) is dict:
        return typing.get_args(annotation)[1], True
    return None


def replaces_keys(section: type[BaseModel]) -> bool:
    """Return whether the keys of a section replace those of another, and have no defaults."""
    return bool(getattr(section, "is_override", False))


def key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every key under `model`, dotted, such as `grid.resolution` and `regions.<name>.roi`."""
    for key, field in model.model_fields.items():
        path = f"{prefix}{key}"
        yield path
        section = section_of(field.annotation)
        if section and not replaces_keys(section[0]):
            inner, named = section
            yield from key_paths(inner, f"{path}.<name>." if named else f"{path}.")


def _model(location: tuple[int | str, ...], root: type[BaseModel]) -> type[BaseModel] | None:
    """Return the section model at a location; None if the location is not a section."""
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
    """Return the field at a location; None if it is not a key of a section."""
    if not location:
        return None
    model = _model(location[:-1], root)
    return model.model_fields.get(str(location[-1])) if model else None
