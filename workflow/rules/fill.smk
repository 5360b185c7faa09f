# Published embeddings whose holes are computed (geotessera.fill: compute), after geotessera.smk,
# ingest.smk and infer.smk, which process only the patches with holes.
# Needs: the published and the computed embeddings of each block; for the provenance, the lists of
# scenes and zones and the record of the weights.
# Makes:
#   fill    the embeddings of a block, with the origin of each pixel
#   origin  the origin of each pixel as a GeoTIFF


rule fill:
    input:
        published="<work>/{region}/{period}/published/{block}.zip",
        computed="<work>/{region}/{period}/computed/{block}.zip",
    output:
        embeddings="<work>/{region}/{period}/embeddings/{block}.zip",
    log:
        "<logs>/{region}/{period}/fill/{block}.log",
    benchmark:
        "<logs>/{region}/{period}/fill/{block}.bench.tsv"
    priority: priority("infer")
    resources:
        **needs("fill", in_flight=1),
    message:
        "Filling the holes of {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/fill.py"


rule origin:
    input:
        **BLOCKS,
        **PROVENANCE,
    output:
        tif="<results>/{region}/{period}/origin.tif",
        checksums="<results>/{region}/{period}/checksums/origin.json",
    log:
        "<logs>/{region}/{period}/origin.log",
    benchmark:
        "<logs>/{region}/{period}/origin.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("origin"),
    params:
        settings=of(PARAMS.product("origin")),
    message:
        "Writing the origin of the embeddings of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/origin.py"
