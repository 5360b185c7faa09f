# From reference tile folders to the patches of each block, in place of ingest.smk.
# Needs: the region's mask, the tile folders (tiles.location).
# Makes:
#   import_tiles  the time series of each patch of a block


rule import_tiles:
    input:
        mask="<work>/{region}/roi.tif",
    output:
        patches=temporary("patches", "<work>/{region}/{period}/patches/{block}.zip"),
    log:
        "<logs>/{region}/{period}/import_tiles/{block}.log",
    benchmark:
        "<logs>/{region}/{period}/import_tiles/{block}.bench.tsv"
    priority: priority("retile")
    resources:
        **needs("import_tiles"),
    params:
        settings=of(PARAMS.import_tiles),
    message:
        "Reading the tiles of {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/import_tiles.py"
