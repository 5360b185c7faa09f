"""Rule cog: all dimensions of a region and period as GeoTIFFs."""

from pathlib import Path

from adaptor import product_job, stitch_inputs
from tessera_flow.products.geotiff.cog import write_cogs

with product_job(snakemake) as config:
    scales = snakemake.output.get("scales")
    write_cogs(
        Path(snakemake.output.cog),
        None if scales is None else Path(scales),
        **stitch_inputs(snakemake, config),
        threads=snakemake.threads,
    )
