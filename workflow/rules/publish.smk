# Further products, in the formats of other tools, one rule for each.
# Needs: the embeddings of all blocks of a region and period, or products made from them; for
# the provenance, the lists of scenes and the record of the weights.
# Makes:
#   counts        observation counts as a GeoTIFF
#   cog           all dimensions as GeoTIFFs
#   vrt           all dimensions for GDAL, over the reference's arrays
#   geotessera    the store of the geotessera client
#   export_tiles  the time series of a block as reference tile folders
#   list_tiles    the list of these folders; those of earlier settings are moved away


rule counts:
    input:
        **BLOCKS,
        **PROVENANCE,
        mask="<work>/{region}/roi.tif",
    output:
        tif="<results>/{region}/{period}/counts.tif",
        style="<results>/{region}/{period}/counts.qml",
        checksums="<results>/{region}/{period}/checksums/counts.json",
    log:
        "<logs>/{region}/{period}/counts.log",
    benchmark:
        "<logs>/{region}/{period}/counts.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("counts"),
    params:
        settings=of(PARAMS.product("counts")),
    message:
        "Writing the observation counts of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/observation_counts.py"


# <results>/{region}/{period}/embeddings.tif, or embeddings_codes.tif and embeddings_scales.tif
# (products.cog_dtype: int8), and checksums/cog.json
rule cog:
    input:
        **BLOCKS,
        **PROVENANCE,
    output:
        **PRODUCTS.cog_files(),
    log:
        "<logs>/{region}/{period}/cog.log",
    benchmark:
        "<logs>/{region}/{period}/cog.bench.tsv"
    priority: PRODUCT_PRIORITY
    threads: SCHEDULE.threads("cog")
    resources:
        **needs("cog"),
    params:
        settings=of(PARAMS.product("cog")),
    message:
        "Writing the GeoTIFF of all dimensions of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/cog.py"


# <results>/{region}/{period}/embeddings.vrt, embeddings_codes.vrt and checksums/vrt.json
rule vrt:
    input:
        **PRODUCTS.vrt_inputs(),
        **PROVENANCE,
    output:
        **PRODUCTS.vrt_files(),
    log:
        "<logs>/{region}/{period}/vrt.log",
    benchmark:
        "<logs>/{region}/{period}/vrt.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("vrt"),
    params:
        settings=of(PARAMS.product("vrt")),
    message:
        "Writing the VRT of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/gdal_vrt.py"


rule geotessera:
    input:
        **BLOCKS,
        **PROVENANCE,
    output:
        store=directory("<results>/{region}/{period}/geotessera"),
    log:
        "<logs>/{region}/{period}/geotessera.log",
    benchmark:
        "<logs>/{region}/{period}/geotessera.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("geotessera"),
    params:
        settings=of(PARAMS.product("geotessera")),
    message:
        "Writing the geotessera store of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/geotessera_store.py"


rule export_tiles:
    input:
        patches="<work>/{region}/{period}/patches/{block}.zip",
    output:
        record="<results>/{region}/{period}/tiles/{block}.json",
    log:
        "<logs>/{region}/{period}/export_tiles/{block}.log",
    benchmark:
        "<logs>/{region}/{period}/export_tiles/{block}.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("export_tiles"),
    params:
        settings=of(PARAMS.product("tiles")),
    message:
        "Exporting the tiles of {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/export_tiles.py"


rule list_tiles:
    input:
        records=of(PRODUCTS.tile_records),
    output:
        list="<results>/{region}/{period}/tiles.json",
        checksums="<results>/{region}/{period}/checksums/tiles.json",
    log:
        "<logs>/{region}/{period}/list_tiles.log",
    benchmark:
        "<logs>/{region}/{period}/list_tiles.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("list_tiles"),
    params:
        settings=of(PARAMS.product("tiles")),
    message:
        "Listing the tiles of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/list_tiles.py"
