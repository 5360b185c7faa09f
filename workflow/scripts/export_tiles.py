"""Rule export_tiles: the patches of one block as reference tile folders."""

from pathlib import Path

from adaptor import job
from tessera_flow.region.blocks import load_region_grid
from tessera_flow.tile_folders.exporter import export_tiles

with job(snakemake) as config:
    grid, _ = load_region_grid(config, snakemake.wildcards.region)
    export_tiles(
        Path(snakemake.input.patches),
        grid,
        grid.block(snakemake.wildcards.block),
        Path(snakemake.output.record),
        snakemake.params.settings,
    )
