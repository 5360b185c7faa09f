"""Rule site_stac: the STAC Item and Collection of the table of sites."""

from pathlib import Path

from adaptor import product_job
from tessera_flow.products.stac.sites import write_site_stac

with product_job(snakemake):
    write_site_stac(
        Path(snakemake.output.item),
        Path(snakemake.output.collection),
        Path(snakemake.input.table),
        Path(snakemake.input.record),
        snakemake.params.settings["license"],
    )
