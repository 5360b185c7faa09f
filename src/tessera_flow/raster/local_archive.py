"""Decide whether an absent file is missing from a local archive, or the archive is not there.

When a disk or a mount disappears, every file on it looks as if it did not exist. So an absent file
counts as missing only while other files of the archive are there.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence

WITNESSES = 8
"""Other files of the archive to look for, at most: those in the nearest folders."""


class LocalArchive:
    """The files of a local archive; thread-safe.

    Attributes:
        folders: folders of the archive. One that contains an absent file must exist and not be
            empty.
        witnesses: paths of other scenes.
    """

    def __init__(self, folders: Iterable[str] = ()) -> None:
        self.folders: Sequence[str] = tuple(folders)
        self.witnesses: Sequence[str] = ()
        self._read: deque[str] = deque(maxlen=WITNESSES)
        self._lock = threading.Lock()

    def add_read(self, path: str) -> None:
        """Record that a file was read, so that it must still exist."""
        with self._lock:
            if path not in self._read:
                self._read.append(path)

    def doubt(self, absent: str) -> str | None:
        """Return why the absence of a file may be an outage; None if the file is missing.

        Args:
            absent: path that did not exist.
        """
        with self._lock:
            read = [path for path in self._read if path != absent]
        gone = [path for path in _nearest(absent, read) if not os.path.exists(path)]
        if gone:
            return f"{gone[0]}, which was read before, does not exist either"
        others = _nearest(absent, [path for path in self.witnesses if path != absent])
        if others and not any(map(os.path.exists, others)):
            return f"none of {len(others)} other files there exists, such as {others[0]}"
        inside = [folder for folder in self.folders if absent.startswith(f"{folder}{os.sep}")]
        for folder in inside or [os.path.dirname(os.path.dirname(absent))]:
            if not _has_entries(folder):
                return f"{folder} does not exist or is empty"
        return "it exists again" if os.path.exists(absent) else None


def _nearest(path: str, others: Sequence[str]) -> list[str]:
    """Return the paths that have most folders in common with a path."""
    folders = path.split(os.sep)

    def common(other: str) -> int:
        pairs = enumerate(zip(folders, other.split(os.sep), strict=False))
        return next((index for index, (a, b) in pairs if a != b), len(folders))

    return sorted(dict.fromkeys(others), key=common, reverse=True)[:WITNESSES]


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False
