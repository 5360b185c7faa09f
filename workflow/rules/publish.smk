# Further products, in the forms of other tools, one rule for each.
# Needs: the embeddings of all blocks of a region and period, or products made from them; for
# the provenance, the lists of scenes and the record of the weights.
# Makes:
#   counts        observation counts as a GeoTIFF
#   vrt           all dimensions for GDAL, over the reference's arrays
#   geotessera    the store of the geotessera client
#   export_tiles  the time series of a block as reference tile folders


rule counts:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.weights_record(),
    output:
        tif=RUN.paths.counts_cog,
    log:
        f"{LOGS}/{{region}}/{{period}}/counts.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/counts.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("counts", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("counts", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(wildcards.region, wildcards.period),
    message:
        "Writing the observation counts of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/observation_counts.py"


rule vrt:
    input:
        **RUN.vrt_inputs(),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.weights_record(),
    output:
        **RUN.vrt_files(),
    log:
        f"{LOGS}/{{region}}/{{period}}/vrt.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/vrt.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("vrt", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("vrt", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(wildcards.region, wildcards.period),
    message:
        "Writing the VRT of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/gdal_vrt.py"


rule geotessera:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.weights_record(),
    output:
        store=directory(RUN.paths.geotessera),
    log:
        f"{LOGS}/{{region}}/{{period}}/geotessera.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/geotessera.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("geotessera", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("geotessera", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(wildcards.region, wildcards.period),
    message:
        "Writing the geotessera store of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/geotessera_store.py"


rule export_tiles:
    input:
        patches=RUN.paths.patches,
    output:
        record=RUN.paths.tiles,
    log:
        f"{LOGS}/{{region}}/{{period}}/export_tiles/{{block}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/export_tiles/{{block}}.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("export_tiles", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("export_tiles", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(wildcards.region, wildcards.period),
    message:
        "Exporting the tiles of {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/export_tiles.py"
