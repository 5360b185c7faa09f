"""Find files in the working folder that were made with other settings, where Snakemake cannot.

Snakemake compares the parameters of each job with its own records, which are in the folder that it
is started in. It has none of files that a run in another folder has made, and none at all after
`.snakemake` has been removed. Such files are compared by what they, or the job log, state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config.configuration import runs
from ..errors import OutputError, TileError
from .block_attributes import read_attributes
from .files import RunFiles
from .journal import read_job_log
from .made_from import Expected, settings_hash
from .params import JobParams
from .work_lock import WorkLock

Recorded = Callable[[str], bool]


@dataclass(frozen=True)
class _Head:
    """A file of a run, a region or a period.

    Attributes:
        path: the file.
        log: names of its job log.
        job: that makes it.
        settings: hash of the job's parameters.
    """

    path: str
    log: tuple[str, ...]
    job: str
    settings: str


def outdated_files(
    files: RunFiles, params: JobParams, recorded: Recorded, folder: Path
) -> list[str]:
    """Return the files that must be made again because they were made with other settings.

    Args:
        files: the files of the run.
        params: parameters of its jobs.
        recorded: whether Snakemake has a record of a file; those are left to it.
        folder: in which the run is started.

    Raises:
        OutputError: there are such files, of a run in another folder that exists.
    """
    outdated: dict[str, str] = {}
    for region, period in runs(files.config):
        heads = list(_heads(files, params, region, period))
        unknown = [h for h in heads if Path(h.path).exists() and not recorded(h.path)]
        if not unknown:
            continue
        for head in unknown:
            jobs = {record.job: record for record in read_job_log(files.job_log_file(*head.log))}
            if head.job not in jobs or jobs[head.job].settings != head.settings:
                outdated[head.path] = f"the settings of {head.job}"
        expected = Expected(files, params, region, period)
        for path in _block_files(files, region, period):
            if Path(path).exists() and not recorded(path) and (why := _fault(path, expected)):
                outdated[path] = why
    if outdated:
        _refuse_others(files, folder, outdated)
    return list(outdated)


def _heads(files: RunFiles, params: JobParams, region: str, period: str) -> Iterator[_Head]:
    roi = files.paths.roi.format(region=region)
    yield _Head(roi, (region,), "roi", settings_hash(params.roi(region)))
    record = files.weights_record()
    if isinstance(record, str):
        yield _Head(record, (), "weights", settings_hash(params.weights()))
    for path in files.manifests(region, period):
        sensor = Path(path).stem
        if files.config.source == "geotessera":
            job, settings = "store_tiles", params.store_tiles(region, period)
        else:
            job, settings = f"items {sensor}", params.items(region, period, sensor)
        yield _Head(path, (region, period), job, settings_hash(settings))


def _block_files(files: RunFiles, region: str, period: str) -> Iterator[str]:
    """Yield the files of all blocks; temporary ones exist if they are kept or a run was killed."""
    for block in files.grids[region].blocks:
        names = {"region": region, "period": period, "block": block.id}
        yield files.paths.embeddings.format(**names)
        if files.config.source == "geotessera":
            continue
        yield files.paths.patches.format(**names)
        if files.config.source == "scenes":
            yield from files.stack_files(region, period, block.id).values()
            for sensor in files.sensors(region, period):
                yield from files.slice_files(region, period, sensor, block.id)


def _fault(path: str, expected: Expected) -> str | None:
    try:
        return expected.fault(read_attributes(path))
    except TileError:
        return "it is damaged"


def _refuse_others(files: RunFiles, folder: Path, outdated: dict[str, str]) -> None:
    """Refuse to replace the files of a run in another folder."""
    last = WorkLock(files.config.paths.work).last_folder()
    if last is None or not last.is_dir() or last == folder.resolve():
        return
    path, why = next(iter(outdated.items()))
    others = f" and {len(outdated) - 1} more files were" if outdated.keys() - {path} else " was"
    raise OutputError(
        f"{path}{others} made by the run in {last}, which has the same paths.work, with other "
        f"settings than those of {folder}: {why}. Set another paths.work here. If the files of "
        f"that run are not needed any more, remove {files.config.paths.work}."
    )
