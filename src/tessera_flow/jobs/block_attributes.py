"""Read the attributes of a block file, without the libraries that read its arrays."""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

from ..errors import TileError

ROOT = "zarr.json"
"""Name in the zip file of the metadata of the root group."""

MADE_FROM = "made_from"
"""Attribute that `block_file.made_from` writes: hash of each step before a file."""


def read_attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the attributes of a block file.

    Raises:
        TileError: the file is missing or is not a complete block file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read(ROOT))
    except FileNotFoundError as error:
        raise TileError(f"{path} does not exist: run the step that makes it again.") from error
    except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise TileError(
            f"{path} is not a complete block file ({error}): delete it and run again."
        ) from error
    attributes: dict[str, Any] = document.get("attributes", {})
    return attributes
