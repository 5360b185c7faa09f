# From blocks to products, one rule for each, so that a changed format reruns only its own.
# Needs: the embeddings of all blocks of a region and period; for the provenance, the lists of
# scenes and the record of the weights.
# Makes:
#   stitch_zarr    the Zarr store
#   stitch_arrays  the reference's arrays
#   hole           what stands for a block that failed, where products may have holes
#   holes          the list of blocks left out, where products may have holes
#   preview        three principal components as GeoTIFF and PNG


rule stitch_zarr:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.weights_record(),
    output:
        store=directory(RUN.paths.zarr),
    log:
        f"{LOGS}/{{region}}/{{period}}/stitch_zarr.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/stitch_zarr.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    threads: SCHEDULE.threads("stitch_zarr")
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("stitch_zarr", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("stitch_zarr", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(
            wildcards.region, wildcards.period, "zarr_chunk"
        ),
    message:
        "Writing the Zarr store of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/stitch_zarr.py"


rule stitch_arrays:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.weights_record(),
    output:
        **RUN.array_files(),
    log:
        f"{LOGS}/{{region}}/{{period}}/stitch_arrays.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/stitch_arrays.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("stitch_arrays", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("stitch_arrays", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(wildcards.region, wildcards.period),
    message:
        "Writing the arrays of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/stitch_arrays.py"


rule preview:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.weights_record(),
    output:
        tif=RUN.paths.preview,
        png=report(
            RUN.paths.preview_png,
            caption="../report/preview.rst",
            category="{region}",
            labels={"period": "{period}", "what": "preview"},
        ),
    log:
        f"{LOGS}/{{region}}/{{period}}/preview.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/preview.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("preview", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("preview", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(
            wildcards.region, wildcards.period, "preview_stretch"
        ),
    message:
        "Drawing the preview of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/preview.py"


rule hole:
    input:
        weights=RUN.weights_record(),
    output:
        hole=RUN.paths.skipped,
    log:
        f"{LOGS}/{{region}}/{{period}}/hole/{{block}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/hole/{{block}}.bench.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("hole", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("hole", attempt),
    params:
        settings=lambda wildcards: SETTINGS.hole(**wildcards),
    message:
        "Leaving out {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/hole.py"


rule holes:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
    output:
        record=RUN.paths.skip_list,
    log:
        f"{LOGS}/{{region}}/{{period}}/holes.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/holes.bench.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("hole", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("hole", attempt),
    params:
        holes=lambda wildcards: RUN.holes(**wildcards),
    message:
        "Listing the holes of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/holes.py"
