"""Rule stitch_arrays: the reference's arrays of a region and period."""

from pathlib import Path

from adaptor import product_job, stitch_inputs
from tessera_flow.products.arrays import write_arrays

with product_job(snakemake) as config:
    scales, counts = snakemake.output.get("scales"), snakemake.output.get("counts")
    write_arrays(
        Path(snakemake.output.representation),
        None if scales is None else Path(scales),
        None if counts is None else Path(counts),
        Path(snakemake.output.provenance),
        **stitch_inputs(snakemake, config),
    )
