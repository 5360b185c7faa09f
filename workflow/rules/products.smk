# From blocks to products, one rule for each, so that a changed format reruns only its own.
# Needs: the embeddings of all blocks of a region and period; for the provenance, the lists of
# scenes and the record of the weights.
# Makes:
#   stitch_zarr    the Zarr store
#   stitch_arrays  the reference's arrays
#   preview        three principal components as GeoTIFF and PNG


rule stitch_zarr:
    message:
        "Writing the Zarr store of {wildcards.region}, {wildcards.period}"
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
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        settings=lambda wildcards: RUN.settings_stitch(
            wildcards.region, wildcards.period, "zarr_chunk"
        ),
    conda:
        "../../envs/cpu.yaml"
    script:
        "../scripts/stitch_zarr.py"


rule stitch_arrays:
    message:
        "Writing the arrays of {wildcards.region}, {wildcards.period}"
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
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        settings=lambda wildcards: RUN.settings_stitch(wildcards.region, wildcards.period),
    conda:
        "../../envs/cpu.yaml"
    script:
        "../scripts/stitch_arrays.py"


rule preview:
    message:
        "Drawing the preview of {wildcards.region}, {wildcards.period}"
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.paths.weights,
    output:
        tif=RUN.paths.preview,
        png=RUN.paths.preview_png,
    log:
        f"{LOGS}/{{region}}/{{period}}/preview.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/preview.bench.tsv"
    priority: 4
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        settings=lambda wildcards: RUN.settings_stitch(
            wildcards.region, wildcards.period, "preview_stretch"
        ),
    conda:
        "../../envs/cpu.yaml"
    script:
        "../scripts/preview.py"
