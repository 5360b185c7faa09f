"""Read text tables (CSV) as people have them: encodings, separators, decimal commas.

Nothing is guessed: what could mean two things is refused, with the option that decides it.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from ...errors import RegionError
from ...input_files import MAX_DOCUMENT, check_input

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MISSING = ("", "na", "n/a", "nan", "null", "none", "-")
"""Texts of a missing coordinate, in any case."""

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_EXCEL = re.compile(r"sep=(.)(?:\r\n?|\n)")
_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")

MAX_COLUMNS = 10_000
"""Of a text table; more are another kind of file."""


def read_text_table(
    path: Path,
    encoding: str | None,
    separator: str | None,
    has_names: Callable[[Sequence[str]], bool],
) -> pa.Table:
    """Read a text table. Columns are text, except those whose values are unchanged as numbers.

    Args:
        path: the file.
        encoding: its encoding; by default the one of its byte order mark, else UTF-8.
        separator: between columns; by default the one that its first line uses.
        has_names: returns whether the names of columns include those of the coordinates.

    Raises:
        RegionError: the encoding or the separator is unknown, or the table is empty or ragged.
        OSError: the file cannot be read.
    """
    check_input(path, RegionError, MAX_DOCUMENT)
    text = _decode(path, path.read_bytes(), encoding)
    if excel := _EXCEL.match(text):
        separator, text = separator or excel[1], text[excel.end() :]
    if not text.strip():
        raise RegionError(f"{path} is empty: it needs a line with the names of its columns.")
    separator = separator or _separator(path, text, has_names)
    names = _first_row(text, separator)
    if not 0 < len(names) <= MAX_COLUMNS:
        raise RegionError(
            f"{path} is no table: its first line has {len(names) or 'no'} names of columns, and a "
            f"table has 1 to {MAX_COLUMNS}."
        )
    check_names(path, names)
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(text.encode()),
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            ),
        )
    except pa.ArrowException as error:
        raise RegionError(
            f"{path} cannot be read as a table with a {SEPARATORS.get(separator, separator)} "
            f"between columns ({error}): correct it, or name its separator with --separator."
        ) from error
    for number, name in enumerate(table.column_names):
        table = table.set_column(number, name, _as_numbers(table.column(number)))
    return table


def check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse two columns of one name: it would be unclear which is meant.

    Raises:
        RegionError: a name occurs twice.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RegionError(
            f"{path} has several columns named {', '.join(twice)}: rename or remove them."
        )


def coordinates(path: Path, name: str, column: pa.ChunkedArray, degrees: bool) -> NDArray[Any]:
    """Return a column of coordinates as float64, NaN where it is missing.

    A decimal comma is accepted. Thousands separators are refused, also where they cannot be
    distinguished from a decimal comma (`600,123` in metres; in degrees it can only be one).

    Args:
        path: the file, for messages.
        name: name of the column.
        column: its values, numbers or text.
        degrees: whether it is in degrees.

    Raises:
        RegionError: it contains other text.
    """
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise RegionError(_not_numeric(path, name, f"its type is {kind}"))
    texts = [(value or "").strip() for value in column.to_pylist()]
    missing = np.array([text.lower() in MISSING for text in texts], bool)
    points = np.array([bool(_POINT.fullmatch(text)) for text in texts], bool)
    commas = np.array([bool(_COMMA.fullmatch(text)) for text in texts], bool)
    other = np.flatnonzero(~(missing | points | commas))
    if other.size:
        row, text = int(other[0]), texts[other[0]]
        thousands = re.fullmatch(r"[+-]?\d{1,3}([.,' \u00a0\u202f]\d{3})+([.,]\d*)?", text)
        why = " has thousands separators" if thousands else " is not a number"
        raise RegionError(_not_numeric(path, name, f"row {row + 1}: {text!r}{why}"))
    with_point = [text for text, point in zip(texts, points, strict=True) if point and "." in text]
    with_comma = [text for text, comma in zip(texts, commas, strict=True) if comma]
    if with_comma and with_point:
        raise RegionError(
            _not_numeric(path, name, f"it has decimal commas and points: {with_comma[0]!r} and "
                         f"{with_point[0]!r}")
        )  # fmt: skip
    if with_comma and not degrees and all(_THOUSANDS.fullmatch(text) for text in with_comma):
        raise RegionError(
            _not_numeric(path, name, f"{with_comma[0]!r} may have a decimal comma or a thousands "
                         "separator")
        )  # fmt: skip
    numbers = ("nan" if gap else text for text, gap in zip(texts, missing, strict=True))
    return np.array([float(number.replace(",", ".")) for number in numbers], np.float64)


def _not_numeric(path: Path, name: str, why: str) -> str:
    return (
        f"{path}: column {name} is not numeric ({why}): correct it, or name the columns of the "
        "coordinates with --x and --y."
    )


def _decode(path: Path, data: bytes, encoding: str | None) -> str:
    if encoding is None:
        encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8")
        if encoding == "utf-8" and b"\0" in data:
            raise RegionError(
                f"{path} is not UTF-8 text (it contains zero bytes): name its encoding with "
                "--encoding, such as utf-16-le, or save it as CSV in UTF-8."
            )
    try:
        return data.decode(encoding)
    except LookupError as error:
        raise RegionError(
            f"{encoding} is not a known encoding: write it like utf-8, cp1252 or utf-16."
        ) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RegionError(
            f"{path} is not in the encoding {encoding} (byte 0x{data[error.start]:02x} in line "
            f"{line}): name its encoding with --encoding, such as cp1252 (Latin-1, Western Europe) "
            "or cp1250, or save it in UTF-8."
        ) from error


def _separator(path: Path, text: str, has_names: Callable[[Sequence[str]], bool]) -> str:
    """Return the separator of the first line: the only one in it, or the only one that gives the
    names of the coordinates."""
    rows = {separator: _first_row(text, separator) for separator in SEPARATORS}
    used = [separator for separator, row in rows.items() if len(row) > 1]
    if len(used) > 1:
        used = [separator for separator in used if has_names(rows[separator])] or used
    if len(used) > 1:
        names = " or ".join(SEPARATORS[separator] for separator in used)
        raise RegionError(
            f"{path}: its columns may be separated by {names}: name the separator with --separator."
        )
    return used[0] if used else ","


def _first_row(text: str, separator: str) -> list[str]:
    lines = io.StringIO(text, newline="")  # also for line ends of \r alone
    try:
        return next((row for row in csv.reader(lines, delimiter=separator) if row), [])
    except csv.Error:  # longer than the names of columns are
        return []


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of text as numbers if that changes no value, such as 007 or 1.50."""
    empty = pc.equal(column, "")
    if not len(column) or pc.all(empty).as_py():
        return column
    texts = pc.if_else(empty, None, column)
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = texts.cast(kind)
        except pa.ArrowException:
            continue
        if numbers.cast(pa.string()).equals(texts):
            return numbers
    return column
