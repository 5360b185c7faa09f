# From scenes to the time series of each patch, block by block.
# Needs: the region's mask and the list of scenes.
# Makes:
#   download  daily mosaics of one block, sensor and slice of time
#   stack     all dates of one block and sensor, in order
#   retile    the time series of each patch of a block


rule download:
    input:
        mask=RUN.paths.roi,
        manifest=RUN.paths.items,
    output:
        slice=temporary("slices", RUN.paths.slices),
    log:
        f"{LOGS}/{{region}}/{{period}}/download/{{sensor}}/{{slice}}/{{block}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/download/{{sensor}}/{{slice}}/{{block}}.bench.tsv"
    priority: lambda wildcards: SCHEDULE.priority("download", wildcards)
    localrule: "download" in CONFIG.jobs.local_rules
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("download", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("download", attempt),
        downloads=1,
        in_flight=SCHEDULE.claim,
    params:
        settings=lambda wildcards: SETTINGS.download(
            wildcards.region, wildcards.sensor, wildcards.block
        ),
    message:
        "Reading {wildcards.sensor} {wildcards.slice} for {wildcards.region} {wildcards.block}"
    script:
        "../scripts/download.py"


rule stack:
    input:
        slices=lambda wildcards: RUN.slice_files(**wildcards),
    output:
        stack=temporary("stack", RUN.paths.stack),
    log:
        f"{LOGS}/{{region}}/{{period}}/stack/{{sensor}}/{{block}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/stack/{{sensor}}/{{block}}.bench.tsv"
    priority: lambda wildcards: SCHEDULE.priority("stack", wildcards)
    group:
        "series"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("stack", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("stack", attempt),
        in_flight=1,
    params:
        downsample_rate=CONFIG.grid.downsample_rate,
    message:
        "Stacking {wildcards.sensor} of {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/stack.py"


rule retile:
    input:
        unpack(lambda wildcards: RUN.stack_files(**wildcards)),
        mask=RUN.paths.roi,
    output:
        patches=temporary("patches", RUN.paths.patches),
    log:
        f"{LOGS}/{{region}}/{{period}}/retile/{{block}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/retile/{{block}}.bench.tsv"
    priority: lambda wildcards: SCHEDULE.priority("retile", wildcards)
    group:
        "series"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("retile", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("retile", attempt),
        in_flight=1,
    params:
        settings=lambda wildcards: SETTINGS.retile(wildcards.region, wildcards.block),
    message:
        "Retiling {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/retile.py"
