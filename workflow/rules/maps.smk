# Maps of a class or a number, learned from labels.
# Needs: the Zarr store of a region and period; the labels, which are no input, because their
# content is in the parameters: a file that was moved or copied reruns nothing.
# Makes:
#   label_map       accuracy, the map and its uncertainty
#   label_map_page  an HTML page about the map, and its STAC Item


rule label_map:
    input:
        store="<results>/{region}/{period}/embeddings.zarr",
    output:
        map="<results>/{region}/{period}/maps/{map}/map.tif",
        names="<results>/{region}/{period}/maps/{map}/map.tif.aux.xml",
        uncertainty="<results>/{region}/{period}/maps/{map}/uncertainty.tif",
        labels="<results>/{region}/{period}/maps/{map}/label_states.csv",
        record="<results>/{region}/{period}/maps/{map}/map.json",
        checksums="<results>/{region}/{period}/maps/{map}/checksums/label_map.json",
    log:
        "<logs>/{region}/{period}/label_map/{map}.log",
    benchmark:
        "<logs>/{region}/{period}/label_map/{map}.bench.tsv"
    priority: PRODUCT_PRIORITY
    threads: SCHEDULE.threads("label_map")
    resources:
        **needs("label_map"),
    params:
        settings=of(PARAMS.map),
    message:
        "Making the map {wildcards.map} of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/label_map.py"


rule label_map_page:
    input:
        map="<results>/{region}/{period}/maps/{map}/map.tif",
        uncertainty="<results>/{region}/{period}/maps/{map}/uncertainty.tif",
        record="<results>/{region}/{period}/maps/{map}/map.json",
        checksums="<results>/{region}/{period}/maps/{map}/checksums/label_map.json",
    output:
        page=report(
            "<results>/{region}/{period}/maps/{map}/map.html",
            caption="../report/map.rst",
            category="{region}",
            labels={"period": "{period}", "what": "map {map}"},
        ),
        stac_item="<results>/{region}/{period}/maps/{map}/item.json",
        checksums="<results>/{region}/{period}/maps/{map}/checksums/label_map_page.json",
    log:
        "<logs>/{region}/{period}/label_map_page/{map}.log",
    benchmark:
        "<logs>/{region}/{period}/label_map_page/{map}.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        **needs("label_map_page"),
    params:
        settings=of(PARAMS.map),
        report="../../report.html" if "report" in CONFIG.products.formats else None,
    message:
        "Describing the map {wildcards.map} of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/label_map_page.py"
