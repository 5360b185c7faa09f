"""Rule list_tiles: the list of the tile folders of a region and period."""

from pathlib import Path

from adaptor import product_job
from tessera_flow.tile_folders.tile_list import list_tiles

with product_job(snakemake):
    output = Path(snakemake.output.list)
    list_tiles(
        output,
        output.with_name("tiles"),
        map(Path, snakemake.input.records),
        snakemake.params.settings,
    )
