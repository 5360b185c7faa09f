"""Rule import_tiles: the patches of one block from reference tile folders."""

from pathlib import Path

from adaptor import job
from tessera_flow.region.blocks import load_region_grid
from tessera_flow.tile_folders.importer import import_tiles

with job(snakemake) as config:
    grid, _ = load_region_grid(config, snakemake.wildcards.region)
    import_tiles(
        Path(snakemake.params.settings["location"]),
        grid,
        grid.block(snakemake.wildcards.block),
        Path(snakemake.input.mask),
        Path(snakemake.output.patches),
        snakemake.params.settings["patch_size"],
        on_empty_block=config.download.on_empty_block,
    )
