# From blocks to products, one rule for each, so that a changed format reruns only its own.
# Needs: the embeddings of all blocks of a region and period; for the provenance, the lists of
# scenes and the record of the weights.
# Makes:
#   stitch_zarr    the Zarr store
#   stitch_arrays  the reference's arrays
#   preview        three principal components as GeoTIFF and PNG


rule stitch_zarr:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.paths.weights,
    output:
        store=directory(RUN.paths.zarr),
    log:
        f"{LOGS}/{{region}}/{{period}}/stitch_zarr.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/stitch_zarr.bench.tsv"
    priority: 4
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        settings=lambda wildcards: RUN.settings_stitch(
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
        weights=RUN.paths.weights,
    output:
        **RUN.array_files(),
    log:
        f"{LOGS}/{{region}}/{{period}}/stitch_arrays.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/stitch_arrays.bench.tsv"
    priority: 4
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        settings=lambda wildcards: RUN.settings_stitch(
            wildcards.region, wildcards.period
        ),
    message:
        "Writing the arrays of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/stitch_arrays.py"


rule preview:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.paths.weights,
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
    priority: 4
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        settings=lambda wildcards: RUN.settings_stitch(
            wildcards.region, wildcards.period, "preview_stretch"
        ),
    message:
        "Drawing the preview of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/preview.py"
