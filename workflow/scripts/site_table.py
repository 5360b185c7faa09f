"""Rule site_table: the embeddings of all sites as GeoParquet."""

from pathlib import Path

from adaptor import product_job
from tessera_flow.jobs.sites.steps import write_table

with product_job(snakemake) as config:
    write_table(
        config,
        list(snakemake.input.embeddings),
        snakemake.input.weights,
        Path(snakemake.output.table),
        Path(snakemake.output.record),
    )
