"""Rule hole: what stands for a block without embeddings."""

from pathlib import Path

from adaptor import job
from tessera_flow.holes import write_hole
from tessera_flow.weights import read_weights_record

with job(snakemake):
    settings = dict(snakemake.params.settings)
    dim = settings.pop("dim") or read_weights_record(snakemake.input.weights).dims[-1]
    write_hole(Path(snakemake.output.hole), dim=dim, **settings)
