"""Rule label_map: a map of a class or a number of a region and period, from labels."""

from pathlib import Path

from adaptor import product_job
from tessera_flow.analysis.make_map import MapFiles, make_map

with product_job(snakemake) as config:
    files = {name: Path(path) for name, path in snakemake.output.items() if name != "checksums"}
    name = snakemake.wildcards.map
    make_map(
        name,
        Path(snakemake.input.store),
        config.maps[name],
        MapFiles(**files),
        snakemake.threads,
        f"maps.{name}.",
    )
