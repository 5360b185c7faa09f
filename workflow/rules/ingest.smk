# From scenes to the time series of each patch, block by block.
# Needs: the region's mask and the list of scenes.
# Makes:
#   download  daily mosaics of one block, sensor and time slice
#   stack     all dates of one block and sensor, in order
#   retile    the time series of each patch of a block


rule download:
    input:
        **PUBLISHED,
        mask="<work>/{region}/roi.tif",
        manifest="<work>/{region}/{period}/items/{sensor}.json",
    output:
        slice=temporary(
            "slices", "<work>/{region}/{period}/slices/{sensor}/{slice}/{block}.zip"
        ),
    log:
        "<logs>/{region}/{period}/download/{sensor}/{slice}/{block}.log",
    benchmark:
        "<logs>/{region}/{period}/download/{sensor}/{slice}/{block}.bench.tsv"
    priority: priority("download")
    localrule: "download" in CONFIG.jobs.local_rules
    resources:
        **needs("download", downloads=1, in_flight=SCHEDULE.claim),
    params:
        settings=of(PARAMS.download),
    message:
        "Reading {wildcards.sensor} {wildcards.slice} for {wildcards.region} {wildcards.block}"
    script:
        "../scripts/download.py"


rule stack:
    input:
        slices=of(FILES.slice_files),
    output:
        stack=temporary("stack", "<work>/{region}/{period}/stack/{sensor}/{block}.zip"),
    log:
        "<logs>/{region}/{period}/stack/{sensor}/{block}.log",
    benchmark:
        "<logs>/{region}/{period}/stack/{sensor}/{block}.bench.tsv"
    priority: priority("stack")
    group:
        "series"
    resources:
        **needs("stack", in_flight=1),
    params:
        downsample_rate=CONFIG.grid.downsample_rate,
    message:
        "Stacking {wildcards.sensor} of {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/stack.py"


rule retile:
    input:
        unpack(of(FILES.stack_files)),
        **PUBLISHED,
        mask="<work>/{region}/roi.tif",
    output:
        patches=temporary("patches", "<work>/{region}/{period}/patches/{block}.zip"),
    log:
        "<logs>/{region}/{period}/retile/{block}.log",
    benchmark:
        "<logs>/{region}/{period}/retile/{block}.bench.tsv"
    priority: priority("retile")
    group:
        "series"
    resources:
        **needs("retile", in_flight=1),
    params:
        settings=of(PARAMS.retile),
    message:
        "Retiling {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/retile.py"
