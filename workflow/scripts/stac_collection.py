"""Rule stac_collection: the STAC Collection of a region."""

from pathlib import Path

from adaptor import product_job
from tessera_flow.products.stac.documents import write_collection

with product_job(snakemake):
    write_collection(
        Path(snakemake.output.collection),
        [Path(path) for path in snakemake.input.stac_items],
        Path(snakemake.output.table),
        Path(snakemake.params.cube) if snakemake.params.cube else None,
    )
