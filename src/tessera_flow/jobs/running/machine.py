"""Limits of all jobs together on the machine that runs Snakemake, if the user sets none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

SHARE = 0.8
"""Of the machine's memory: the rest is for the system and the file cache."""

DOWNLOADS = 4
"""Concurrent downloads, each with `download.threads` readers: more are not faster over one line."""

_UNLIMITED = 2**60
"""Bytes: cgroup v1 states a number near 2**63 where there is no limit."""


def memory_mb(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Return the memory of this machine, or of the container or job if it has less, in MB.

    Args:
        root: folder that contains `proc` and `sys`.
        environment: variables of Slurm.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    texts = (_text(root / name) for name in limit_files(_text(root / "proc/self/cgroup")))
    limits += [int(text) for text in texts if text.isdigit() and int(text) < _UNLIMITED]
    if (of_job := slurm_memory(environment)) is not None:
        limits.append(of_job)
    return min(limits) // 10**6


def limit_files(cgroups: str) -> list[str]:
    """Return the files with the memory limits of a process: of its cgroup and of those above.

    Args:
        cgroups: content of `/proc/self/cgroup`: lines `0::/path` (v2) and `N:memory:/path` (v1).

    Returns:
        Paths relative to the root. Not all of them exist in a container, which sees its own cgroup
        at the top.
    """
    paths = {"": ["/"], "memory": ["/"]}
    for line in cgroups.splitlines():
        _, _, value = line.partition(":")
        controllers, _, path = value.partition(":")
        for name in controllers.split(","):
            if name in paths and path.startswith("/") and ".." not in path.split("/"):
                paths[name] += [path, *map(str, PurePosixPath(path).parents)]
    files = [f"sys/fs/cgroup{path.rstrip('/')}/memory.max" for path in paths[""]]
    for path in paths["memory"]:
        files.append(f"sys/fs/cgroup/memory{path.rstrip('/')}/memory.limit_in_bytes")
    return list(dict.fromkeys(files))


def slurm_memory(environment: Mapping[str, str]) -> int | None:
    """Return the memory of a Slurm job on this node in bytes; None outside of a job.

    Slurm counts in MiB; 0 means all memory of the node.
    """
    size = environment.get("SLURM_MEM_PER_NODE", "")
    if size.isdigit() and int(size):
        return int(size) * 2**20
    size, cpus = environment.get("SLURM_MEM_PER_CPU", ""), environment.get("SLURM_CPUS_ON_NODE", "")
    if size.isdigit() and cpus.isdigit() and int(size) * int(cpus):
        return int(size) * int(cpus) * 2**20
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def default_limits() -> dict[str, int]:
    """Return the limits by resource: `mem_mb` and `downloads`."""
    return {"mem_mb": int(SHARE * memory_mb()), "downloads": DOWNLOADS}
