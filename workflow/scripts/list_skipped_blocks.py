"""Rule list_skipped_blocks: the blocks that products are made without."""

from pathlib import Path

from adaptor import product_job
from tessera_flow.products.skipped_blocks import write_skip_list
from tessera_flow.region.blocks import load_region_grid

with product_job(snakemake) as config:
    grid, _ = load_region_grid(config, snakemake.wildcards.region)
    write_skip_list(Path(snakemake.output.record), grid, dict(snakemake.params.skipped))
