# From time series to embeddings, block by block.
# Needs: a block's patches, the record of the weights.
# Makes: embeddings, scales and observation counts of the block.
#   infer_cpu, infer_gpu   the same step for the blocks that CPUs and that GPUs embed


rule infer_cpu:
    input:
        patches=RUN.paths.patches,
        weights=RUN.paths.weights,
    output:
        embeddings=RUN.paths.embeddings,
    log:
        f"{LOGS}/{{region}}/{{period}}/infer/{{block}}.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/infer/{{block}}.bench.tsv"
    wildcard_constraints:
        block=SCHEDULE.blocks_on("cpu"),
    priority: lambda wildcards: SCHEDULE.priority("infer", wildcards)
    conda:
        "../../envs/cpu.yaml"
    threads: SCHEDULE.threads("infer_cpu")
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("infer_cpu", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("infer_cpu", attempt),
        in_flight=1,
    params:
        settings=lambda wildcards: SETTINGS.infer(wildcards.region, wildcards.block),
    message:
        "Embedding {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/infer.py"


use rule infer_cpu as infer_gpu with:
    wildcard_constraints:
        block=SCHEDULE.blocks_on("gpu"),
    conda:
        "../../envs/gpu.yaml"
    threads: SCHEDULE.threads("infer_gpu")
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("infer_gpu", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("infer_gpu", attempt),
        in_flight=1,
        gpu=1,
