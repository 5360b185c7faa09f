"""`tessera-flow map`: make a map of a class or a number from labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

PAGE = "map.html"
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
    from ..atomic import atomic_folder
    from ..config.maps import Map
    from ..config.messages import error_messages
    from ..errors import ConfigError
    from ..products.reading.find import find_stores

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
    out = Path(arguments.out).resolve()
    _check_folder(out)
    with atomic_folder(out, _is_map) as part:
        part.mkdir()
        files = MapFiles.below(part)
        record = make_map(arguments.name or out.name, stores[0], settings, files, arguments.threads)
        write_page(part / PAGE, files.record, files.map, files.uncertainty)
    states = ", ".join(f"{n} {state}" for state, n in record["labels"]["states"].items())
    scores = ", ".join(
        f"{key.replace('_', ' ')} {value:.4g}"
        for key, value in record["accuracy"]["scores"].items()
        if value is not None
    )
    map_file = arguments.out / files.map.name
    print(f"labels: {states}\n{scores}\n{map_file}\n{arguments.out / PAGE}")
    return 0


def _check_folder(out: Path) -> None:
    """Refuse a folder with files that are not of a map: the map replaces the folder.

    Raises:
        OutputError: there is such a file, or no folder can be written there.
    """
    from ..atomic import check_folder
    from ..errors import OutputError

    if out == Path.cwd():
        raise OutputError("--out is the current folder, which the map would replace: name another.")
    check_folder(out.parent)
    if out.is_dir() and any(out.iterdir()) and not _is_map(out):
        other = next((p.name for p in sorted(out.iterdir()) if p.name not in _map_names()), None)
        why = f"has the file {other}" if other else "has no complete map"
        raise OutputError(
            f"{out} {why}, and a map replaces its folder: name another folder, or remove it."
        )


def _map_names() -> set[str]:
    """Return the names of the files of a map, and of the statistics that GDAL adds."""
    from ..analysis.make_map import MapFiles

    names = {path.name for path in vars(MapFiles.below(Path())).values()}
    return names | {PAGE, "uncertainty.tif.aux.xml"}


def _is_map(folder: Path) -> bool:
    """Return whether a folder is a map of this command, and nothing else is in it."""
    import json

    try:
        record = json.loads((folder / "map.json").read_text(encoding="utf-8"))
        names = {path.name for path in folder.iterdir()}
        keys = {"product", "method", "parameters", "accuracy"}
        return keys <= set(record) and names <= _map_names()
    except (OSError, ValueError, TypeError):
        return False
