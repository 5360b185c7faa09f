"""Rule checks: values, seams and coverage of the embeddings of a region and period."""

from pathlib import Path

from adaptor import product_job, stitch_inputs
from tessera_flow.products.checks.embeddings import write_checks
from tessera_flow.products.inputs import source_lists

with product_job(snakemake) as config:
    write_checks(
        Path(snakemake.output.checks),
        **stitch_inputs(snakemake, config),
        mask=Path(snakemake.input.mask),
        manifests=source_lists(config, map(Path, snakemake.input.manifests))["manifests"],
        max_seam=snakemake.params.settings["max_seam"],
        max_saturated=snakemake.params.settings["max_saturated"],
        tile_list=next(iter(map(Path, snakemake.input.tile_lists)), None),
    )
