"""Rule stitch_zarr: the Zarr store of a region and period."""

from pathlib import Path

from adaptor import job, stitch_inputs
from tessera_flow.products.stores.zarr_store import write_zarr

with job(snakemake) as config:
    keys = snakemake.params.settings
    write_zarr(
        Path(snakemake.output.store),
        **stitch_inputs(snakemake, config),
        chunk=keys["zarr_chunk"],
        shards=keys["zarr_shards"],
        preview_stretch=keys["preview_stretch"] if keys["zarr_preview"] else None,
        threads=snakemake.threads,
        settings=keys,
    )
