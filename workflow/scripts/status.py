"""Rule status: progress, failures and their reasons."""

from adaptor import job
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.state.status import status

with job(snakemake) as config:
    print(status(RunFiles(config)))
