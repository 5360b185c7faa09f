"""Rule change: cosine distance of a region's embeddings to those of its previous period."""

from pathlib import Path

from adaptor import blocks_of, product_job, stitch_inputs
from tessera_flow.products.geotiff.change import write_change

with product_job(snakemake) as config:
    before = snakemake.params.previous
    write_change(
        Path(snakemake.output.tif),
        **stitch_inputs(snakemake, config),
        before=blocks_of(snakemake, config, before, snakemake.input.before),
        before_period=before,
    )
