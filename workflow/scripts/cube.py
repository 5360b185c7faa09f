"""Rule cube: a period in the store of all periods of its region."""

from pathlib import Path

from adaptor import product_job
from tessera_flow.products.stores.cube import add_period

with product_job(snakemake):
    add_period(Path(snakemake.params.cube), snakemake.wildcards.period, Path(snakemake.input.store))
