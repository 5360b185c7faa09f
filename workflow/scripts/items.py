"""Rule items: the scenes of one sensor that every block of a region and period reads."""

from pathlib import Path

from adaptor import job
from tessera_flow.ingest.scene_list import list_scenes
from tessera_flow.region.mask import mask_geobox

with job(snakemake) as general:
    config = general.for_run(snakemake.wildcards.region, snakemake.wildcards.period)
    list_scenes(
        source=getattr(config, snakemake.wildcards.sensor),
        region=snakemake.wildcards.region,
        geobox=mask_geobox(snakemake.input.mask),
        period=config.periods[snakemake.wildcards.period],
        preprocessing=config.preprocessing,
        download=config.download,
        required=config.required(snakemake.wildcards.sensor),
    ).write(Path(snakemake.output.manifest))
