"""Rule weights: find, check and record the model weights."""

from pathlib import Path

from adaptor import job
from tessera_flow.models.weights import check_choices, fetch_weights
from tessera_flow.models.weights_pin import RECORD_NAME
from tessera_flow.models.weights_record import write_weights_record

with job(snakemake) as config:
    model = config.model
    record = fetch_weights(
        model.weights,
        model.cache,
        tuple(model.heads) if model.heads else None,
        model.sha256,
        Path(config.paths.work) / RECORD_NAME,
    )
    check_choices(record, model.dim, model.statistics, model.seed, model.repeat_times)
    write_weights_record(record, snakemake.output.record)
