"""Find files in the working folder that were made with other settings, where Snakemake cannot.

Snakemake compares the parameters of each job with its own records, which are in the folder that it
is started in. It has none of files that a run in another folder has made, and none at all after
`.snakemake` has been removed. Such files are compared by what they, or the job log, state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...config.configuration import runs
from ...errors import OutputError, TesseraFlowError
from ..block_attributes import attributes_of_existing
from ..files import RunFiles
from ..journal import read_job_log
from ..made_from import Expected, settings_hash
from ..params import JobParams
from ..paths import SENSORS
from ..running.work_lock import WorkLock
from .outdated_sites import outdated_site_files

Recorded = Callable[[str], bool]

DAMAGED = "it is damaged"
"""Reason of a file that is made again although its settings are not other ones."""


@dataclass(frozen=True)
class _Head:
    """A file of a run, a region or a period.

    Attributes:
        path: the file.
        log: names of its job log.
        job: that makes it.
        settings: hash of the job's parameters.
        steps: by which a block file states that it was made from this file and these settings.
    """

    path: str
    log: tuple[str, ...]
    job: str
    settings: str
    steps: tuple[str, ...]


def outdated_files(files: RunFiles, params: JobParams, recorded: Recorded) -> dict[str, str]:
    """Return the files that must be made again, with the reason of each.

    They were made with other settings, or nothing states with which. For a file of a run, a region
    or a period the job log states it; if it does not, any block file that was made from it.

    Args:
        files: the files of the run.
        params: parameters of its jobs.
        recorded: whether Snakemake has a record of a file; those are left to it.

    Raises:
        ReadError: a block file cannot be read.
        CheckpointError: the record of the weights is damaged.
        RegionError, OutputError: see `sites.files.SiteFiles`.
    """
    outdated: dict[str, str] = {}
    unknown: dict[str, str] = {}
    proven: set[str] = set()
    for region, period in runs(files.config):
        heads = list(_heads(files, params, region, period))
        heads = [head for head in heads if Path(head.path).exists() and not recorded(head.path)]
        if not heads:
            continue
        stated = [(head, _stated(files, head)) for head in heads]
        outdated |= {
            h.path: f"the settings of {h.job}" for h, s in stated if s not in ("", h.settings)
        }
        doubtful = [head for head, settings in stated if not settings]
        unknown |= {h.path: f"the settings of {h.job}, of which no record exists" for h in doubtful}
        expected = Expected(files, params, region, period)
        for path, attributes in attributes_of_existing(_block_files(files, region, period)):
            if attributes is not None:
                proven |= {h.path for h in doubtful if expected.proves(attributes, h.steps)}
            why = DAMAGED if attributes is None else expected.fault(attributes)
            if why and not recorded(path):
                outdated[path] = why
    outdated |= {path: why for path, why in unknown.items() if path not in proven}
    return outdated | outdated_site_files(files, params, recorded)


def outdated_text(outdated: Mapping[str, str], verb: str) -> list[str]:
    """Return a message about damaged files, and one about those of other settings.

    Args:
        outdated: see `outdated_files`.
        verb: what happens to them, such as `they are made again`.
    """
    texts = []
    for damaged in (True, False):
        chosen = {p: why for p, why in outdated.items() if (why == DAMAGED) == damaged}
        if not chosen:
            continue
        path, why = next(iter(chosen.items()))
        number = f"{len(chosen)} files" if len(chosen) > 1 else "1 file"
        be = "are" if len(chosen) > 1 else "is"
        if damaged:
            texts.append(f"{number} {be} damaged ({path}): {verb}.")
        else:
            was = "were" if len(chosen) > 1 else "was"
            texts.append(
                f"{number} {was} made with other settings than the present ones ({path}: {why}): "
                f"{verb}."
            )
    return texts


def outdated_now(files: RunFiles) -> tuple[dict[str, str], list[str]]:
    """Return `outdated_files` for a look at the run, whatever Snakemake has recorded, and of each
    problem a message: a look is never refused."""
    try:
        return outdated_files(files, JobParams(files), lambda path: False), []
    except TesseraFlowError as error:
        return {}, [f"It is not known which files were made with other settings: {error}"]


def _stated(files: RunFiles, head: _Head) -> str:
    """Return the hash of the settings of a file that its job log states; empty if none."""
    records = read_job_log(files.job_log_file(*head.log))
    return next((record.settings for record in records if record.job == head.job), "")


def _heads(files: RunFiles, params: JobParams, region: str, period: str) -> Iterator[_Head]:
    roi = files.paths.roi.format(region=region)
    yield _Head(roi, (region,), "roi", settings_hash(params.roi(region)), ("region",))
    record = files.weights_record()
    if isinstance(record, str):
        settings = settings_hash(params.weights())
        yield _Head(record, (), "weights", settings, ("checkpoint", "weights"))
    for path in files.manifests(region, period):
        log, sensor = (region, period), Path(path).stem
        if sensor not in SENSORS:
            settings = settings_hash(params.store_tiles(region, period))
            yield _Head(path, log, "store_tiles", settings, ("search", "items"))
        else:
            settings = settings_hash(params.items(region, period, sensor))
            steps = (f"search {sensor}", f"items {sensor}")
            yield _Head(path, log, f"items {sensor}", settings, steps)


def _block_files(files: RunFiles, region: str, period: str) -> Iterator[str]:
    """Yield the files of all blocks; temporary ones exist if they are kept or a run was killed."""
    for block in files.grids[region].blocks:
        names = {"region": region, "period": period, "block": block.id}
        yield files.paths.embeddings.format(**names)
        if files.config.fills:
            yield from (
                path.format(**names) for path in (files.paths.published, files.paths.computed)
            )
        elif files.config.source == "geotessera":
            continue
        yield files.paths.patches.format(**names)
        if files.config.reads_scenes:
            yield from files.stack_files(region, period, block.id).values()
            for sensor in files.sensors(region, period):
                yield from files.slice_files(region, period, sensor, block.id)


def refuse_to_replace(files: RunFiles, folder: Path, outdated: Mapping[str, str]) -> None:
    """Refuse to replace files of a run in another folder that exists.

    Args:
        files: the files of the run.
        folder: in which the run is started.
        outdated: see `outdated_files`.

    Raises:
        OutputError: there are such files.
    """
    last = WorkLock(files.config.paths.work).last_folder()
    if not outdated or last is None or not last.is_dir() or last == folder.resolve():
        return
    path, why = next(iter(outdated.items()))
    others = f" and {len(outdated) - 1} more files were" if outdated.keys() - {path} else " was"
    raise OutputError(
        f"{path}{others} made by the run in {last}, which has the same paths.work, with other "
        f"settings than those of {folder}: {why}. Set another paths.work here. If the files of "
        f"that run are not needed any more, remove {files.config.paths.work}."
    )
