# From reference tile folders to the patches of each block, in place of ingest.smk.
# Needs: the region's mask, the tile folders (tiles.location).
# Makes: the time series of each patch of a block.


rule import_tiles:
    input:
        mask=RUN.paths.roi,
    output:
        patches=temporary("patches", RUN.paths.patches),
    log:
        f"{LOGS}/{{region}}/{{period}}/import_tiles/{{block}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/import_tiles/{{block}}.bench.tsv"
    priority: lambda wildcards: SCHEDULE.priority("retile", wildcards)
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("import_tiles", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("import_tiles", attempt),
    params:
        settings=lambda wildcards: SETTINGS.import_tiles(
            wildcards.region, wildcards.period, wildcards.block
        ),
    message:
        "Reading the tiles of {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/import_tiles.py"
