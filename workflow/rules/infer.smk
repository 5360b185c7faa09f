# From time series to embeddings, block by block.
# Needs: a block's patches, the record of the weights.
# Makes: embeddings, scales and observation counts of the block.


rule infer:
    input:
        patches=RUN.paths.patches,
        weights=RUN.paths.weights,
    output:
        embeddings=RUN.paths.embeddings,
    log:
        f"{LOGS}/{{region}}/{{period}}/infer/{{block}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/infer/{{block}}.bench.tsv"
    priority: 3
    conda:
        "../../envs/cpu.yaml"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: RUN.infer_memory_mb(attempt),
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        settings=lambda wildcards: RUN.settings_infer(wildcards.region, wildcards.block),
    message:
        "Embedding {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/infer.py"
