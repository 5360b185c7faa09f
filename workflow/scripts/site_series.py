"""Rule site_series: the time series of the pixels of the sites in a cell and period."""

from pathlib import Path

from adaptor import job
from tessera_flow.jobs.sites.steps import read_cell

with job(snakemake) as config:
    names = snakemake.wildcards
    read_cell(config, names.days, names.cell, Path(snakemake.output.patches))
