# Once per run, region or period.
# Needs: the ROI file, the archive's catalog, the checkpoint.
# Makes:
#   roi      the region's mask on its grid
#   items    the list of scenes that every block reads
#   weights  the record of the checkpoint (path, SHA-256, family), downloaded where needed


rule roi:
    # The region's file is no input, because a region is its geometry: the parameters have its
    # fingerprint, and a file that was moved or renamed reruns nothing.
    output:
        mask="<work>/{region}/roi.tif",
    log:
        "<logs>/{region}/roi.log",
    benchmark:
        "<logs>/{region}/roi.bench.tsv"
    resources:
        **needs("roi"),
    params:
        settings=of(PARAMS.roi),
    message:
        "Rasterising region {wildcards.region}"
    script:
        "../scripts/roi.py"


rule items:
    input:
        mask="<work>/{region}/roi.tif",
    output:
        manifest="<work>/{region}/{period}/items/{sensor}.json",
    log:
        "<logs>/{region}/{period}/items/{sensor}.log",
    benchmark:
        "<logs>/{region}/{period}/items/{sensor}.bench.tsv"
    localrule: "items" in CONFIG.jobs.local_rules
    resources:
        **needs("items"),
    params:
        settings=of(PARAMS.items),
    message:
        "Listing {wildcards.sensor} scenes of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/items.py"


rule weights:
    output:
        record="<work>/weights.json",
    log:
        "<logs>/weights.log",
    benchmark:
        "<logs>/weights.bench.tsv"
    priority: WEIGHTS_PRIORITY
    localrule: "weights" in CONFIG.jobs.local_rules
    resources:
        **needs("weights"),
    params:
        settings=PARAMS.weights(),
    message:
        "Checking the model weights"
    script:
        "../scripts/weights.py"
