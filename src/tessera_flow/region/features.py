"""Divide a vector file, or a table of boxes, into one region for each feature or row."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..config.bounding_box import bounding_box
from ..config.types import NAME_PATTERN
from ..errors import RegionError
from .vector_file import check_database, edits_read

BOX_COLUMNS = ("west", "south", "east", "north")


def boxes_of_table(path: Path, column: str) -> dict[str, list[float]]:
    """Return the boxes of a CSV with the columns west, south, east and north (degrees), by name.

    Args:
        path: the table, UTF-8, with a comma or a semicolon between the columns.
        column: column with the names of the regions.

    Raises:
        RegionError: a column, a name or a number is missing or wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RegionError(f"{path} cannot be read as a table in UTF-8 ({error}).") from error
    first = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter=";" if ";" in first else ",", strict=True)
    missing = [name for name in (column, *BOX_COLUMNS) if name not in (rows.fieldnames or ())]
    if missing:
        raise RegionError(
            f"{path} has no column {', '.join(missing)}: a table of regions has {column}, "
            f"{', '.join(BOX_COLUMNS)} (degrees)."
        )
    boxes = []
    for number, row in enumerate(rows, start=2):
        try:
            box = bounding_box([float(row[name]) for name in BOX_COLUMNS])
        except (TypeError, ValueError) as error:
            raise RegionError(f"{path}, line {number}: the box must be {error}.") from None
        boxes.append((row[column], box))
    return dict(_named(path, boxes, "row"))


def write_features(path: Path, layer: str | None, attribute: str, folder: Path) -> list[str]:
    """Write each feature of a vector file as `<name>.gpkg`, in the CRS of the file.

    Args:
        path: any vector format of GDAL.
        layer: layer to read; None if there is one only.
        attribute: attribute with the names of the regions.
        folder: folder to write into.

    Returns:
        The names.

    Raises:
        RegionError: the file, a name or the attribute cannot be used.
    """
    # Imported here: it imports pandas.
    import pyogrio

    check_database(path)
    try:
        with edits_read(path):
            layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
            if layer is None and len(layers) > 1:
                raise RegionError(
                    f"{path} has {len(layers)} layers ({', '.join(layers)}): name one with --layer."
                )
            meta, _, wkb, data = pyogrio.raw.read(path, layer=layer)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise RegionError(f"{path} cannot be read as a vector file ({error}).") from error
    fields = [str(name) for name in meta["fields"]]
    if attribute not in fields:
        raise RegionError(f"{path} has no attribute {attribute}; it has {', '.join(fields)}.")
    if meta["crs"] is None:
        raise RegionError(f"{path} has no coordinate reference system: assign one.")
    values = data[fields.index(attribute)]
    features = list(_named(path, list(zip(values, wkb, strict=True)), "feature"))
    for name, geometry in features:
        if geometry is None:
            raise RegionError(f"{path}: the feature {name} has no geometry: draw or remove it.")
        pyogrio.raw.write(
            folder / f"{name}.gpkg", np.array([geometry], dtype=object), [], [], layer="region",
            driver="GPKG", geometry_type="Unknown", crs=meta["crs"],
        )  # fmt: skip
    return [name for name, _ in features]


def _named(path: Path, entries: list[tuple[Any, Any]], kind: str) -> Iterator[tuple[str, Any]]:
    """Yield names that folders can have, with their values; characters that are not allowed
    become `_`."""
    if not entries:
        raise RegionError(f"{path} has no {kind}s.")
    seen: dict[str, int] = {}
    for number, (value, entry) in enumerate(entries, start=1):
        given = "" if value is None or value != value else str(value)
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", given).strip("_-")
        if not NAME_PATTERN.fullmatch(name):
            raise RegionError(
                f"{path}: {kind} {number} has the name {given!r}: give it one with a letter or "
                "digit."
            )
        # Names of folders differ on every file system.
        if name.lower() in seen:
            raise RegionError(
                f"{path}: the {kind}s {seen[name.lower()]} and {number} both have the name {name}: "
                "rename or join them."
            )
        seen[name.lower()] = number
        yield name, entry
