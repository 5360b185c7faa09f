# Descriptions of the products for other tools: SpatioTemporal Asset Catalogs (STAC).
# Needs: the products of a region and period; the embeddings of its blocks, which record how they
# were computed; for the provenance, the lists of scenes and the record of the weights.
# Makes:
#   stac_item        the STAC Item of a region and period
#   stac_collection  the STAC Collection of a region


rule stac_item:
    input:
        **BLOCKS,
        **PROVENANCE,
        products=of(PRODUCTS.described),
    output:
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
    output:
        collection="<results>/{region}/collection.json",
        checksums="<results>/{region}/checksums/collection.json",
    log:
        "<logs>/{region}/stac_collection.log",
    benchmark:
        "<logs>/{region}/stac_collection.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("stac_collection"),
    message:
        "Describing the periods of {wildcards.region}"
    script:
        "../scripts/stac_collection.py"
