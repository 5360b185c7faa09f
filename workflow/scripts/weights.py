"""Rule weights: find, check and record the model weights."""

from adaptor import job
from tessera_flow.weights import fetch_weights, write_weights_record

with job(snakemake) as config:
    record = fetch_weights(config.model.weights, config.model.cache)
    write_weights_record(record, snakemake.output.record)
