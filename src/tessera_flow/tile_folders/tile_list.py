"""List the exported tile folders of a region and period, and move those of earlier runs away.

A region, block size or patch size that has changed gives other tiles. Whoever lists the folder of
the tiles, as the published scripts do, would mix the two.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..atomic import output_error, write_text
from ..errors import TileError
from .exporter import is_exported

logger = logging.getLogger(__name__)

_SHOWN = 5


def list_tiles(
    output: Path, folder: Path, records: Iterable[Path], settings: Mapping[str, Any]
) -> list[str]:
    """Write the list of the current tile folders, and move others that `export_tiles` has written.

    What is not current is moved to `{folder}_earlier/{number}`, a new folder of each call, with
    the records of blocks that do not exist any more. Folders of others stay and are named in the
    list. Nothing is deleted.

    Args:
        output: JSON file, written last: `tiles` and `blocks` that are current, `other_folders`,
            and `settings`.
        folder: that contains the tile folders.
        records: the file of each current block that `export_tiles` wrote.
        settings: written into the list; `configuration` is also its `configuration_sha256`.

    Returns:
        The names of folders that this program has not written, in order.

    Raises:
        TileError: a record cannot be read.
        OutputError: something cannot be moved, or the list cannot be written.
    """
    blocks = {path.name: _tiles_of(path) for path in records}
    tiles = [name for names in blocks.values() for name in names]
    current = {*tiles, *blocks}
    earlier, others = [], []
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (Path(e.path), e.is_dir(follow_symlinks=False))
                for e in entries
                if e.name not in current and not e.name.startswith(".")
            )
    except FileNotFoundError:
        found = []  # no block is current
    except OSError as error:
        raise output_error(folder, error) from error
    for path, is_folder in found:
        if is_exported(path) if is_folder else _is_record(path):
            earlier.append(path)
        elif path.is_dir():  # also a link to one
            others.append(path.name)
    _move(earlier, folder)
    if others:
        logger.warning(
            "%s: %d folders are no tiles of this run (%s)",
            folder, len(others), ", ".join(others[:_SHOWN]),
        )  # fmt: skip
    document = {
        "blocks": [Path(name).stem for name in blocks],
        "tiles": tiles,
        "other_folders": others,
        **settings,
        "configuration_sha256": settings["configuration"],
    }
    write_text(output, json.dumps(document, indent=1) + "\n")
    return others


def _tiles_of(record: Path) -> list[str]:
    try:
        names = json.loads(record.read_bytes())["tiles"]
        return [str(name) for name in names]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TileError(f"{record} cannot be read ({error}): delete it and run again.") from error


def _is_record(path: Path) -> bool:
    """Return whether a file is the record of a block that `export_tiles` wrote."""
    if path.suffix != ".json":
        return False
    try:
        document: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and {"block", "patch_size", "tiles"} <= set(document)


def _move(paths: list[Path], folder: Path) -> None:
    """Move files and folders into a new folder beside that of the tiles."""
    if not paths:
        return
    target = folder.with_name(f"{folder.name}_earlier")
    try:
        target.mkdir(exist_ok=True)
        number = 1 + max((int(p.name) for p in target.iterdir() if p.name.isdecimal()), default=0)
        target /= str(number)
        target.mkdir()
        for path in paths:
            os.rename(path, target / path.name)
    except OSError as error:
        raise output_error(target, error) from error
    logger.warning(
        "%d tile folders and records of earlier settings were in %s and are now in %s: delete it "
        "when they are not needed any more", len(paths), folder, target,
    )  # fmt: skip
