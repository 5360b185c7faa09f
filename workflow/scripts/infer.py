"""Rules infer_cpu and infer_gpu: embeddings of one block."""

from datetime import date

from adaptor import stoppable_job
from tessera_flow.region.needed import passed_on


def infer(config, stop):
    """Embed the block; PyTorch and a GPU are only used if anything is to be computed."""
    from tessera_flow.inference.block import infer_block
    from tessera_flow.inference.device import job_device
    from tessera_flow.inference.embed import InferenceOptions
    from tessera_flow.inference.model import ModelSpec
    from tessera_flow.inference.months import PeriodMonths
    from tessera_flow.jobs.paths import compiled_folder
    from tessera_flow.jobs.resources import rule_name
    from tessera_flow.jobs.staging import staged
    from tessera_flow.models.weights_record import read_weights_record

    kind = rule_name(snakemake.rule).removeprefix("infer_")
    with job_device(kind, config.model.device, config.jobs.on_missing_gpu) as device:
        record = read_weights_record(snakemake.input.weights)
        settings = snakemake.params.settings
        infer_block(
            patches=staged([snakemake.input.patches], config.jobs.scratch)[0],
            output=snakemake.output.embeddings,
            spec=ModelSpec.of(record, settings, device, snakemake.threads, compiled_folder(config)),
            options=InferenceOptions.of(settings, config.model.batch_size),
            attributes={"block": snakemake.wildcards.block, "weights": record.sha256},
            origin=tuple(settings["origin"]),
            stop=stop,
            period=PeriodMonths.of(config.source, *map(date.fromisoformat, settings["period"])),
            block_edge=config.grid.block_size // config.grid.downsample_rate,
        )


with stoppable_job(snakemake) as (configuration, stop_request):
    if not passed_on([snakemake.input.patches], snakemake.output.embeddings):
        infer(configuration, stop_request)
