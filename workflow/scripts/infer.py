"""Rules infer_cpu and infer_gpu: embeddings of one block."""

from adaptor import stoppable_job
from tessera_flow.block_file import current_record
from tessera_flow.inference.block_task import BlockTask
from tessera_flow.jobs.paths import compiled_folder
from tessera_flow.jobs.resources import rule_name
from tessera_flow.jobs.running.infer_job import InferJob
from tessera_flow.models.weights_record import read_weights_record
from tessera_flow.region.needed import passed_on

with stoppable_job(snakemake) as (config, stop, cost):
    if not passed_on([snakemake.input.patches], snakemake.output.embeddings):
        task = BlockTask.of(
            config,
            block=snakemake.wildcards.block,
            patches=snakemake.input.patches,
            output=snakemake.output.embeddings,
            record=read_weights_record(snakemake.input.weights),
            settings=snakemake.params.settings,
            made_from=current_record(),
            threads=snakemake.threads,
            compiled=compiled_folder(config),
        )
        kind = rule_name(snakemake.rule).removeprefix("infer_")
        minutes = snakemake.resources.get("runtime", 0)
        InferJob(config, kind, stop, cost, snakemake.log[0], minutes).run(task)
