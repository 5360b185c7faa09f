"""Rule stack: all dates of one block and sensor, in order."""

from pathlib import Path

from adaptor import job
from tessera_flow.ingest.stack import stack_sentinel1, stack_sentinel2
from tessera_flow.jobs.running.staging import staged

STACKERS = {"sentinel2": stack_sentinel2, "sentinel1": stack_sentinel1}

with job(snakemake) as config:
    STACKERS[snakemake.wildcards.sensor](
        slices=staged(snakemake.input.slices, config.jobs.scratch),
        output=Path(snakemake.output.stack),
        downsample_rate=snakemake.params.downsample_rate,
        max_missing_percent=config.download.max_missing_percent,
    )
