"""Rule plan: estimate of what a run will need."""

from pathlib import Path

from adaptor import job
from tessera_flow.jobs.plan.limits import of_snakemake
from tessera_flow.jobs.plan.text import write_estimate

with job(snakemake) as config:
    limits = of_snakemake(**snakemake.params.limits, assumed_jobs=config.jobs.concurrent_jobs)
    print(write_estimate(config, Path(snakemake.params.folder), limits))
