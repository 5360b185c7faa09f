"""Rule fill: the embeddings of a block, published ones and computed ones in their holes."""

from pathlib import Path

from adaptor import job
from tessera_flow.geotessera.fill import fill_block

with job(snakemake):
    fill_block(
        Path(snakemake.input.published),
        Path(snakemake.input.computed),
        Path(snakemake.output.embeddings),
    )
