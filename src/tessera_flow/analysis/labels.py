"""Read labels: points or polygons with a class or a number."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..config.maps import Map
from ..errors import LabelError, RegionError
from ..products.tables.points import Points, Polygons, read_features
from ..products.tables.text_table import coordinates

MAX_CLASSES = 255
"""Values of a class in the map are uint8; 0 is no data."""

LARGEST_NUMBER = 1e30
"""In magnitude; a map has float32. Larger numbers are how GIS programs write no data."""

_NO_CLASS = ("", "na", "n/a", "nan", "null")
_LISTED = 8
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Labels:
    """Labels as in their file.

    Attributes:
        features: points or polygons.
        values: (n,) float64: the number, or the position of the class in `classes`; NaN where
            there is none.
        classes: names, in the order of their values in the map; empty for numbers.
        codes: value of each class in the map: the class itself if all are whole numbers from 1
            to 255, else 1, 2, ...
        warnings: what is to be stated about them.
    """

    features: Points | Polygons
    values: NDArray[np.float64]
    classes: tuple[str, ...]
    codes: tuple[int, ...]
    warnings: tuple[str, ...]

    @property
    def polygons(self) -> bool:
        """Whether the labels are polygons."""
        return isinstance(self.features, Polygons)

    @property
    def noun(self) -> str:
        """What the labels are, in plural."""
        return "polygons" if self.polygons else "points"


def read_labels(settings: Map, name: str = "") -> Labels:
    """Read the labels of a map.

    Args:
        settings: the map.
        name: prefix of the keys in messages, such as `maps.cover.`; empty for options of the
            command line.

    Raises:
        LabelError: the file cannot be read, has no such column, or values that are no classes or
            numbers.
    """
    path = Path(settings.labels)
    try:
        features = read_features(
            path,
            settings.x,
            settings.y,
            settings.crs,
            encoding=settings.encoding,
            separator=settings.separator,
            layer=settings.layer,
        )
        table = features.table
        if settings.column not in table.column_names:
            raise LabelError(_no_column(path, settings.column, table.column_names))
        column = table[settings.column]
        if settings.predict == "number":
            values = _numbers(path, settings.column, column)
            return Labels(features, values, (), (), ())
    except RegionError as error:
        text = str(error)
        if name:
            text = re.sub(r"--(x|y|crs|encoding|separator|layer)\b", rf"{name}\1", text)
        raise LabelError(text) from error
    return _classes(path, settings.column, column, features)


def _no_column(path: Path, column: str, names: Sequence[str]) -> str:
    similar = difflib.get_close_matches(column.lower(), [n.lower() for n in names], n=1)
    hint = next((n for n in names if similar and n.lower() == similar[0]), None)
    listed = f"its columns are {', '.join(names)}" if names else "it has no columns"
    return f"{path} has no column {column}: " + (f"did you mean {hint}?" if hint else f"{listed}.")


def _numbers(path: Path, name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return numbers, NaN where there is none or it is not finite."""
    try:
        values = coordinates(path, name, column, degrees=False)
    except RegionError as error:
        text = str(error).split(": correct it, or name")[0]
        raise LabelError(
            f"{text}: correct it, or set predict to class if the column contains classes."
        ) from error
    values = np.where(np.isfinite(values), values, np.nan)
    large = np.flatnonzero(np.abs(values) > LARGEST_NUMBER)
    if large.size:
        raise LabelError(
            f"{path}: column {name} has the number {values[large[0]]:.4g} (row {large[0] + 1}), "
            f"and a map has numbers up to {LARGEST_NUMBER:g}: leave it empty if it means no data."
        )
    return values


def _classes(path: Path, name: str, column: pa.ChunkedArray, features: Points | Polygons) -> Labels:
    texts = _class_texts(path, name, column)
    present = sorted({text for text in texts if text is not None}, key=_order)
    numeric = [text for text in present if _NUMBER.fullmatch(text)]
    if numeric and len(numeric) < len(present):
        number = texts.index(numeric[0])
        other = next(text for text in present if text not in set(numeric))
        raise LabelError(
            f"{path}: column {name} has both numbers (row {number + 1}: {numeric[0]}) and text "
            f"(row {texts.index(other) + 1}: {other}): use one kind of name for its classes."
        )
    if fraction := next((t for t in numeric if not re.fullmatch(r"[+-]?\d+", t)), None):
        raise LabelError(
            f"{path}: column {name} has numbers with a fraction (row {texts.index(fraction) + 1}: "
            f"{fraction}): set predict to number, or name the classes by whole numbers or text."
        )
    if len(present) > MAX_CLASSES:
        raise LabelError(
            f"{path}: column {name} has {len(present)} different classes, more than {MAX_CLASSES}: "
            "set predict to number if it is a quantity, or name another column."
        )
    position = {text: float(index) for index, text in enumerate(present)}
    values = np.array([np.nan if t is None else position[t] for t in texts], np.float64)
    numbers = [int(t) for t in present] if len(numeric) == len(present) else []
    usable = (
        bool(numbers)
        and len(set(numbers)) == len(numbers)
        and min(numbers) >= 1
        and max(numbers) <= MAX_CLASSES
    )
    codes = tuple(numbers) if usable else tuple(range(1, len(present) + 1))
    return Labels(features, values, tuple(present), codes, tuple(_alike(path, present)))


def _class_texts(path: Path, name: str, column: pa.ChunkedArray) -> list[str | None]:
    """Return the names of classes, None where there is none."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    values = column.to_pylist()
    if pa.types.is_boolean(kind):
        return [None if value is None else str(value).lower() for value in values]
    if pa.types.is_integer(kind):
        return [None if value is None else str(value) for value in values]
    if pa.types.is_floating(kind):  # whole numbers with gaps, as pandas writes them
        return [None if v is None or not np.isfinite(v) else f"{v:.15g}" for v in values]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = ((value or "").strip() for value in values)
        return [None if text.lower() in _NO_CLASS else text for text in texts]
    raise LabelError(
        f"{path}: column {name} is of the type {kind}, which names no classes: use text or whole "
        "numbers."
    )


def _order(text: str) -> tuple[int, float, str]:
    """Order whole numbers by their value, before text."""
    return (0, float(text), text) if re.fullmatch(r"[+-]?\d+", text) else (1, 0.0, text)


def _alike(path: Path, names: Sequence[str]) -> list[str]:
    """Return a warning about classes whose names differ only in case."""
    groups: dict[str, list[str]] = {}
    for text in names:
        groups.setdefault(re.sub(r"[\s_-]+", " ", text.casefold()), []).append(text)
    alike = [" and ".join(group) for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    return [
        f"{path.name} has classes whose names are almost the same, and which are kept apart: "
        f"{'; '.join(alike[:_LISTED])}."
    ]
