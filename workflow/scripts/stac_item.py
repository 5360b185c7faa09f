"""Rule stac_item: the STAC Item of a region and period."""

from pathlib import Path

from adaptor import product_job, stitch_inputs
from tessera_flow.products.inputs import region_outline, source_lists
from tessera_flow.products.stac.documents import write_item

with product_job(snakemake) as config:
    write_item(
        Path(snakemake.output.item),
        **stitch_inputs(snakemake, config),
        products=snakemake.params.products,
        **source_lists(config, map(Path, snakemake.input.manifests)),
        licence=snakemake.params.settings["license"],
        outline=region_outline(config, snakemake.wildcards.region),
        scenes=Path(scenes) if (scenes := snakemake.output.get("scenes")) else None,
    )
