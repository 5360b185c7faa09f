"""Rule roi: the region's mask on its grid."""

from pathlib import Path

from adaptor import job
from tessera_flow.region.blocks import load_region_grid
from tessera_flow.region.mask import write_mask
from tessera_flow.region.roi import read_roi

with job(snakemake) as config:
    name = snakemake.wildcards.region
    region = config.regions[name]
    grid, _ = load_region_grid(config, name)
    write_mask(read_roi(region.roi, region.layer), grid.geobox, Path(snakemake.output.mask))
