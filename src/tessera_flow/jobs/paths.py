"""Define the path of every file of a run, and what its wildcards may be.

The rules name the same files as `<work>/...` and `<results>/...`; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config.configuration import Config

SENSORS = ("sentinel2", "sentinel1")
ANY_BLOCK = r"b\d+_\d+"
ANY_CELL = r"[ns]\d\d_\d+_\d+"
"""Names of cells of sites, see `region.sites.CELL_NAME`."""

_RECORDED = ("arrays", "preview", "counts", "cog", "change", "origin", "vrt", "checks", "report")
"""Products whose sizes and checksums are in a file of the same name."""


@dataclass(frozen=True)
class PathPatterns:
    """Path patterns with Snakemake's wildcards in braces."""

    roi: str
    items: str
    store_tiles: str
    slices: str
    stack: str
    patches: str
    weights: str
    published: str
    computed: str
    embeddings: str
    skipped: str
    skip_list: str
    skip_list_checksums: str
    zarr: str
    arrays: str
    scales: str
    counts: str
    arrays_provenance: str
    preview: str
    preview_png: str
    counts_cog: str
    counts_style: str
    cog: str
    cog_codes: str
    cog_scales: str
    change: str
    origin: str
    vrt: str
    vrt_codes: str
    geotessera: str
    cube: str
    cube_record: str
    tiles: str
    tile_list: str
    tile_list_checksums: str
    item: str
    scenes: str
    collection: str
    collection_items: str
    arrays_checksums: str
    preview_checksums: str
    counts_checksums: str
    cog_checksums: str
    change_checksums: str
    origin_checksums: str
    vrt_checksums: str
    item_checksums: str
    collection_checksums: str
    checks_checksums: str
    report_checksums: str
    checks: str
    report: str
    map_file: str
    map_names: str
    map_uncertainty: str
    map_labels: str
    map_record: str
    map_checksums: str
    map_page: str
    map_item: str
    map_page_checksums: str
    index: str
    index_checksums: str
    site_items: str
    site_patches: str
    site_embeddings: str
    sites: str
    sites_record: str
    sites_checksums: str
    sites_item: str
    sites_collection: str
    sites_stac_checksums: str

    @classmethod
    def below(cls, work: str, results: str) -> PathPatterns:
        """Return the patterns below a working and a results folder."""
        run = f"{work}/{{region}}/{{period}}"
        products = f"{results}/{{region}}/{{period}}"
        checksums = f"{products}/checksums"
        maps = f"{products}/maps/{{map}}"
        return cls(
            roi=f"{work}/{{region}}/roi.tif",
            items=f"{run}/items/{{sensor}}.json",
            store_tiles=f"{run}/store_tiles.json",
            slices=f"{run}/slices/{{sensor}}/{{slice}}/{{block}}.zip",
            stack=f"{run}/stack/{{sensor}}/{{block}}.zip",
            patches=f"{run}/patches/{{block}}.zip",
            weights=f"{work}/weights.json",
            published=f"{run}/published/{{block}}.zip",
            computed=f"{run}/computed/{{block}}.zip",
            embeddings=f"{run}/embeddings/{{block}}.zip",
            skipped=f"{run}/skipped/{{block}}.zip",
            skip_list=f"{products}/skipped_blocks.json",
            skip_list_checksums=f"{checksums}/skipped_blocks.json",
            zarr=f"{products}/embeddings.zarr",
            arrays=f"{products}/stitched_representation.npy",
            scales=f"{products}/stitched_representation_scales.npy",
            counts=f"{products}/stitched_representation_counts.npy",
            arrays_provenance=f"{products}/stitched_representation.json",
            preview=f"{products}/preview.tif",
            preview_png=f"{products}/preview.png",
            counts_cog=f"{products}/counts.tif",
            counts_style=f"{products}/counts.qml",
            cog=f"{products}/embeddings.tif",
            cog_codes=f"{products}/embeddings_codes.tif",
            cog_scales=f"{products}/embeddings_scales.tif",
            change=f"{products}/change.tif",
            origin=f"{products}/origin.tif",
            vrt=f"{products}/embeddings.vrt",
            vrt_codes=f"{products}/embeddings_codes.vrt",
            geotessera=f"{products}/geotessera",
            cube=f"{results}/{{region}}/cube.zarr",
            cube_record=f"{checksums}/cube.json",
            tiles=f"{products}/tiles/{{block}}.json",
            tile_list=f"{products}/tiles.json",
            tile_list_checksums=f"{checksums}/tiles.json",
            checks=f"{products}/checks.json",
            report=f"{products}/report.html",
            map_file=f"{maps}/map.tif",
            map_names=f"{maps}/map.tif.aux.xml",
            map_uncertainty=f"{maps}/uncertainty.tif",
            map_labels=f"{maps}/label_states.csv",
            map_record=f"{maps}/map.json",
            map_checksums=f"{maps}/checksums/label_map.json",
            map_page=f"{maps}/map.html",
            map_item=f"{maps}/item.json",
            map_page_checksums=f"{maps}/checksums/label_map_page.json",
            **{f"{name}_checksums": f"{checksums}/{name}.json" for name in _RECORDED},
            **_stac(results),
            **_without_region(work, results),
        )


def _stac(results: str) -> dict[str, str]:
    """Return the patterns of the STAC documents of regions, and of the tables beside them."""
    products = f"{results}/{{region}}/{{period}}"
    return {
        "item": f"{products}/item.json",
        "scenes": f"{products}/scenes.parquet",
        "item_checksums": f"{products}/checksums/item.json",
        "collection": f"{results}/{{region}}/collection.json",
        "collection_items": f"{results}/{{region}}/items.parquet",
        "collection_checksums": f"{results}/{{region}}/checksums/collection.json",
    }


def _without_region(work: str, results: str) -> dict[str, str]:
    """Return the patterns of the page of all regions and of the files of sites."""
    cells = f"{work}/sites/{{days}}"
    return {
        "index": f"{results}/index.html",
        "index_checksums": f"{results}/checksums/index.json",
        "site_items": f"{cells}/items/{{cell}}/{{sensor}}.json",
        "site_patches": f"{cells}/patches/{{cell}}.zip",
        "site_embeddings": f"{cells}/embeddings/{{cell}}.zip",
        "sites": f"{results}/sites/embeddings.parquet",
        "sites_record": f"{results}/sites/embeddings.json",
        "sites_checksums": f"{results}/sites/checksums/site_table.json",
        "sites_item": f"{results}/sites/item.json",
        "sites_collection": f"{results}/sites/collection.json",
        "sites_stac_checksums": f"{results}/sites/checksums/site_stac.json",
    }


def compiled_folder(config: Config) -> Path | None:
    """Return the folder of the code that PyTorch's compiler makes for GPUs; None if it is not
    used."""
    return Path(config.paths.work, "compiled") if config.model.compile else None
