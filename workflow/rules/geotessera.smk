# Published embeddings of each block, in place of ingest.smk and infer.smk, or before them (fill.smk).
# Needs: the region's mask, a store of published embeddings; to fill its holes, the record of the
# weights, which must be those of the store.
# Makes:
#   store_tiles        the list of the zones or tiles of the store that every block reads
#   import_embeddings  the embeddings of a block, from their pixels


rule store_tiles:
    input:
        weights=FILES.weights_record(),
    output:
        manifest="<work>/{region}/{period}/store_tiles.json",
    log:
        "<logs>/{region}/{period}/store_tiles.log",
    benchmark:
        "<logs>/{region}/{period}/store_tiles.bench.tsv"
    localrule: "store_tiles" in CONFIG.jobs.local_rules
    resources:
        **needs("store_tiles"),
    params:
        settings=of(PARAMS.store_tiles),
    message:
        "Listing the published embeddings of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/store_tiles.py"


rule import_embeddings:
    input:
        mask="<work>/{region}/roi.tif",
        manifest="<work>/{region}/{period}/store_tiles.json",
    output:
        embeddings=before_fill(
            "<work>/{region}/{period}/published/{block}.zip",
            "<work>/{region}/{period}/embeddings/{block}.zip",
        ),
    log:
        "<logs>/{region}/{period}/import_embeddings/{block}.log",
    benchmark:
        "<logs>/{region}/{period}/import_embeddings/{block}.bench.tsv"
    priority: priority("import")
    localrule: "import_embeddings" in CONFIG.jobs.local_rules
    resources:
        **needs("import_embeddings", downloads=1, in_flight=SCHEDULE.claim),
    params:
        settings=of(PARAMS.import_embeddings),
    message:
        "Importing the embeddings of {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/import_embeddings.py"
