"""Rule counts: observation counts of a region and period as a GeoTIFF."""

from pathlib import Path

from adaptor import product_job, stitch_inputs
from tessera_flow.products.geotiff.counts import write_counts

with product_job(snakemake) as config:
    write_counts(
        Path(snakemake.output.tif),
        **stitch_inputs(snakemake, config),
        mask=Path(snakemake.input.mask),
        output_style=Path(snakemake.output.style),
    )
