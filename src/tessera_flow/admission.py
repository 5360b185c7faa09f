"""How many blocks are worked on at once, so that their intermediate files fit on the disk.

Snakemake limits what runs, not what lies between steps. It asks for the resources of every job
that could begin, whenever one has ended; a download of a block whose turn has not come then
claims all of a resource of which every running job of a block holds a little. So it can begin
only when nothing else runs, and a run never waits for ever: not even when every block in flight
has failed.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from pathlib import Path

EVERYTHING = 1_000_000
"""All there is of the resource."""

_TRUSTED_SECONDS = 0.2


class Admission:
    """Lets at most so many blocks be in flight: begun, and not yet embedded."""

    def __init__(self, most: int) -> None:
        """Take the number of blocks, at least 1."""
        self._most = most
        self._flying: dict[Hashable, tuple[Path, int | None]] = {}
        self._looked = 0.0

    def claim(self, block: Hashable, result: Path) -> int:
        """What a download of a block claims: 1 if the block may be worked on, else `EVERYTHING`.

        Args:
            block: which block.
            result: the file that is there, or new, when the block is done.
        """
        if block in self._flying:
            return 1
        now = time.monotonic()
        if now - self._looked > _TRUSTED_SECONDS:
            self._looked = now
            flying = self._flying.items()
            self._flying = {k: v for k, v in flying if _written(v[0]) in (None, v[1])}
        if len(self._flying) >= self._most:
            return EVERYTHING
        self._flying[block] = (result, _written(result))
        return 1


def _written(path: Path) -> int | None:
    """When a file was written; None if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
