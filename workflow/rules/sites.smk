# Sites: points or small polygons of a table, by cell (a square of a UTM zone) and period.
# Needs: the table (sites.table), grouped into cells when the workflow is read and cached; the
# archive's catalog; the record of the weights.
# Makes (rules/stac.smk describes the table):
#   site_items   the list of scenes of a sensor in a cell and period
#   site_series  the time series of the pixels of the sites in it
#   site_infer   their embeddings
#   site_table   the embeddings of all sites as GeoParquet, with a summary


wildcard_constraints:
    cell=ANY_CELL,
    days=r"\d{4}-\d\d-\d\d_\d{4}-\d\d-\d\d",


rule site_items:
    output:
        manifest="<work>/sites/{days}/items/{cell}/{sensor}.json",
    log:
        "<logs>/sites/{days}/items/{cell}/{sensor}.log",
    benchmark:
        "<logs>/sites/{days}/items/{cell}/{sensor}.bench.tsv"
    localrule: "site_items" in CONFIG.jobs.local_rules
    resources:
        **needs("site_items"),
    params:
        settings=of(SITE_PARAMS.items),
    message:
        "Listing {wildcards.sensor} scenes of cell {wildcards.cell}, {wildcards.days}"
    script:
        "../scripts/site_items.py"


rule site_series:
    input:
        unpack(of(SITES.manifests)),
    output:
        patches=temporary("patches", "<work>/sites/{days}/patches/{cell}.zip"),
    log:
        "<logs>/sites/{days}/series/{cell}.log",
    benchmark:
        "<logs>/sites/{days}/series/{cell}.bench.tsv"
    priority: 1
    localrule: "site_series" in CONFIG.jobs.local_rules
    resources:
        **SITE_SCHEDULE.needs("site_series"),
        downloads=1,
    params:
        settings=of(SITE_PARAMS.series),
    message:
        "Reading the sites in cell {wildcards.cell}, {wildcards.days}"
    script:
        "../scripts/site_series.py"


rule site_infer:
    input:
        patches="<work>/sites/{days}/patches/{cell}.zip",
        weights=FILES.weights_record(),
    output:
        embeddings="<work>/sites/{days}/embeddings/{cell}.zip",
    log:
        "<logs>/sites/{days}/infer/{cell}.log",
    benchmark:
        "<logs>/sites/{days}/infer/{cell}.bench.tsv"
    priority: 2
    threads: SCHEDULE.threads(SITE_SCHEDULE.inference)
    resources:
        **SITE_SCHEDULE.needs("site_infer"),
        **SITE_SCHEDULE.gpu,
    params:
        settings=of(SITE_PARAMS.infer),
        kind=SITE_SCHEDULE.inference.removeprefix("infer_"),
    message:
        "Embedding the sites in cell {wildcards.cell}, {wildcards.days}"
    script:
        "../scripts/site_infer.py"


rule site_table:
    input:
        embeddings=SITES.embeddings_files(),
        weights=FILES.weights_record(),
    output:
        table="<results>/sites/embeddings.parquet",
        record="<results>/sites/embeddings.json",
        checksums="<results>/sites/checksums/site_table.json",
    log:
        "<logs>/sites/table.log",
    benchmark:
        "<logs>/sites/table.bench.tsv"
    priority: PRODUCT_PRIORITY
    resources:
        mem_mb=lambda wildcards, attempt: SITE_SCHEDULE.table_memory_mb(attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("site_table", attempt),
    params:
        settings=SITE_PARAMS.table(),
    message:
        "Writing the embeddings of the sites"
    script:
        "../scripts/site_table.py"
