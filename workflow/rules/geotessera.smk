# Published embeddings as those of each block, in place of ingest.smk and infer.smk.
# Needs: the region's mask, a store that the geotessera client reads.
# Makes:
#   store_tiles        the list of the store's tiles that every block reads
#   import_embeddings  embeddings of a block, from the pixels of these tiles


rule store_tiles:
    output:
        manifest=RUN.paths.store_tiles,
    log:
        f"{LOGS}/{{region}}/{{period}}/store_tiles.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/store_tiles.bench.tsv"
    localrule: "store_tiles" in CONFIG.jobs.local_rules
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("store_tiles", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("store_tiles", attempt),
    params:
        settings=lambda wildcards: SETTINGS.store_tiles(
            wildcards.region, wildcards.period
        ),
    message:
        "Listing the published tiles of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/store_tiles.py"


rule import_embeddings:
    input:
        mask=RUN.paths.roi,
        manifest=RUN.paths.store_tiles,
    output:
        embeddings=RUN.paths.embeddings,
    log:
        f"{LOGS}/{{region}}/{{period}}/import_embeddings/{{block}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/import_embeddings/{{block}}.bench.tsv"
    priority: lambda wildcards: SCHEDULE.priority("infer", wildcards)
    localrule: "import_embeddings" in CONFIG.jobs.local_rules
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb(
            "import_embeddings", attempt
        ),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime(
            "import_embeddings", attempt
        ),
        downloads=1,
    params:
        settings=lambda wildcards: SETTINGS.import_embeddings(
            wildcards.region, wildcards.period, wildcards.block
        ),
    message:
        "Taking the embeddings of {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/import_embeddings.py"
