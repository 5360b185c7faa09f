"""Rule import_embeddings: the embeddings of one block from a store of published ones."""

from pathlib import Path

from adaptor import job
from tessera_flow.geotessera.importer import import_embeddings
from tessera_flow.geotessera.manifest import StoreManifest
from tessera_flow.geotessera.stores import configured_store
from tessera_flow.region.blocks import load_region_grid

with job(snakemake) as config:
    region, period = snakemake.wildcards.region, snakemake.wildcards.period
    grid, _ = load_region_grid(config, region)
    import_embeddings(
        configured_store(config, region, period),
        StoreManifest.read(Path(snakemake.input.manifest)),
        grid,
        grid.block(snakemake.wildcards.block),
        Path(snakemake.input.mask),
        Path(snakemake.output.embeddings),
        config.grid.patch_size,
        dtype=snakemake.params.settings["dtype"],
        on_empty_block=config.download.on_empty_block,
        filled=config.fills,
    )
