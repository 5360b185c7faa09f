# From time series to embeddings, block by block.
# Needs: a block's patches, the record of the weights.
# Makes: embeddings, scales and observation counts of the block.
#   infer_cpu, infer_gpu  the same step, for the blocks that CPUs and those that GPUs embed


rule infer_cpu:
    input:
        patches="<work>/{region}/{period}/patches/{block}.zip",
        weights="<work>/weights.json",
    output:
        embeddings=before_fill(
            "<work>/{region}/{period}/computed/{block}.zip",
            "<work>/{region}/{period}/embeddings/{block}.zip",
        ),
    log:
        "<logs>/{region}/{period}/infer/{block}.log",
    benchmark:
        "<logs>/{region}/{period}/infer/{block}.bench.tsv"
    wildcard_constraints:
        block=SCHEDULE.blocks_on("cpu"),
    priority: priority("infer")
    threads: SCHEDULE.threads("infer_cpu")
    resources:
        **needs("infer_cpu", in_flight=1),
    params:
        settings=of(PARAMS.infer),
    message:
        "Embedding {wildcards.region} {wildcards.block}, {wildcards.period}"
    script:
        "../scripts/infer.py"


use rule infer_cpu as infer_gpu with:
    wildcard_constraints:
        block=SCHEDULE.blocks_on("gpu"),
    threads: SCHEDULE.threads("infer_gpu")
    resources:
        **needs("infer_gpu", in_flight=1, gpu=1),
