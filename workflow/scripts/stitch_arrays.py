"""Rule stitch_arrays: the reference's arrays of a region and period."""

from pathlib import Path

from adaptor import job, stitch_inputs
from tessera_flow.products.arrays import write_arrays

with job(snakemake) as config:
    scales = snakemake.output.get("scales")
    write_arrays(
        Path(snakemake.output.representation),
        None if scales is None else Path(scales),
        Path(snakemake.output.counts),
        Path(snakemake.output.provenance),
        **stitch_inputs(snakemake, config),
    )
