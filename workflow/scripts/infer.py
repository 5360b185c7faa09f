"""Rule infer: embeddings of one block."""

from adaptor import job
from tessera_flow.block_inference import infer_block
from tessera_flow.inference import InferenceOptions
from tessera_flow.weights import read_weights_record

with job(snakemake) as config:
    record = read_weights_record(snakemake.input.weights)
    settings = snakemake.params.settings
    infer_block(
        patches=snakemake.input.patches,
        checkpoint=record.path,
        output=snakemake.output.embeddings,
        options=InferenceOptions(
            dim=settings["dim"],
            dtype=settings["dtype"],
            min_s2=settings["min_observations"]["s2"],
            min_s1=settings["min_observations"]["s1"],
            seed=settings["seed"],
            repeat_times=settings["repeat_times"],
            batch_size=config.model.batch_size,
        ),
        attributes={"block": snakemake.wildcards.block, "weights": record.sha256},
        device=config.model.device,
        threads=snakemake.threads,
        sha256=record.sha256,
        heads=tuple(settings["heads"]) if settings["heads"] else None,
        statistics=settings["statistics"],
        origin=tuple(settings["origin"]),
        precision=settings["precision"],
    )
