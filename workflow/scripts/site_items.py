"""Rule site_items: the scenes of one sensor in a cell and period of sites."""

from pathlib import Path

from adaptor import job
from tessera_flow.jobs.sites.steps import list_cell_scenes

with job(snakemake) as config:
    list_cell_scenes(config, **dict(snakemake.wildcards.items())).write(
        Path(snakemake.output.manifest)
    )
