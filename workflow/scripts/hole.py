"""Rule hole: the file that replaces a block that failed."""

from pathlib import Path

from adaptor import job
from tessera_flow.models.weights_record import read_weights_record
from tessera_flow.products.skipped_blocks import write_skipped_block

with job(snakemake):
    settings = dict(snakemake.params.settings)
    dim = settings.pop("dim") or read_weights_record(snakemake.input.weights).dims[-1]
    write_skipped_block(Path(snakemake.output.hole), dim=dim, **settings)
