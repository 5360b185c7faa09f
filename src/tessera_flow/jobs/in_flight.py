"""Limit the number of blocks in progress, so that their intermediate files fit on the disk.

Snakemake limits the running jobs, not the files between steps. Whenever a job ends, every download
that is ready (or import of published embeddings whose holes are filled) is asked what it claims
(`ask_again` in internals_resources.smk). One of a block whose turn has not come claims all of a
resource, of which every running job of a block holds 1. It can therefore start only when nothing
else runs, and a run never waits forever, even if every block in progress has failed.

The order must follow the jobs' priorities, not the order in which Snakemake asks: when nothing
runs yet, it would start a block with a higher priority than the admitted ones.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from itertools import islice
from pathlib import Path

ALL_OF_IT = 1_000_000
"""The total of the resource `in_flight`."""

_VALID_SECONDS = 0.2


class InFlight:
    """Admits at most N blocks at a time: the first N that are not embedded yet."""

    def __init__(self, limit: int) -> None:
        """Take the number of blocks, at least 1."""
        self._limit = limit
        self._waiting: dict[Hashable, tuple[Path, int | None]] = {}
        self._admitted: frozenset[Hashable] = frozenset()
        self._updated = 0.0

    def expect(self, blocks: Iterable[tuple[Hashable, Path]]) -> None:
        """Set the blocks of a run, in the order of their priority.

        Args:
            blocks: (block, the file that exists, or is new, when the block is finished).
        """
        self._waiting = {block: (result, _mtime(result)) for block, result in blocks}
        self._updated = 0.0

    def claim(self, block: Hashable, result: Path) -> int:
        """Return what a first step of a block claims: 1 if the block is admitted, else `ALL_OF_IT`.

        Args:
            block: the block; one that was not expected comes last.
            result: the file that exists, or is new, when the block is finished.
        """
        now = time.monotonic()
        if block not in self._waiting:
            self._waiting[block] = (result, _mtime(result))
            self._updated = 0.0
        if now - self._updated > _VALID_SECONDS:
            self._updated = now
            self._admit()
        return 1 if block in self._admitted else ALL_OF_IT

    def _admit(self) -> None:
        while True:
            first = list(islice(self._waiting.items(), self._limit))
            finished = [
                block for block, (result, old) in first if _mtime(result) not in (None, old)
            ]
            for block in finished:
                del self._waiting[block]
            if not finished:
                self._admitted = frozenset(block for block, _ in first)
                return


def _mtime(path: Path) -> int | None:
    """Return the modification time of a file in ns; None if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
