"""Read the attributes of a block file, without the libraries that read its arrays."""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

from ..input_files import BLOCK_ROOT, opening_block


def read_attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the attributes of a block file.

    Raises:
        TileError: the file is missing or is not a complete block file.
        ReadError: the file cannot be read.
    """
    with opening_block(path), zipfile.ZipFile(path) as archive:
        attributes = json.loads(archive.read(BLOCK_ROOT)).get("attributes", {})
        if not isinstance(attributes, dict):
            raise ValueError("its attributes are not an object")
    return attributes
