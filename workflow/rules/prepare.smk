# Once per run, region and period.
# Needs: the ROI file, the source's catalog, the checkpoint.
# Makes:
#   roi      the region's mask on its grid
#   items    the list of scenes that every block reads
#   weights  the record of the checkpoint (path, SHA-256, family), downloaded where needed


rule roi:
    input:
        roi=lambda wildcards: ancient(CONFIG.regions[wildcards.region].roi),
    output:
        mask=RUN.paths.roi,
    log:
        f"{LOGS}/{{region}}/roi.log",
    benchmark:
        f"{LOGS}/{{region}}/roi.bench.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("roi", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("roi", attempt),
    params:
        settings=lambda wildcards: SETTINGS.roi(wildcards.region),
    message:
        "Drawing the mask of region {wildcards.region}"
    script:
        "../scripts/roi.py"


rule items:
    input:
        mask=RUN.paths.roi,
    output:
        manifest=RUN.paths.items,
    log:
        f"{LOGS}/{{region}}/{{period}}/items/{{sensor}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/items/{{sensor}}.bench.tsv"
    localrule: "items" in CONFIG.jobs.local_rules
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("items", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("items", attempt),
    params:
        settings=lambda wildcards: SETTINGS.items(
            wildcards.region, wildcards.period, wildcards.sensor
        ),
    message:
        "Listing {wildcards.sensor} scenes of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/items.py"


rule weights:
    output:
        record=RUN.paths.weights,
    log:
        f"{LOGS}/weights.log",
    benchmark:
        f"{LOGS}/weights.bench.tsv"
    priority: 2000000  # weights that cannot be used are to be known before scenes are read
    localrule: "weights" in CONFIG.jobs.local_rules
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("weights", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("weights", attempt),
    params:
        settings=SETTINGS.weights(),
    message:
        "Checking the model weights"
    script:
        "../scripts/weights.py"
