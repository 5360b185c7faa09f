"""Slurm jobs that outlived the Snakemake which submitted them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..errors import OutputError

JOB_NAME_PREFIX = "tessera-flow"
"""`slurm-jobname-prefix` in profiles/slurm."""


def left_in_queue(folder: Path) -> list[str]:
    """Numbers of this user's jobs in Slurm's queue that belong to a run in `folder`.

    Empty where there is no Slurm, or where it does not answer: then nothing can be told.
    """
    if shutil.which("squeue") is None:
        return []
    try:
        done = subprocess.run(
            ["squeue", "--me", "--noheader", "--format=%A|%j|%Z"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    numbers = []
    for line in done.stdout.splitlines():
        number, name, workdir = line.split("|", 2)
        ours = name.startswith(f"{JOB_NAME_PREFIX}_")
        if ours and Path(workdir).resolve() == folder.resolve():
            numbers.append(number)
    return sorted(set(numbers), key=int)


def refuse_orphans(folder: Path) -> None:
    """Refuse to begin while jobs of an earlier run in the same folder are in the queue.

    Snakemake does not know them: it would submit them again, and two jobs would write one file.

    Raises:
        OutputError: there are such jobs.
    """
    if numbers := left_in_queue(folder):
        raise OutputError(
            f"{len(numbers)} Slurm jobs of an earlier run in {folder} are still in the queue, and "
            "its Snakemake is gone. Cancel them and run again (what they finished is kept): "
            f"scancel {' '.join(numbers)}. If that Snakemake is alive and works on other regions "
            "or periods, add --no-hooks to pass over this check."
        )
