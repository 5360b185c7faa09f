"""Rule items: the scenes of one sensor that every block of a region and period reads."""

from pathlib import Path

from adaptor import job
from tessera_flow.items import list_items
from tessera_flow.mask import mask_geobox

with job(snakemake) as config:
    list_items(
        source=getattr(config, snakemake.wildcards.sensor),
        region=snakemake.wildcards.region,
        geobox=mask_geobox(snakemake.input.mask),
        period=config.periods[snakemake.wildcards.period],
        arithmetic=config.arithmetic,
        download=config.download,
    ).write(Path(snakemake.output.manifest))
