"""How many blocks are worked on at once, so that their intermediate files fit on the disk.

Snakemake limits what runs, not what lies between steps. It asks for the resources of every job
that could begin, whenever one has ended; a download of a block whose turn has not come then
claims all of a resource of which every running job of a block holds a little. So it can begin
only when nothing else runs, and a run never waits for ever: not even when every block in flight
has failed.

Whose turn it is must follow the jobs' priorities, not the order in which Snakemake happens to
ask: when nothing runs yet, it would begin a block that goes before those admitted.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from itertools import islice
from pathlib import Path

EVERYTHING = 1_000_000
"""All there is of the resource."""

_TRUSTED_SECONDS = 0.2


class Admission:
    """Lets at most so many blocks be in flight: the first ones that are not embedded yet."""

    def __init__(self, most: int) -> None:
        """Take the number of blocks, at least 1."""
        self._most = most
        self._waiting: dict[Hashable, tuple[Path, int | None]] = {}
        self._admitted: frozenset[Hashable] = frozenset()
        self._looked = 0.0

    def expect(self, blocks: Iterable[tuple[Hashable, Path]]) -> None:
        """Take the blocks to come, in the order of their priority.

        Args:
            blocks: which block, and the file that is there, or new, when it is done.
        """
        self._waiting = {block: (result, _written(result)) for block, result in blocks}
        self._looked = 0.0

    def claim(self, block: Hashable, result: Path) -> int:
        """What a download of a block claims: 1 if the block may be worked on, else `EVERYTHING`.

        Args:
            block: which block; one that was not expected comes last.
            result: the file that is there, or new, when the block is done.
        """
        now = time.monotonic()
        if block not in self._waiting:
            self._waiting[block] = (result, _written(result))
            self._looked = 0.0
        if now - self._looked > _TRUSTED_SECONDS:
            self._looked = now
            self._admit()
        return 1 if block in self._admitted else EVERYTHING

    def _admit(self) -> None:
        while True:
            first = list(islice(self._waiting.items(), self._most))
            done = [block for block, (result, before) in first if _done(result, before)]
            for block in done:
                del self._waiting[block]
            if not done:
                self._admitted = frozenset(block for block, _ in first)
                return


def _done(result: Path, before: int | None) -> bool:
    return _written(result) not in (None, before)


def _written(path: Path) -> int | None:
    """When a file was written; None if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
