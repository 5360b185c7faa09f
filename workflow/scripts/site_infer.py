"""Rule site_infer: the embeddings of the sites in a cell and period."""

from datetime import date

from adaptor import stoppable_job
from tessera_flow.block_file import made_from
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.device import job_device
from tessera_flow.inference.embed import InferenceOptions
from tessera_flow.inference.model import ModelSpec
from tessera_flow.inference.months import PeriodMonths
from tessera_flow.jobs.running.staging import staged
from tessera_flow.jobs.sites.files import site_record
from tessera_flow.models.weights_record import read_weights_record

params = snakemake.params
with (
    stoppable_job(snakemake) as (config, stop, _),
    job_device(params.kind, config.model.device, config.jobs.on_missing_gpu) as device,
):
    record = read_weights_record(snakemake.input.weights)
    names, settings = snakemake.wildcards, params.settings
    with made_from(site_record(config, names.days, names.cell, *snakemake.input)):
        infer_block(
            patches=staged([snakemake.input.patches], config.jobs.scratch)[0],
            output=snakemake.output.embeddings,
            spec=ModelSpec.of(record, settings, device, snakemake.threads),
            options=InferenceOptions.of(settings, config.model.batch_size),
            attributes={"cell": names.cell, "weights": record.sha256},
            stop=stop,
            period=PeriodMonths.of(config.source, *map(date.fromisoformat, settings["period"])),
        )
