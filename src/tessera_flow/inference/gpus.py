"""The NVIDIA GPUs of this machine: which there are, which one a job takes, why one is unusable.

Nothing here needs PyTorch. `nvidia-smi` lists the GPUs, because asking CUDA would fix which of
them this process sees. Jobs of a user on one machine divide them by lock files, which end with
the process that holds them.
"""

from __future__ import annotations

import csv
import fcntl
import logging
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
OLDER_BUILD = "requirements/cuda126.txt"
"""Pins with PyTorch for CUDA 12.6: the last one for GPUs below capability 7.5, and for drivers
below 580."""
DRIVERS = {"13": 580, "12": 525}
"""Lowest driver of each major version of CUDA."""
_LOWEST = (7, 5)
"""Lowest capability of builds for CUDA 13."""

_FIELDS = "uuid,name,driver_version,compute_mode,mig.mode.current,memory.used"
_SLOTS = 64


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one instance of a GPU in MIG mode.

    Attributes:
        id: its UUID, as in `CUDA_VISIBLE_DEVICES`; empty for a GPU in MIG mode without an instance.
        name: of the product.
        driver: version of the driver.
        capability: compute capability; None if the driver does not state it.
        mode: compute mode, such as `Default` or `Exclusive_Process`.
        used_mb: memory in use by all processes.
    """

    id: str
    name: str
    driver: str
    capability: tuple[int, int] | None = None
    mode: str = "Default"
    used_mb: int = 0


@dataclass(frozen=True)
class Build:
    """The installed PyTorch.

    Attributes:
        version: of PyTorch.
        cuda: version of CUDA that it was built for; None for another build.
        architectures: such as `sm_80` and `compute_90`.
    """

    version: str
    cuda: str | None
    architectures: tuple[str, ...]

    def supports(self, capability: tuple[int, int]) -> bool:
        """Return whether the build has code for a GPU of this capability."""
        for name in self.architectures:
            kind, _, number = name.partition("_")
            digits = re.match(r"\d+", number)
            if digits is None:
                continue
            compiled = divmod(int(digits[0]), 10)
            if compiled == capability or (
                number.isdigit()
                and compiled <= capability
                and (kind == "compute" or compiled[0] == capability[0])
            ):
                return True
        return False


def list_gpus() -> list[Gpu]:
    """Return the GPUs that `nvidia-smi` lists; none without it."""
    rows = _nvidia_smi(f"--query-gpu=compute_cap,{_FIELDS}", "--format=csv,noheader,nounits")
    if not rows:  # drivers below 510 do not know compute_cap
        older = _nvidia_smi(f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits")
        rows = "\n".join(f"[N/A], {line}" for line in older.splitlines())
    return parse_gpus(rows, _nvidia_smi("-L") if rows else "")


def _nvidia_smi(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def parse_gpus(rows: str, instances: str) -> list[Gpu]:
    """Return the GPUs in the output of `nvidia-smi`.

    Args:
        rows: CSV with compute_cap and `_FIELDS`, without units.
        instances: output of `nvidia-smi -L`, which lists the instances of GPUs in MIG mode below
            each of them.
    """
    slices: dict[str, list[str]] = {}
    current = ""
    for line in instances.splitlines():
        match = re.search(r"\(UUID:\s*([^)\s]+)\)", line)
        if match and line.lstrip().startswith("MIG"):
            slices.setdefault(current, []).append(match[1])
        elif match:
            current = match[1]
    gpus = []
    for row in csv.reader(rows.splitlines(), skipinitialspace=True):
        if len(row) != 7:
            continue
        capability, uuid, name, driver, mode, mig, used = (value.strip() for value in row)
        numbers = re.fullmatch(r"(\d+)\.(\d+)", capability)
        gpu = Gpu(
            uuid,
            name,
            driver,
            (int(numbers[1]), int(numbers[2])) if numbers else None,
            mode,
            int(used) if used.isdigit() else 0,
        )
        ids = slices.get(uuid, [""]) if mig == "Enabled" else [uuid]
        kind = f"{name} (MIG)" if mig == "Enabled" else name
        gpus += [Gpu(i, kind, driver, gpu.capability, mode, gpu.used_mb) for i in ids]
    return gpus


def candidates(gpus: Sequence[Gpu], visible: str | None) -> list[str]:
    """Return what a job may set `CUDA_VISIBLE_DEVICES` to, best first.

    Args:
        gpus: of this machine.
        visible: the present value, by which a scheduler or user restricts a job; None if unset.
    """
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        end = next((n for n, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]
    usable = [gpu for gpu in gpus if gpu.id and gpu.mode != "Prohibited"]
    # Those that other users compute on come last; small differences are no use.
    return [gpu.id for gpu in sorted(usable, key=lambda gpu: gpu.used_mb // 1024)]


@contextmanager
def own_gpu(gpus: Sequence[Gpu], folder: Path | None = None) -> Iterator[str | None]:
    """Take a GPU that no other job of this user on this machine has, until the block ends.

    If all are taken, the one with the fewest jobs. Sets `CUDA_VISIBLE_DEVICES`, which has an
    effect only before CUDA is used.

    Args:
        gpus: of this machine.
        folder: of the lock files; default: one in memory or in /tmp, which all jobs see.

    Yields:
        The GPU; None if there is nothing to choose.
    """
    before = os.environ.get(VISIBLE)
    names = candidates(gpus, before)
    if len(names) < 2:
        yield None
        return
    lock = _lock_one(names, folder or _lock_folder())
    if lock is None:
        logger.warning("cannot lock a GPU: all jobs use the first one (%s)", names[0])
        yield None
        return
    name, file = lock
    os.environ[VISIBLE] = name
    logger.info("using GPU %s of %d", name, len(names))
    try:
        yield name
    finally:
        file.close()
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before


def _lock_folder() -> Path:
    """Return a folder on this machine that all jobs of this user see, also if TMPDIR differs."""
    name = f"tessera-flow-gpus-{os.getuid()}"
    for parent in (Path("/dev/shm"), Path("/tmp")):
        if os.access(parent, os.W_OK):
            return parent / name
    return Path(tempfile.gettempdir()) / name


def _lock_one(names: Sequence[str], folder: Path) -> tuple[str, IO[str]] | None:
    """Return the first GPU with the fewest locks, and its lock; None if locks are impossible."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()  # a link of another user may lead anywhere
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            return None
        for slot in range(_SLOTS):
            for name in names:
                file = (folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', name)}.{slot}.lock").open("w")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.close()
                    continue
                return name, file
    except OSError:
        return None
    return None


def explain(gpus: Sequence[Gpu], build: Build, error: str) -> str | None:
    """Return why this PyTorch cannot use the GPUs of this machine, and what to do.

    Args:
        gpus: those that the job may use.
        build: the installed PyTorch.
        error: what the device reported when one number was computed on it; empty if PyTorch finds
            no GPU.

    Returns:
        A message, or None if there is no GPU.
    """
    if not gpus:
        return None
    gpu = gpus[0]
    has = f"{gpu.name} (driver {gpu.driver}"
    if gpu.capability is not None:
        has += f", compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    has += f"), PyTorch {build.version}"
    if build.cuda is None:
        build_name = OLDER_BUILD if _needs_older(gpu) else "requirements/cuda.txt"
        return f"{has}: this PyTorch is not built for CUDA. Install {build_name}."
    if not gpu.id:
        return (
            f"{has}: the GPU is in MIG mode and has no instance. Ask its administrator to create "
            "one, or for another GPU."
        )
    has += f" for CUDA {build.cuda}"
    least = DRIVERS.get(build.cuda.split(".")[0])
    driver = int(gpu.driver.split(".")[0]) if gpu.driver.split(".")[0].isdigit() else None
    if least is not None and driver is not None and driver < least:
        if driver >= DRIVERS["12"]:
            return f"{has}, which needs driver {least} or newer: install {OLDER_BUILD}."
        return f"{has}, which needs driver {least} or newer: the driver must be updated."
    known = gpu.capability is not None and build.architectures
    if known and gpu.capability is not None and not build.supports(gpu.capability):
        codes = ", ".join(build.architectures)
        remedy = f"install {OLDER_BUILD}" if gpu.capability < _LOWEST else "install a newer PyTorch"
        return f"{has}, which has no code for this GPU (only {codes}): {remedy}."
    if gpu.mode == "Prohibited":
        return f"{has}: its compute mode prohibits use. Ask its administrator for another GPU."
    if gpu.mode.startswith("Exclusive") and re.search("busy|unavailable", error):
        return (
            f"{has}: its compute mode is {gpu.mode} and another process uses it. Run as many jobs "
            "at a time as there are GPUs (--resources gpu=1)."
        )
    reported = error.strip().splitlines()[0] if error.strip() else "PyTorch does not find it"
    return f"{has}: {reported}."


def _needs_older(gpu: Gpu) -> bool:
    major = gpu.driver.split(".")[0]
    too_old = major.isdigit() and int(major) < DRIVERS["13"]
    return too_old or (gpu.capability is not None and gpu.capability < _LOWEST)
