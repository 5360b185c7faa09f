"""Rule retile: the time series of each patch of a block."""

from pathlib import Path

from adaptor import job
from tessera_flow.ingest.retile import retile
from tessera_flow.jobs.running.staging import staged
from tessera_flow.region.grid import Window

with job(snakemake) as config:
    settings = dict(snakemake.params.settings)
    stacks = dict.fromkeys(("sentinel2", "sentinel1"))
    used = {name: path for name, path in snakemake.input.items() if name in stacks}
    stacks |= zip(used, staged(list(used.values()), config.jobs.scratch), strict=True)
    retile(
        **stacks,
        roi_path=Path(snakemake.input.mask),
        block=snakemake.wildcards.block,
        window=Window(*settings.pop("window")),
        output=Path(snakemake.output.patches),
        on_empty_block=config.download.on_empty_block,
        published=snakemake.input.get("published"),
        all_values=config.all_values,
        **settings,
    )
