"""Rule retile: the time series of each patch of a block."""

from pathlib import Path

from adaptor import job
from tessera_flow.grid import Window
from tessera_flow.retile import retile

with job(snakemake) as config:
    settings = dict(snakemake.params.settings)
    stacks = {sensor: snakemake.input.get(sensor) for sensor in ("sentinel2", "sentinel1")}
    retile(
        **{sensor: None if path is None else Path(path) for sensor, path in stacks.items()},
        roi_path=Path(snakemake.input.mask),
        block=snakemake.wildcards.block,
        window=Window(*settings.pop("window")),
        output=Path(snakemake.output.patches),
        empty_block=config.download.empty_block,
        **settings,
    )
