# Checks of the embeddings, and one page that describes the products.
# Needs: the embeddings of all blocks of a region and period, the lists of scenes, the record of
# the weights; the mask, the preview, the list of skipped blocks if any; log and benchmark files.
# Makes:
#   checks  impossible values, seams, coverage of the region and the period
#   change  difference from the previous period as a GeoTIFF
#   report  an HTML page that needs no other file
#   index   a page with the previews of all regions and periods, and links to their reports


rule checks:
    input:
        **BLOCKS,
        **PROVENANCE,
        mask="<work>/{region}/roi.tif",
        tile_lists=of(PRODUCTS.tile_lists),
    output:
        checks="<results>/{region}/{period}/checks.json",
        checksums="<results>/{region}/{period}/checksums/checks.json",
    log:
        "<logs>/{region}/{period}/checks.log",
    benchmark:
        "<logs>/{region}/{period}/checks.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("checks"),
    params:
        settings=of(PARAMS.product("checks")),
    message:
        "Checking the embeddings of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/quality.py"


rule change:
    input:
        **BLOCKS,
        **PROVENANCE,
        before=of(FILES.previous_blocks),
    output:
        tif="<results>/{region}/{period}/change.tif",
        checksums="<results>/{region}/{period}/checksums/change.json",
    log:
        "<logs>/{region}/{period}/change.log",
    benchmark:
        "<logs>/{region}/{period}/change.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("change"),
    params:
        settings=of(PARAMS.product("change")),
        previous=of(FILES.previous_period),
    message:
        "Comparing {wildcards.region}, {wildcards.period}, with the previous period"
    script:
        "../scripts/change.py"


rule report:
    input:
        **BLOCKS,
        **PROVENANCE,
        checks="<results>/{region}/{period}/checks.json",
        preview="<results>/{region}/{period}/preview.png",
        products=of(PRODUCTS.described),
        mask="<work>/{region}/roi.tif",
        skipped=of(FILES.skip_lists),
        change=of(PRODUCTS.change),
    output:
        page=report(
            "<results>/{region}/{period}/report.html",
            caption="../report/page.rst",
            category="{region}",
            labels={"period": "{period}", "what": "report"},
        ),
        checksums="<results>/{region}/{period}/checksums/report.json",
    log:
        "<logs>/{region}/{period}/report.log",
    benchmark:
        "<logs>/{region}/{period}/report.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("report"),
    params:
        settings=of(PARAMS.product("report")),
        products=of(PRODUCTS.openable),
        reference=of(FILES.reference_period),
        previous=of(FILES.previous_period),
    message:
        "Writing the report of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/html_report.py"


rule index:
    input:
        **PRODUCTS.index_inputs(),
    output:
        page="<results>/index.html",
        checksums="<results>/checksums/index.json",
    log:
        "<logs>/index.log",
    benchmark:
        "<logs>/index.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("index"),
    params:
        runs=PRODUCTS.runs(),
    message:
        "Writing the page of all regions and periods"
    script:
        "../scripts/index.py"
