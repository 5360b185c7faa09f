"""Rule checks: impossible values and seams in the embeddings of a region and period."""

from pathlib import Path

from adaptor import product_job, stitch_inputs
from tessera_flow.products.checks import write_checks

with product_job(snakemake) as config:
    write_checks(
        Path(snakemake.output.checks),
        **stitch_inputs(snakemake, config),
        max_seam=snakemake.params.settings["max_seam"],
        max_saturated=snakemake.params.settings["max_saturated"],
    )
