"""Rule status: what is done, what failed and why."""

from adaptor import job
from tessera_flow.layout import Layout
from tessera_flow.summary import status

with job(snakemake) as config:
    print(status(Layout(config)))
