"""Compare the model of a store with that of a run that computes its holes, before it starts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..config.configuration import runs
from ..errors import CheckpointError
from ..models.weights_record import WeightsRecord, read_weights_record
from .files import RunFiles
from .params import JobParams


def store_model_warnings(files: RunFiles, params: JobParams) -> list[str]:
    """Return what is to be said about the models of published embeddings whose holes are computed.

    Raises:
        ConfigError: a store is known to be of another model than `model.weights`, or nothing states
            that it is the same.
        ItemError: a store is of another version than the configured one.
    """
    if not files.config.fills:
        return []
    # Imported here: the workflow is read again in every job.
    from ..geotessera.same_model import check_same_model
    from ..geotessera.stores import configured_store

    record = _record(files)
    texts: dict[str, None] = {}
    for region, period in runs(files.config):
        store = configured_store(files.config, region, period)
        year = files.config.periods[period].year or 0
        config = files.for_run(region, period)
        texts |= dict.fromkeys(check_same_model(store, config, year, params.weights_sha256, record))
    return list(texts)


def _record(files: RunFiles) -> WeightsRecord | None:
    path = files.weights_record()
    if isinstance(path, str) and Path(path).exists():
        with suppress(CheckpointError):  # reported by the job that reads it
            return read_weights_record(path)
    return None
