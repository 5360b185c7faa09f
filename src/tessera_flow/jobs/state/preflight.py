"""Refuse a run that would damage something: products made with other settings, jobs of an earlier
run that are still in Slurm's queue. Remove what a run made out of date."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ...atomic import check_replaceable, output_error, remove_abandoned
from ...config.configuration import Config, runs
from ...config.fingerprint import content_hash
from ...errors import ConfigError, OutputError, TileError
from ..files import RunFiles
from ..product_files import ProductFiles
from ..running.shared_folders import check_shared_folders
from ..running.submission import MARK, PROGRAMS, RECORD, Record, install
from ..running.work_lock import NO_LOCK, WorkLock, lock_is_skipped
from .status import command_line, users_command, with_argument

JOB_NAME_PREFIX = "tessera-flow"
"""`slurm-jobname-prefix` in profiles/slurm."""


def check_run(files: RunFiles, folder: Path, replace: bool) -> None:
    """Refuse to start a run that would damage something.

    Args:
        files: the files of the run.
        folder: its working directory.
        replace: products made with other settings may be replaced.

    Raises:
        OutputError: see `refuse_orphans`, `shared_folders.check_shared_folders`,
            `refuse_folders_of_others` and `refuse_other_settings`.
    """
    if not lock_is_skipped():
        refuse_orphans(folder)
    check_shared_folders(files)
    refuse_folders_of_others(files)
    if not replace:
        refuse_other_settings(files)


def lock_work(lock: WorkLock, folder: Path) -> str | None:
    """Take the lock of the working folder for a run in `folder`.

    Returns:
        A warning if the lock was that of a run that was killed, or is skipped; else None.

    Raises:
        OutputError: another run holds it, or jobs of the run that was killed are in the queue.
        ConfigError: see `lock_is_skipped`.
    """
    if lock_is_skipped():
        return f"{NO_LOCK} is set: other runs in {lock.path.parent} are not noticed."
    holder = lock.holder()
    if holder is not None and holder.state() == "ended":
        refuse_orphans(Path(holder.folder))
    replaced = lock.acquire(folder)
    return None if replaced is None else f"{replaced} was killed: its lock of paths.work is taken."


def locked_message(lock: WorkLock, folder: Path, command: Sequence[str]) -> str | None:
    """Return who has locked `folder` for Snakemake, whether that run lives, and what to do.

    Args:
        lock: of the working folder.
        folder: the locked folder.
        command: the command line of this run.

    Returns:
        The message; None if the run is unknown.
    """
    try:
        holder = lock.holder()
    except OutputError:
        return None
    if holder is None or Path(holder.folder) != folder.resolve():
        return None
    unlock = command_line(with_argument(users_command(command), "--unlock"))
    locked = f"{folder} is locked by {holder}"
    state = holder.state()
    if state == "unknown":
        return (
            f"{locked}. Whether it still runs cannot be seen from {socket.gethostname()}. If it "
            f"was killed, remove the lock and run again: {unlock}"
        )
    if state == "running":
        return f"{locked}, which is running. Wait, or stop it: kill -INT {holder.process}"
    return f"{locked}. That run was killed. Remove the lock, and run again: {unlock}"


def check_labels(config: Config) -> None:
    """Refuse labels of maps that cannot be read or understood, before anything is computed.

    Raises:
        LabelError: see `analysis.labels.read_labels`.
    """
    if not config.maps:
        return
    # Imported here: only runs with maps need the readers of labels.
    from ...analysis.labels import read_labels

    for name, settings in config.maps.items():
        read_labels(settings, f"maps.{name}.")


def check_python(executable: str) -> None:
    """Refuse a Python that Snakemake cannot start: it writes its path into commands without quotes.

    Args:
        executable: path of the Python that runs Snakemake.

    Raises:
        ConfigError: the path has a space or another character with a meaning for a shell.
    """
    if re.search(r"[\s'\"\\$`&;|<>(){}\[\]*?!#~]", executable):
        raise ConfigError(
            f"The Python of this environment is {executable}. Snakemake cannot start it for jobs, "
            "because its path has a space or a special character: make the environment in "
            "another folder (a clone in a folder with a space cannot hold it)."
        )


def jobs_in_queue(folder: Path) -> dict[str, list[str]]:
    """Return the numbers of this user's jobs in Slurm's queue that belong to a run in `folder`.

    Returns:
        The numbers by cluster: of this machine (its name is empty) and those to which runs in
        `folder` have submitted jobs. Without such jobs, or without Slurm, it is empty.

    Raises:
        OSError, subprocess.SubprocessError: Slurm does not answer.
    """
    if shutil.which("squeue") is None:
        return {}
    records = folder.glob(f"{PROGRAMS}/*{RECORD}")
    clusters = {cluster for path in records for cluster in Record(path).accepted().values()}
    found = {cluster: _jobs_of(folder, cluster) for cluster in sorted(clusters | {""})}
    return {cluster: numbers for cluster, numbers in found.items() if numbers}


def _jobs_of(folder: Path, cluster: str) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
    of_cluster = ["--clusters", cluster] if cluster else []
    done = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%A|%j|%Z|%k", *of_cluster],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=True,
        env=environment,
    )
    numbers = []
    for line in done.stdout.splitlines():
        if line.count("|") < 3:
            continue
        number, name, details = line.split("|", 2)
        workdir, _, comment = details.rpartition("|")
        ours = name.startswith(f"{JOB_NAME_PREFIX}_") or MARK in comment
        if ours and Path(workdir).resolve() == folder.resolve():
            numbers.append(number)
    return sorted(set(numbers), key=int)


def refuse_orphans(folder: Path) -> None:
    """Refuse to start while jobs of an earlier run in the same folder are in the queue.

    Snakemake does not know them: it would submit them again, and two jobs would write one file.

    Raises:
        OutputError: there are such jobs; or there was such a run, and Slurm does not answer.
    """
    skip = f"set {NO_LOCK}=1 in the environment to skip this check"
    try:
        jobs = jobs_in_queue(folder)
    except (OSError, subprocess.SubprocessError) as error:
        if not list(folder.glob(f"{PROGRAMS}/*{RECORD}")):
            return
        text = getattr(error, "stderr", None) or str(error)
        raise OutputError(
            f"An earlier run in {folder} submitted jobs to Slurm, and squeue does not answer now "
            f"({text.strip()}): whether its jobs are still in the queue is not known. Run again "
            f"later, or {skip}."
        ) from error
    if jobs:
        commands = [
            " ".join(["scancel", *(["--clusters", cluster] if cluster else []), *numbers])
            for cluster, numbers in jobs.items()
        ]
        raise OutputError(
            f"{sum(map(len, jobs.values()))} Slurm jobs of an earlier run in {folder} are still in "
            "the queue, but its Snakemake has ended. Cancel them and run again (finished files are "
            f"kept): {'; '.join(commands)}. If that Snakemake is alive and works on other regions "
            f"or periods, {skip}."
        )


def submit_from(folder: Path, array_jobs: str | None) -> None:
    """Prepare the submission of jobs to a cluster by a run in `folder`.

    Args:
        folder: the working directory of the run.
        array_jobs: the executor's setting `slurm-array-jobs`, if it has one.

    Raises:
        ConfigError: job arrays are requested.
        OutputError: the scripts of `submission.install` cannot be written.
    """
    if array_jobs:
        raise ConfigError(
            f"slurm-array-jobs: {array_jobs} is not possible here. The Slurm executor (2.8) drops "
            "jobs of an array whenever a limit (jobs, downloads) lets fewer start than are ready, "
            "and the run waits for them forever; jobs of one array also all get the memory and "
            "time of its first. Remove the setting. To put several jobs into one Slurm job: "
            "group-components: [series=4, download=4]."
        )
    programs = (folder / PROGRAMS).resolve()
    try:
        install(programs)
    except OSError as error:
        raise output_error(programs, error) from error


def refuse_folders_of_others(files: RunFiles) -> None:
    """Refuse a run in which a product would replace a folder that this program has not written.

    Snakemake removes the folder of a product before the job that writes it starts.

    Raises:
        OutputError: there is such a folder.
    """
    # Imported here: only the start of a run calls it.
    from ...products.record import has_record

    products = ProductFiles(files)
    for region, period in runs(files.config):
        by_format = products.by_format(region, period)
        for path in (*by_format.get("zarr", ()), *by_format.get("geotessera", ())):
            check_replaceable(Path(path), has_record)
        if files.config.products.cube:
            check_replaceable(Path(files.paths.cube.format(region=region)), has_record)


def refuse_other_settings(files: RunFiles) -> None:
    """Refuse to replace products that were made with other settings.

    Products without a record (see `products.reading.description`) are not checked.

    Raises:
        OutputError: there are such products; one is named for each region and period.
    """
    products = ProductFiles(files)
    messages = []
    for region, period in runs(files.config):
        expected = content_hash(files.config, region, period)
        others = [
            path
            for path in map(Path, products.of_run(region, period))
            if path.exists() and _settings_of(path) not in (None, expected)
        ]
        if others:
            messages.append(
                f"{others[0]} was made with other settings than those for region {region} and "
                f"period {period}: set another paths.results, or run with --force to "
                "replace it" + (f" and {len(others) - 1} more." if others[1:] else ".")
            )
    if messages:
        messages.append("For `tessera-flow run` it is `-- --force`, at the end of the command.")
        raise OutputError("\n".join(messages))


def remove_old_skip_lists(files: RunFiles) -> None:
    """Delete `skipped_blocks.json` if every product has since been made without skipped blocks."""
    for region, period in runs(files.config):
        skip_list = Path(files.paths.skip_list.format(region=region, period=period))
        if files.skipped_blocks(region, period) or not skip_list.exists():
            continue
        written = skip_list.stat().st_mtime
        by_format = ProductFiles(files).by_format(region, period)
        by_format.pop("tiles", None)  # made from the time series, with or without embeddings
        products = [Path(path) for paths in by_format.values() for path in paths]
        if all(path.exists() and path.stat().st_mtime > written for path in products):
            skip_list.unlink()
            record = files.paths.skip_list_checksums.format(region=region, period=period)
            Path(record).unlink(missing_ok=True)


def remove_leftovers(files: RunFiles) -> None:
    """Remove the temporary files of killed jobs whose result no job writes again: it was completed
    by another job."""
    paths = files.config.paths
    for region in sorted({region for region, _ in runs(files.config)} | {"sites"}):
        remove_abandoned(Path(paths.work) / region, depth=6)  # period/slices/sensor/slice/block
        remove_abandoned(Path(paths.results) / region, depth=4)  # period/maps/map/file


def _settings_of(product: Path) -> str | None:
    """Return the hash of settings in a product's record; None if it has no record."""
    # Imported here: it needs the readers of every format, and only the start of a run calls it.
    from ...products.reading.description import read_record

    try:
        return str(read_record(product)["configuration_sha256"])
    except TileError:
        return None
