"""Rule roi: the region's mask on its grid."""

from pathlib import Path

from adaptor import job
from tessera_flow.region.blocks import load_region_grid, read_region
from tessera_flow.region.mask import write_mask

with job(snakemake) as config:
    name = snakemake.wildcards.region
    grid, _ = load_region_grid(config, name)
    write_mask(read_region(config, name), grid.geobox, Path(snakemake.output.mask))
