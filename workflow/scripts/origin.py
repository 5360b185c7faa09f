"""Rule origin: which embeddings of a region and period are published, and which computed."""

from pathlib import Path

from adaptor import product_job, stitch_inputs
from tessera_flow.products.geotiff.origin import write_origin

with product_job(snakemake) as config:
    write_origin(Path(snakemake.output.tif), **stitch_inputs(snakemake, config))
