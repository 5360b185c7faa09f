"""Rule geotessera: the store of the geotessera client of a region and period."""

from pathlib import Path

from adaptor import job, stitch_inputs
from tessera_flow.products.stores.geotessera import write_geotessera

with job(snakemake) as config:
    write_geotessera(
        Path(snakemake.output.store),
        **stitch_inputs(snakemake, config),
        settings=snakemake.params.settings,
    )
