"""Rule plan: estimate of what a run will need."""

from pathlib import Path

from adaptor import job
from tessera_flow.jobs.estimate import write_estimate

with job(snakemake) as config:
    print(write_estimate(config, Path(snakemake.params.folder)))
