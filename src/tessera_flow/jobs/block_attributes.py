"""Read the attributes of a block file, without the libraries that read its arrays."""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

from ..errors import ReadError, TileError
from ..input_files import BLOCK_ROOT, INCOMPLETE_BLOCK, damage_named


def read_attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the attributes of a block file.

    Raises:
        TileError: the file is missing or is not a complete block file.
        ReadError: the file cannot be read.
    """
    try:
        with damage_named(), zipfile.ZipFile(path) as archive:
            attributes = json.loads(archive.read(BLOCK_ROOT)).get("attributes", {})
            if not isinstance(attributes, dict):
                raise ValueError("its attributes are not an object")
    except FileNotFoundError as error:
        raise TileError(f"{path} does not exist: run the step that makes it again.") from error
    except OSError as error:
        raise ReadError(
            f"{path} cannot be read ({error.strerror}): check the file system and the permissions "
            "of the file, and run again."
        ) from error
    except INCOMPLETE_BLOCK as error:
        raise TileError(
            f"{path} is not a complete block file ({error}): delete it and run again."
        ) from error
    return attributes
