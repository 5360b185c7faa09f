"""Rule store_tiles: the tiles of published embeddings that a region and period take."""

from pathlib import Path

from adaptor import job
from tessera_flow.geotessera.client import configured_store, list_tiles
from tessera_flow.region.blocks import load_region_grid

with job(snakemake) as config:
    region, period = snakemake.wildcards.region, snakemake.wildcards.period
    grid, _ = load_region_grid(config, region)
    list_tiles(
        configured_store(config, region, period),
        grid,
        snakemake.params.settings["year"],
        config.download.threads,
    ).write(Path(snakemake.output.manifest))
