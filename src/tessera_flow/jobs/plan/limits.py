"""Read from a Snakemake profile, or from the options of a command, what limits a run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..assumptions import CLUSTER_OVERHEAD_SECONDS, LOCAL_OVERHEAD_SECONDS
from ..running.machine import default_limits
from .simulate import Limits

_TIMESPANS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_STARTS = re.compile(r"(\d+)/(\d*)([smhd]?)")


def of_machine(cores: str | int | None = None) -> Limits:
    """Return the limits of `--cores N` alone: also the memory and downloads of `machine`.

    Args:
        cores: a number or `all`; default: `all`.

    Raises:
        ConfigError: it is neither.
    """
    return Limits(
        cores=cores_of(cores), resources=default_limits(), overhead=LOCAL_OVERHEAD_SECONDS
    )


def of_cluster(jobs: int) -> Limits:
    """Return the limits of so many jobs in the queue of a cluster."""
    return Limits(jobs=jobs, overhead=CLUSTER_OVERHEAD_SECONDS)


def of_snakemake(
    cores: int | None,
    jobs: int | None,
    resources: Mapping[str, int],
    starts: tuple[int, float] | None,
    assumed_jobs: int | None,
) -> Limits:
    """Return the limits of a running Snakemake.

    Args:
        cores: `--cores`.
        jobs: `--jobs` of a cluster; None on one machine.
        resources: `--resources`.
        starts: `--max-jobs-per-timespan` in seconds.
        assumed_jobs: `jobs.concurrent_jobs`: a cluster with so many, if Snakemake has none.
    """
    if jobs is None and assumed_jobs is not None:
        return of_cluster(assumed_jobs)
    limits = of_machine(cores) if jobs is None else of_cluster(jobs)
    return replace(limits, resources=dict(resources), starts=starts)


def of_profile(path: Path) -> Limits:
    """Return the limits that a Snakemake profile sets.

    Args:
        path: a profile's folder or its file.

    Raises:
        ConfigError: it cannot be read, or a limit in it has another form than Snakemake's.
    """
    import yaml

    file = path / "config.yaml" if path.is_dir() else path
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{file} cannot be read as a profile: {error}. Name one of the folder of the run "
            "(local, slurm, generic) or the path of another."
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(f"{file} is not a profile: it must have keys such as jobs and cores.")
    keys = {str(name).replace("_", "-"): value for name, value in document.items()}
    try:
        return _of_keys(keys)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file}: {error}") from error


def _of_keys(keys: Mapping[str, Any]) -> Limits:
    resources = {name: int(n) for name, n in _pairs(keys.get("resources")).items()
                 if str(n).isdigit()}  # fmt: skip
    threads = {name: int(n) for name, n in _pairs(keys.get("set-threads")).items()}
    if keys.get("executor", "local") == "local":
        limits = of_machine(keys.get("cores", keys.get("jobs")))
        limits = replace(limits, resources={**limits.resources, **resources})
    else:
        jobs = keys.get("jobs", "unlimited")
        number = 10**6 if str(jobs) == "unlimited" else int(jobs)
        limits = replace(of_cluster(number), resources=resources)
        if "local-cores" in keys:
            limits = replace(limits, local_cores=cores_of(keys["local-cores"]))
    return replace(limits, threads=threads, starts=_starts(keys.get("max-jobs-per-timespan")))


def cores_of(text: str | int | None) -> int:
    """Return the number of cores that `--cores` states; all of this machine's if nothing.

    Raises:
        ConfigError: it is neither a number above 0 nor `all`.
    """
    if text is None or str(text) == "all":
        return len(os.sched_getaffinity(0))
    if not str(text).isdigit() or int(text) == 0:
        raise ConfigError(f"--cores is {text}, but must be a number above 0, or all.")
    return int(text)


def _pairs(value: Any) -> dict[str, Any]:
    """Return `{a: 1}` or `[a=1, b=2]` as a dictionary."""
    if isinstance(value, dict):
        return {str(name): number for name, number in value.items()}
    entries = value if isinstance(value, list) else str(value).split() if value else []
    pairs = (str(entry).partition("=") for entry in entries)
    return {name: number for name, _, number in pairs}


def _starts(text: Any) -> tuple[int, float] | None:
    """Return `50/1m` as (50, 60.0)."""
    if text is None:
        return None
    match = _STARTS.fullmatch(str(text))
    if match is None:
        raise ValueError(f"max-jobs-per-timespan is {text}, but must be such as 50/1m")
    number, count, unit = match.groups()
    return int(number), float(int(count or 1) * _TIMESPANS[unit])
