"""Rule download: daily mosaics of one block, sensor and time slice."""

from pathlib import Path

from adaptor import job
from tessera_flow.dates import Slice
from tessera_flow.ingest.download import download_sentinel1, download_sentinel2
from tessera_flow.region.grid import Window

with job(snakemake) as general:
    config = general.for_run(snakemake.wildcards.region, snakemake.wildcards.period)
    sensor = snakemake.wildcards.sensor
    settings = snakemake.params.settings
    common = {
        "manifest_path": Path(snakemake.input.manifest),
        "roi_path": Path(snakemake.input.mask),
        "window": Window(*settings["window"]),
        "time_slice": Slice.from_name(snakemake.wildcards.slice),
        "output": Path(snakemake.output.slice),
        "source": getattr(config, sensor),
        "settings": config.download,
        "published": snakemake.input.get("published"),
    }
    if sensor == "sentinel2":
        download_sentinel2(**common, preprocessing=settings["preprocessing"])
    else:
        download_sentinel1(**common)
