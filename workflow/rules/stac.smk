# Descriptions of the products for other tools: SpatioTemporal Asset Catalogs (STAC).
# Needs: the products of a region and period; the embeddings of its blocks, which record how they
# were computed; for the provenance, the lists of scenes and the record of the weights; the table of
# sites.
# Makes:
#   stac_item        the STAC Item of a region and period, and its scenes as STAC GeoParquet
#   stac_collection  the STAC Collection of a region, and its Items as STAC GeoParquet
#   site_stac        the STAC Item and Collection of the table of sites


rule stac_item:
    input:
        **BLOCKS,
        **PROVENANCE,
        products=of(PRODUCTS.described),
    output:
        **PRODUCTS.scene_tables(),
        item="<results>/{region}/{period}/item.json",
        checksums="<results>/{region}/{period}/checksums/item.json",
    log:
        "<logs>/{region}/{period}/stac_item.log",
    benchmark:
        "<logs>/{region}/{period}/stac_item.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("stac_item"),
    params:
        settings=of(PARAMS.product("item")),
        products=of(PRODUCTS.described_names),
    message:
        "Describing the products of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/stac_item.py"


rule stac_collection:
    input:
        stac_items=of(PRODUCTS.stac_items),
        cube=of(PRODUCTS.cube_records),
    output:
        collection="<results>/{region}/collection.json",
        table="<results>/{region}/items.parquet",
        checksums="<results>/{region}/checksums/collection.json",
    log:
        "<logs>/{region}/stac_collection.log",
    benchmark:
        "<logs>/{region}/stac_collection.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("stac_collection"),
    params:
        cube=of(PRODUCTS.cube),
    message:
        "Describing the periods of {wildcards.region}"
    script:
        "../scripts/stac_collection.py"


rule site_stac:
    input:
        table="<results>/sites/embeddings.parquet",
        record="<results>/sites/embeddings.json",
    output:
        item="<results>/sites/item.json",
        collection="<results>/sites/collection.json",
        checksums="<results>/sites/checksums/site_stac.json",
    log:
        "<logs>/sites/stac.log",
    benchmark:
        "<logs>/sites/stac.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("site_stac"),
    params:
        settings=SITE_PARAMS.stac(),
    message:
        "Describing the table of sites"
    script:
        "../scripts/site_stac.py"
