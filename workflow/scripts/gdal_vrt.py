"""Rule vrt: all dimensions of a region and period for GDAL, over the stitched arrays."""

from pathlib import Path

from adaptor import product_job, stitch_inputs
from tessera_flow.products.geotiff.vrt import write_vrt

with product_job(snakemake) as config:
    codes, scales = snakemake.output.get("codes"), snakemake.input.get("scales")
    write_vrt(
        Path(snakemake.output.vrt),
        None if codes is None else Path(codes),
        Path(snakemake.input.representation),
        None if scales is None else Path(scales),
        **stitch_inputs(snakemake, config, blocks=False),
    )
