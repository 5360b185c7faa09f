"""Rule infer: embeddings of one block."""

from adaptor import job
from tessera_flow.inference import InferenceOptions, infer_block
from tessera_flow.weights import read_weights_record

with job(snakemake) as config:
    record = read_weights_record(snakemake.input.weights)
    settings = dict(snakemake.params.settings)
    least = settings.pop("min_observations")
    infer_block(
        patches=snakemake.input.patches,
        checkpoint=record.path,
        output=snakemake.output.embeddings,
        options=InferenceOptions(
            **settings,
            min_s2=least["s2"],
            min_s1=least["s1"],
            batch_size=config.model.batch_size,
        ),
        attributes={"block": snakemake.wildcards.block, "weights": record.sha256},
        device=config.model.device,
        threads=snakemake.threads,
        sha256=record.sha256,
    )
