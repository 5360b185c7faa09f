"""Rule store_tiles: what a region and period take from published embeddings."""

from pathlib import Path

from adaptor import job
from tessera_flow.geotessera.listing import list_published
from tessera_flow.geotessera.same_model import with_same_model
from tessera_flow.geotessera.stores import configured_store
from tessera_flow.models.weights_record import read_weights_record
from tessera_flow.region.blocks import load_region_grid

with job(snakemake) as config:
    region, period = snakemake.wildcards.region, snakemake.wildcards.period
    grid, _ = load_region_grid(config, region)
    manifest = list_published(
        configured_store(config, region, period),
        grid,
        snakemake.params.settings["year"],
        config.download.threads,
        may_be_empty=config.fills,
    )
    if config.fills:
        manifest = with_same_model(manifest, config, read_weights_record(snakemake.input.weights))
    manifest.write(Path(snakemake.output.manifest))
