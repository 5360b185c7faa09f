"""Compare the model of a store with that of a run that computes its holes, before it starts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..config.configuration import runs
from ..errors import CheckpointError, ItemError
from ..models.weights_record import WeightsRecord, read_weights_record
from .files import RunFiles
from .params import JobParams


def store_model_warnings(files: RunFiles, params: JobParams) -> list[str]:
    """Return what is to be said about the days of published embeddings and, if holes are computed,
    about their models.

    Raises:
        ConfigError: a store is known to be of another model than `model.weights`, or nothing states
            that it is the same.
        ItemError: a store is of another version than the configured one.
    """
    if files.config.source != "geotessera":
        return []
    # Imported here: the workflow is read again in every job.
    from ..geotessera.metadata import described
    from ..geotessera.same_model import check_same_model
    from ..geotessera.stores import configured_store

    record = _record(files) if files.config.fills else None
    sha256 = params.weights_sha256
    texts: dict[str, None] = {}
    for region, period in runs(files.config):
        store = configured_store(files.config, region, period)
        year = files.config.periods[period].year or 0
        if files.config.fills:
            config = files.for_run(region, period)
            texts |= dict.fromkeys(check_same_model(store, config, year, sha256, record))
            continue
        with suppress(ItemError):  # of the job that lists the store
            known = described(store, year)
            if known is not None and (days := known.days_warning()):
                texts[days] = None
    return list(texts)


def _record(files: RunFiles) -> WeightsRecord | None:
    path = files.weights_record()
    if isinstance(path, str) and Path(path).exists():
        with suppress(CheckpointError):  # reported by the job that reads it
            return read_weights_record(path)
    return None
