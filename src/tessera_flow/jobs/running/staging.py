"""Copy large inputs to a node's local disk, where random access is cheap.

A shared file system is fast for sequential reads and slow for many small ones, which also slow
down all other jobs.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...atomic import output_error
from ...config.path_text import expanded_on_node
from ...errors import ConfigError

logger = logging.getLogger(__name__)


def staged(paths: Sequence[str | os.PathLike[str]], scratch: str | None) -> list[Path]:
    """Copy files to a folder of this process below `scratch`, which is deleted when it ends.

    Args:
        paths: files; names may be equal.
        scratch: a folder on the node, with environment variables; None: no copies.

    Returns:
        The copies, in the order of `paths`; the files themselves if `scratch` is None or too
        small.

    Raises:
        ConfigError: a variable in `scratch` is not set on this machine.
        OutputError: nothing can be written there.
    """
    files = [Path(path) for path in paths]
    if scratch is None:
        return files
    folder = _process_folder(scratch)
    size = sum(file.stat().st_size for file in files)
    if size > shutil.disk_usage(folder).free:
        logger.warning("%s is too small for %d MB: inputs are read in place", scratch,
                       size // 1_000_000)  # fmt: skip
        return files
    copies = []
    for number, file in enumerate(files):
        copy = folder / f"{number}_{file.name}"
        try:
            shutil.copyfile(file, copy)
        except OSError as error:
            raise output_error(copy, error) from error
        copies.append(copy)
    logger.info("copied %d MB to %s", size // 1_000_000, folder)
    return copies


def _process_folder(scratch: str) -> Path:
    try:
        expanded = expanded_on_node(scratch)
    except ValueError as error:
        raise ConfigError(
            f"jobs.scratch is {scratch}, but must be {error}, on {os.uname().nodename}: use a "
            "folder that exists on every node, or remove the key."
        ) from None
    try:
        Path(expanded).mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="tessera-flow-", dir=expanded))
    except OSError as error:
        raise output_error(Path(expanded), error) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
