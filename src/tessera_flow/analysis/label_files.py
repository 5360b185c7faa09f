"""Hash the files of labels, without reading them; the workflow does this whenever it is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import LabelError
from ..input_files import MAX_TABLE, check_input
from ..region.roi_files import roi_files


def labels_sha256(path: str | Path) -> str:
    """Return the SHA-256 of the files of the labels (a shapefile has several), hexadecimal.

    Raises:
        LabelError: a file does not exist, cannot be read, is none or is too large.
    """
    digests = []
    for file in roi_files(path):
        check_input(file, LabelError, MAX_TABLE)
        try:
            with file.open("rb") as handle:
                digests.append((file.suffix, hashlib.file_digest(handle, "sha256").hexdigest()))
        except OSError as error:
            raise LabelError(
                f"The labels {path} cannot be read ({error.strerror}): check the path."
            ) from error
    if len(digests) == 1:  # as `sha256sum` prints it
        return digests[0][1]
    return hashlib.sha256(repr(digests).encode()).hexdigest()
