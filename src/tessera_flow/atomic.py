"""Write results completely or not at all: under a temporary name, then rename.

The temporary file is in the folder of the result (a rename across file systems is a copy). Its
name begins with a dot and contains its writer (host, process), so that two writers never share
one. The next writer of the same result removes the temporary files of killed writers, and no
others.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
"""Name of this machine, without dots."""

_ABANDONED_AFTER = 24 * 3600.0
"""Seconds without a change after which another host's temporary file counts as abandoned."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

DISK_ERRORS = {*_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
"""Codes of an `OSError` that concern the disks of this machine, not the network."""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_abandoned(part: Path, final: Path) -> bool:
    """Return whether the writer of a temporary file has ended; checked on this host only."""
    pattern = rf"\.{re.escape(final.name)}\.([^.]+)\.(\d+)\.[0-9a-f]+(?:\.\w+)?\.part"
    writer = re.fullmatch(pattern, part.name)
    if writer is None:
        return False
    host, process = writer[1], int(writer[2])
    if host != HOST:
        return time.time() - part.stat().st_mtime > _ABANDONED_AFTER
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the message for an `OSError` raised while writing `path`."""
    if error.errno in _FULL:
        return OutputError(
            f"No space left while writing {path} ({error.strerror}): free space or quota "
            "there, or set `paths` in the configuration to another disk, and run again."
        )
    return OutputError(
        f"Cannot write {path} ({error.strerror or error}): check that its folder exists, is a "
        "folder and is writable."
    )


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a folder that is not writable, before anything is computed for it.

    Raises:
        OutputError: the folder, or the nearest one above it that exists, is not a folder or
            is not writable.
    """
    folder = Path(path)
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise output_error(Path(path), error) from error


@contextmanager
def atomic_output(path: str | os.PathLike[str], folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it to `path`.

    The caller creates a file at the yielded path, or a folder if `folder` is true. If the body
    raises, the temporary path is removed and `path` is unchanged. A file never replaces a folder.

    Raises:
        OutputError: `path` is a folder and a file is to be written, or is a file and a folder is
            to be written; the folder cannot be made, or the disk or quota is full, or permission is
            missing.
    """
    final = Path(path)
    _refuse_other_kind(final, folder)
    part = final.parent / f".{final.name}.{HOST}.{os.getpid()}.{uuid.uuid4().hex[:12]}.part"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for stale in final.parent.glob(f".{final.name}.*.part"):
            if _is_abandoned(stale, final):
                _remove(stale)
    except OSError as error:
        raise output_error(final, error) from error
    try:
        yield part
        _sync(part)
        _refuse_other_kind(final, folder)
        if folder and final.is_dir():
            shutil.rmtree(final)
        os.replace(part, final)
    except BaseException as error:
        try:
            _remove(part)
        except OSError:
            pass
        if isinstance(error, OSError) and (
            error.errno in _FULL or error.filename in (None, str(part))
        ):
            raise output_error(final, error) from error
        raise


def _refuse_other_kind(path: Path, folder: bool) -> None:
    """Refuse to replace a folder by a file, or anything else by a folder."""
    if not path.name or path.name == "..":
        raise OutputError(f"{path} is not the name of a file: give one.")
    if not folder and path.is_dir():
        raise OutputError(f"{path} is a folder and cannot be replaced by a file: use another name.")
    if folder and (path.is_symlink() or (path.exists() and not path.is_dir())):
        raise OutputError(
            f"{path} is not a folder and cannot be replaced by one: use another name."
        )


def _sync(path: Path) -> None:
    """Flush a file to disk before its rename, so that a power cut cannot keep the rename and lose
    the content. Folders (stores of many files) are not flushed."""
    if path.is_file():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path`, completely or not at all."""
    with atomic_output(path) as part:
        part.write_text(text, encoding="utf-8")
