# From blocks to products, one rule for each, so that a changed format reruns only its own.
# Needs: the embeddings of all blocks of a region and period; for the provenance, the lists of
# scenes and the record of the weights.
# Makes:
#   stitch_zarr         the Zarr store
#   cube                the period in the store of all periods of the region
#   stitch_arrays       the reference's arrays
#   preview             three principal components as GeoTIFF and PNG
#   skip_block          the file that replaces a block that failed (jobs.on_failed_block: skip)
#   list_skipped_blocks the blocks that the products were made without


rule stitch_zarr:
    input:
        **BLOCKS,
        **PROVENANCE,
    output:
        store=directory("<results>/{region}/{period}/embeddings.zarr"),
    log:
        "<logs>/{region}/{period}/stitch_zarr.log",
    benchmark:
        "<logs>/{region}/{period}/stitch_zarr.bench.tsv"
    priority: PRODUCT_PRIORITY
    threads: SCHEDULE.threads("stitch_zarr")
    resources:
        **needs("stitch_zarr"),
    params:
        settings=of(PARAMS.product("zarr")),
    message:
        "Writing the Zarr store of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/stitch_zarr.py"


# Changes <results>/{region}/cube.zarr, which is no output: Snakemake would remove it before each
# job. One job at a time does so.
rule cube:
    input:
        store="<results>/{region}/{period}/embeddings.zarr",
    output:
        checksums="<results>/{region}/{period}/checksums/cube.json",
    log:
        "<logs>/{region}/{period}/cube.log",
    benchmark:
        "<logs>/{region}/{period}/cube.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("cube", cube=1),
    params:
        settings=of(PARAMS.product("cube")),
        cube=of(PRODUCTS.cube),
    message:
        "Adding {wildcards.period} to the cube of {wildcards.region}"
    script:
        "../scripts/cube.py"


# <results>/{region}/{period}/stitched_representation.npy, _scales.npy, _counts.npy and .json, and
# checksums/arrays.json
rule stitch_arrays:
    input:
        **BLOCKS,
        **PROVENANCE,
    output:
        **PRODUCTS.array_files(),
    log:
        "<logs>/{region}/{period}/stitch_arrays.log",
    benchmark:
        "<logs>/{region}/{period}/stitch_arrays.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("stitch_arrays"),
    params:
        settings=of(PARAMS.product("arrays")),
    message:
        "Writing the arrays of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/stitch_arrays.py"


# The components are fitted to one period of the region, so that colours can be compared.
rule preview:
    input:
        **BLOCKS,
        **PROVENANCE,
        reference=of(FILES.reference_blocks),
    output:
        tif="<results>/{region}/{period}/preview.tif",
        png=report(
            "<results>/{region}/{period}/preview.png",
            caption="../report/preview.rst",
            category="{region}",
            labels={"period": "{period}", "what": "preview"},
        ),
        checksums="<results>/{region}/{period}/checksums/preview.json",
    log:
        "<logs>/{region}/{period}/preview.log",
    benchmark:
        "<logs>/{region}/{period}/preview.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("preview"),
    params:
        settings=of(PARAMS.product("preview")),
        reference=of(FILES.reference_period),
    message:
        "Rendering the preview of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/preview.py"


rule skip_block:
    input:
        weights=FILES.weights_record(),
    output:
        skipped="<work>/{region}/{period}/skipped/{block}.zip",
    log:
        "<logs>/{region}/{period}/skip_block/{block}.log",
    benchmark:
        "<logs>/{region}/{period}/skip_block/{block}.bench.tsv"
    resources:
        **needs("skip_block"),
    params:
        settings=of(PARAMS.skip_block),
    message:
        "Skipping {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/skip_block.py"


rule list_skipped_blocks:
    input:
        **BLOCKS,
    output:
        record="<results>/{region}/{period}/skipped_blocks.json",
        checksums="<results>/{region}/{period}/checksums/skipped_blocks.json",
    log:
        "<logs>/{region}/{period}/list_skipped_blocks.log",
    benchmark:
        "<logs>/{region}/{period}/list_skipped_blocks.bench.tsv"
    resources:
        **needs("list_skipped_blocks"),
    params:
        skipped=of(FILES.skipped_blocks),
    message:
        "Listing the skipped blocks of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/list_skipped_blocks.py"
