"""Rule report: the HTML page of a region and period."""

from pathlib import Path

from adaptor import product_job, stitch_inputs
from tessera_flow.products.inputs import source_lists
from tessera_flow.products.report.page import write_report

with product_job(snakemake) as config:
    write_report(
        Path(snakemake.output.page),
        **stitch_inputs(snakemake, config),
        checks=Path(snakemake.input.checks),
        preview=Path(snakemake.input.preview),
        **source_lists(config, map(Path, snakemake.input.manifests)),
        products=snakemake.params.products,
        mask=Path(snakemake.input.mask),
        skip_list=next((Path(path) for path in snakemake.input.skipped), None),
        logs=Path(snakemake.log[0]).parent,
        reference=snakemake.params.reference,
        change=next(((snakemake.params.previous, Path(p)) for p in snakemake.input.change), None),
    )
