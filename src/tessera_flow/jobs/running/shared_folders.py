"""Refuse to run where files of other users cannot be replaced, with a message instead of the
traceback of whatever fails first; warn of a umask that makes such files in a group's folder."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ...config.configuration import runs
from ...errors import OutputError
from ..files import RunFiles


def check_snakemake_folder(folder: Path) -> None:
    """Refuse a folder in which Snakemake cannot write its records.

    Args:
        folder: the working directory of the run.

    Raises:
        OutputError: it, or `.snakemake` in it, is not writable.
    """
    records = folder / ".snakemake"
    _refuse(records, [records, *_entries(records)] if records.exists() else [folder])


def check_shared_folders(files: RunFiles) -> None:
    """Refuse a run that could not write its files, because other users have made the folders.

    The job logs are looked at as well: a job ignores one that cannot be written, and its attempts
    would not be recorded.

    Raises:
        OutputError: a folder or job log is not writable.
    """
    for top in (files.config.paths.work, files.config.paths.results):
        folder = Path(top)
        found = [folder, *_entries(folder)]
        for region, period in runs(files.config):
            for parent in (folder / region, folder / region / period):
                found += [parent, *_entries(parent)]
            found += _entries(folder / region / period / "job_log", files=True)
        _refuse(folder, found)


def umask_warning(folder: Path) -> str | None:
    """Return a warning if others of the group of a shared folder could not change new files.

    Args:
        folder: that the run writes to; it need not exist.

    Returns:
        The warning; None if the folder is not that of a group, or the umask is right.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    about = folder.stat()
    shared = about.st_mode & stat.S_ISGID and about.st_mode & stat.S_IWGRP
    umask = _umask()
    if not shared or umask is None or not umask & stat.S_IWGRP:
        return None
    return (
        f"{folder} is a folder of the group {_name(grp.getgrgid, about.st_gid)}, but with umask "
        f"{umask:03o} others of the group cannot change what this run writes: use `umask 002`, "
        "unless that is intended."
    )


def _entries(folder: Path, files: bool = False) -> list[Path]:
    """Return the folders, or the files, in a folder; none if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return [Path(e.path) for e in entries if e.is_file() == files and not e.is_symlink()]
    except OSError:
        return []


def _refuse(top: Path, paths: Iterable[Path]) -> None:
    for path in _not_writable(paths):
        owner = _name(pwd.getpwuid, path.stat().st_uid)
        raise OutputError(
            f"{path} belongs to {owner}, and you cannot write to it. Run in a folder of your own; "
            "or, in a folder that several people use, everybody sets `umask 002` before a run, and "
            f"who owns the files runs once: chmod -R g+rwX {top}"
        )


def _not_writable(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
        if path.exists() and not os.access(path, mode):
            yield path


def _name(find: Callable[[int], Any], number: int) -> str:
    try:
        return str(find(number)[0])
    except KeyError:  # without a name, as in containers
        return str(number)


def _umask() -> int | None:
    """Return the umask of this process; None if it is not known."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^Umask:\s*(\d+)", text, re.MULTILINE)
    return int(found[1], 8) if found else None
