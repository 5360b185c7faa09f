"""Write results completely or not at all: under a temporary name, then rename.

Content and names are on disk before and after the rename, so a power cut leaves no empty or
partial file under a final name.

The temporary file is in the folder of the result (a rename across file systems is a copy). Its
name begins with a dot and contains its writer (host, process), so that two writers never share
one. The next writer of the same result removes the temporary files of killed writers, and no
others; so does the end of a run that succeeded.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
"""Name of this machine, without dots."""

_ABANDONED_AFTER = 24 * 3600.0
"""Seconds without a change after which another host's temporary file counts as abandoned."""

_HERE, _RENAME_EXCHANGE = -100, 2
"""`AT_FDCWD` and `RENAME_EXCHANGE` of Linux."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""Codes of an `OSError` by which a file system states that it cannot flush a folder."""

DISK_ERRORS = {*_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
"""Codes of an `OSError` that concern the disks of this machine, not the network."""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


_TEMPORARY = re.compile(
    r"\.(?P<final>.+)\.(?P<host>[^.]+)\.(?P<process>\d+)\.(?P<wrote>[0-9a-f]{8})[0-9a-f]{8}"
    r"(?:\.\w+)?\.part"
)
"""Name of a temporary file; see `_renamed`."""


def remove_abandoned(folder: Path, depth: int) -> None:
    """Remove the temporary files and folders of killed writers below a folder.

    The next writer of the same result removes them, too. This removes those of results that are
    complete, and that no job writes again. What cannot be removed is kept.

    Args:
        folder: where to look; it need not exist.
        depth: levels of folders; 1 is `folder` alone.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        with contextlib.suppress(OSError):
            if _TEMPORARY.fullmatch(path.name):
                if _is_abandoned(path):
                    _remove(path)
            elif depth > 1 and path.is_dir() and not path.is_symlink():
                remove_abandoned(path, depth - 1)


def _is_abandoned(part: Path) -> bool:
    """Return whether the writer of a temporary file has ended; checked on this host only."""
    writer = _TEMPORARY.fullmatch(part.name)
    if writer is None:
        return False
    host, process = writer["host"], int(writer["process"])
    if host != HOST:
        return time.time() - part.stat().st_mtime > _ABANDONED_AFTER
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    # It can have ended and not be waited for, and another process can have its number later.
    state, started = _state_of(process)
    wrote = int(writer["wrote"], 16)
    return state in ("Z", "X") or (0 not in (wrote, started) and wrote != started)


def _state_of(process: int) -> tuple[str, int]:
    """Return the state of a process (`Z`: ended, but not waited for), and when it started, in
    ticks since the machine started, below 2^32; empty and 0 if they are not known."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return fields[0], int(fields[19]) % 2**32
    except (OSError, ValueError, IndexError):
        return "", 0


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


def check_output(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no file can be written to, before anything is computed for it.

    Raises:
        OutputError: it has no name, is a folder, link, device or pipe, or its folder is not
            writable.
    """
    _check_file(Path(path))
    check_folder(Path(path).parent)


@contextmanager
def atomic_output(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the temporary path of a file beside `path`; on success rename it to `path`.

    The caller creates a file at the yielded path. If the body raises, it is removed, and `path` is
    unchanged. Only a file is replaced: never a folder, a link, a device or a pipe.

    Raises:
        OutputError: `path` is none that a file can be written to; its folder cannot be made, the
            disk or quota is full, or permission is missing.
    """
    with _renamed(Path(path), _check_file) as part:
        yield part


@contextmanager
def atomic_folder(path: str | os.PathLike[str], is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield the temporary path of a folder beside `path`; on success rename it to `path`.

    The caller creates a folder at the yielded path. If the body raises, it is removed, and `path`
    is unchanged. A folder that exists is replaced if it is empty or this program has written it.

    Args:
        path: the folder to write.
        is_ours: whether this program has written a folder that is not empty.

    Raises:
        OutputError: `path` is something else; or as for `atomic_output`.
    """

    def check(final: Path) -> None:
        check_replaceable(final, is_ours)

    with _renamed(Path(path), check) as part:
        yield part


@contextmanager
def _renamed(final: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    check(final)
    writer = f"{HOST}.{os.getpid()}.{_state_of(os.getpid())[1]:08x}{uuid.uuid4().hex[:8]}"
    part = final.parent / f".{final.name}.{writer}.part"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for stale in _temporary_of(final):
            if _is_abandoned(stale):
                with contextlib.suppress(PermissionError):  # of another user
                    _remove(stale)
    except OSError as error:
        raise output_error(final, error) from error
    try:
        yield part
        sync(part)
        check(final)
        _replace(part, final)
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


def _temporary_of(final: Path) -> list[Path]:
    """Return the temporary files of a result."""
    try:
        names = os.listdir(final.parent)
    except PermissionError:  # others may write into this folder, but not list it
        return []
    found = map(_TEMPORARY.fullmatch, names)
    return [final.parent / name[0] for name in found if name and name["final"] == final.name]


def _check_file(path: Path) -> None:
    """Refuse a path that is not a file, or that does not exist but names none."""
    _check_name(path)
    if kind := _kind_of_no_file(path):
        raise OutputError(f"{path} is {kind} and cannot be replaced by a file: use another name.")


def check_replaceable(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Refuse a path where a folder would replace what this program has not written.

    Args:
        path: of the folder to write; it need not exist.
        is_ours: whether this program has written a folder that is not empty.

    Raises:
        OutputError: it is not a folder, or a folder that is neither empty nor ours.
    """
    _check_name(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise OutputError(
            f"{path} is not a folder and cannot be replaced by one: use another name."
        )
    try:
        others = path.is_dir() and any(path.iterdir()) and not is_ours(path)
    except OSError as error:
        raise output_error(path, error) from error
    if others:
        raise OutputError(
            f"{path} is a folder that tessera-flow has not written, or that is damaged, and is not "
            "replaced: move it away, or use another name."
        )


def _check_name(path: Path) -> None:
    if path.name in ("", ".."):
        raise OutputError(f"{path} is not the name of a file: give one.")


def _kind_of_no_file(path: Path) -> str | None:
    """Return what a path is, if it is anything but a file; None if it does not exist."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None  # writing it gives the message
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISLNK(mode):
        return f"a link to {os.readlink(path)}"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a device, pipe or socket"


def _replace(part: Path, final: Path) -> None:
    """Rename to the final name, in place of what has it, and write the rename to disk."""
    old = None
    if part.is_dir() and final.is_dir():
        if _exchange(part, final):
            _sync_folder(final.parent)
            shutil.rmtree(part)
            return
        # An empty or old folder is renamed first: a folder with files cannot be replaced.
        old = part.with_name(part.name.removesuffix(".part") + ".old.part")
        os.rename(final, old)
    try:
        os.replace(part, final)
    except OSError:
        if old is not None:
            os.rename(old, final)
        raise
    _sync_folder(final.parent)
    if old is not None:
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders at once; return whether the system can do so (Linux, but
    not on every network file system)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done: int = rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0


def sync(path: Path) -> None:
    """Write a file, or a folder with all that it contains, to disk, so that a power cut cannot
    keep a later rename and lose the content.

    Raises:
        OSError: the disk reports an error.
    """
    if not path.is_dir():
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        return
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            sync(Path(folder, name))
        _sync_folder(Path(folder))


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk, where its file system can do so."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # a folder that may be written but not read
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path`, completely or not at all."""
    with atomic_output(path) as part:
        part.write_text(text, encoding="utf-8")
