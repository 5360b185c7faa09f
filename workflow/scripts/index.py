"""Rule index: one page with links to all reports."""

from pathlib import Path

from adaptor import product_job
from tessera_flow.products.report.index import write_index

with product_job(snakemake):
    write_index(
        Path(snakemake.output.page),
        runs=[tuple(names) for names in snakemake.params.runs],
        checks=[Path(path) for path in snakemake.input.checks],
        previews=[Path(path) for path in snakemake.input.previews],
    )
