"""Find files of sites that were made with other settings, where Snakemake cannot (`outdated`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from ...config.configuration import SITES, runs
from ...models.weights_record import read_weights_record
from ..block_attributes import attributes_of_existing
from ..files import RunFiles
from ..journal import read_job_log
from ..made_from import settings_hash
from ..params import JobParams
from ..sites.files import SiteFiles, SiteParams


def outdated_site_files(
    files: RunFiles, params: JobParams, recorded: Callable[[str], bool]
) -> dict[str, str]:
    """Return the files of cells of sites, and the table of embeddings, that must be made again.

    Args:
        files, params, recorded: as in `outdated.outdated_files`.

    Returns:
        The reasons by path; empty without a table of sites.

    Raises:
        ReadError: a block file cannot be read.
        CheckpointError: the record of the weights is damaged.
        RegionError, OutputError: see `SiteFiles`.
    """
    if files.config.sites.table is None:
        return {}
    sites = SiteFiles(files)
    site_params = SiteParams(files, sites, params)
    weights = files.paths.weights if Path(files.paths.weights).exists() else None
    outdated = {}
    for path, log, job, settings in _heads(files, params, sites, site_params):
        if Path(path).exists() and not recorded(path):
            records = read_job_log(files.job_log_file(*log))
            stated = next((record.settings for record in records if record.job == job), "")
            if stated != settings:
                text = f"the settings of {job}"
                outdated[path] = text if stated else f"{text}, of which no record exists"
    for rule, pattern in (
        ("site_series", files.paths.site_patches),
        ("site_infer", files.paths.site_embeddings),
    ):
        units = {pattern.format(days=days, cell=cell): (days, cell) for days, cell in sites.units}
        for path, attributes in attributes_of_existing(units):
            if recorded(path):
                continue
            if attributes is None:
                outdated[path] = "it is damaged"
            elif steps := site_params.differences(attributes, rule, units[path], weights):
                outdated[path] = f"it differs in {', '.join(steps)}"
    table = files.paths.sites
    if (
        Path(table).exists()
        and not recorded(table)
        and not _is_current(files, site_params, weights)
    ):
        outdated[table] = "the table of sites, the settings or the weights"
    return outdated


def _heads(
    files: RunFiles, params: JobParams, sites: SiteFiles, own: SiteParams
) -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    """Yield path, names of the job log, job and hash of the settings of each file that is checked
    by its job log."""
    if not runs(files.config):  # otherwise `outdated_files` has checked them
        yield files.paths.weights, (), "weights", settings_hash(params.weights())
    for days, cell in sites.units:
        for sensor, path in sites.manifests(days, cell).items():
            settings = settings_hash(own.items(days, sensor))
            yield path, (SITES, days, cell), f"site_items {sensor}", settings


def _is_current(files: RunFiles, own: SiteParams, weights: str | None) -> bool:
    """Whether the summary states that the table was made from these settings and weights."""
    try:
        summary = json.loads(Path(files.paths.sites_record).read_text(encoding="utf-8"))
        settings, model = summary["settings"], summary["provenance"]["model"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if weights is not None and read_weights_record(weights).sha256 != model:
        return False
    return bool(settings == settings_hash(own.table()))
