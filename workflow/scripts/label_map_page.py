"""Rule label_map_page: the HTML page and the STAC Item of a map."""

from pathlib import Path

from adaptor import product_job
from tessera_flow.analysis.page import write_page
from tessera_flow.analysis.stac import write_map_item

with product_job(snakemake):
    record, map_file = Path(snakemake.input.record), Path(snakemake.input.map)
    write_page(
        Path(snakemake.output.page),
        record,
        map_file,
        Path(snakemake.input.uncertainty),
        snakemake.params.report,
    )
    write_map_item(Path(snakemake.output.stac_item), record, Path(snakemake.input.checksums))
