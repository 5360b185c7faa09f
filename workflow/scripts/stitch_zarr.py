"""Rule stitch_zarr: the Zarr store of a region and period."""

from pathlib import Path

from adaptor import job, stitch_inputs
from tessera_flow.products.zarr_store import write_zarr

with job(snakemake) as config:
    write_zarr(
        Path(snakemake.output.store),
        **stitch_inputs(snakemake, config),
        chunk=snakemake.params.settings["zarr_chunk"],
        shards=snakemake.params.settings["zarr_shards"],
        threads=snakemake.threads,
        settings=snakemake.params.settings,
    )
