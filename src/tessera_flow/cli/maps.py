"""`tessera-flow map`: make a map of a class or a number from labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_OF_THE_CONFIGURATION = ("labels", "regions", "periods")


def register(subparsers: Subparsers) -> None:
    """Add `map` to the command line; its `func` takes the parsed arguments."""
    from ..config.maps import Map
    from ..config.messages import first_sentence, literals

    parser = subparsers.add_parser(
        "map",
        help="make a map of a class or a number from labels",
        description=(
            "Learn a class or a number from labelled points or polygons, estimate the accuracy by "
            "a cross-validation with spatial blocks, and predict every pixel of a product. The "
            "options are the keys of `maps` in the configuration."
        ),
    )
    add = parser.add_argument
    add("store", type=Path, help="embeddings.zarr, or the folder of a region and period")
    add("labels", help="CSV or Parquet table, GeoPackage, GeoJSON, ...")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    add("--name", help="name of the map (default: that of the folder)")
    add("--threads", type=int, default=1, metavar="N", help="cores (default: 1)")
    for key, field in Map.model_fields.items():
        if key in _OF_THE_CONFIGURATION:
            continue
        choices = literals(field.annotation)
        kind: Any = field.annotation if field.annotation in (int, float) else str
        shown = (
            "" if field.is_required() or field.default is None else f" (default: {field.default})"
        )
        add(
            f"--{key.replace('_', '-')}",
            type=kind,
            choices=choices or None,
            required=field.is_required(),
            metavar=None if choices else {int: "N", float: "X"}.get(kind, "TEXT"),
            help=first_sentence(field.description or "").replace("`", "").rstrip(".") + shown,
        )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the map and its page; print the accuracy."""
    from pydantic import ValidationError

    from ..analysis.make_map import MapFiles, make_map
    from ..analysis.page import write_page
    from ..config.maps import Map
    from ..config.messages import error_messages
    from ..errors import ConfigError
    from ..products.stores import find_stores

    keys = {
        key: value
        for key in Map.model_fields
        if (value := getattr(arguments, key, None)) is not None
    }
    try:
        settings = Map.model_validate(keys)
    except ValidationError as error:
        raise ConfigError("\n".join(error_messages(error, Map))) from error
    if arguments.threads < 1:
        raise ConfigError(f"--threads {arguments.threads}: give a number of at least 1.")
    stores = find_stores([arguments.store])
    if len(stores) > 1:
        raise ConfigError(
            f"{arguments.store} has {len(stores)} products: name the folder of one region and "
            f"period, such as {stores[0].parent}."
        )
    out: Path = arguments.out
    files = MapFiles.below(out)
    page = out / "map.html"
    _check_folder(out, [*vars(files).values(), page], files.record)
    name = arguments.name or out.resolve().name
    record = make_map(name, stores[0], settings, files, arguments.threads)
    write_page(page, files.record, files.map, files.uncertainty)
    states = ", ".join(f"{n} {state}" for state, n in record["labels"]["states"].items())
    scores = ", ".join(
        f"{key.replace('_', ' ')} {value:.4g}"
        for key, value in record["accuracy"]["scores"].items()
        if value is not None
    )
    print(f"labels: {states}\n{scores}\n{files.map}\n{page}")
    return 0


def _check_folder(out: Path, files: list[Path], record: Path) -> None:
    """Refuse a folder that has files of these names that this program has not written.

    Raises:
        OutputError: there is such a file, or the folder cannot be written to.
    """
    import json

    from ..atomic import check_output
    from ..errors import OutputError

    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        ours = {"product", "method", "parameters", "accuracy"} <= set(document)
    except (OSError, ValueError, TypeError):
        ours = False
    for file in files:
        if file.exists() and not ours:
            raise OutputError(
                f"{file} exists, and {out} has no complete map: remove it, or name another folder."
            )
        check_output(file)
