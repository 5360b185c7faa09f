"""Limits of all jobs together on the machine that runs Snakemake, if the user sets none."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 0.8
"""Of the machine's memory: the rest is for the system and the file cache."""

DOWNLOADS = 4
"""Concurrent downloads, each with `download.threads` readers: more are not faster over one line."""

_CGROUP = (
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def memory_mb(root: Path = Path("/")) -> int:
    """Return the memory of this machine, or of the container if it has less, in MB.

    Args:
        root: folder that contains `sys`.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in _CGROUP:
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        sizes += [int(text)] if text.isdigit() else []
    return min(sizes) // 10**6


def default_limits() -> dict[str, int]:
    """Return the limits by resource: `mem_mb` and `downloads`."""
    return {"mem_mb": int(SHARE * memory_mb()), "downloads": DOWNLOADS}
