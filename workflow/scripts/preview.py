"""Rule preview: three principal components of a region and period as an image."""

from pathlib import Path

from adaptor import blocks_of, product_job, stitch_inputs
from tessera_flow.products.geotiff.preview import write_preview

with product_job(snakemake) as config:
    name, blocks = snakemake.params.reference, snakemake.input.reference
    write_preview(
        Path(snakemake.output.tif),
        Path(snakemake.output.png),
        **stitch_inputs(snakemake, config),
        stretch=snakemake.params.settings["preview_stretch"],
        reference=(name, blocks_of(snakemake, config, name, blocks)) if blocks else None,
    )
