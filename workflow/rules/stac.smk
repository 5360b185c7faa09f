# What describes the products to other tools: SpatioTemporal Asset Catalogs (STAC).
# Needs: the products of a region and period; for the provenance, the lists of scenes and the
# record of the weights.
# Makes:
#   stac_item        the STAC Item of a region and period
#   stac_collection  the STAC Collection of a region


rule stac_item:
    input:
        products=lambda wildcards: RUN.described_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.weights_record(),
    output:
        item=RUN.paths.item,
    log:
        f"{LOGS}/{{region}}/{{period}}/stac_item.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/stac_item.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("stac_item", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("stac_item", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(wildcards.region, wildcards.period),
        products=lambda wildcards: RUN.product_names(**wildcards),
    message:
        "Describing the products of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/stac_item.py"


rule stac_collection:
    input:
        parts=lambda wildcards: RUN.items_of(wildcards.region),
    output:
        collection=RUN.paths.collection,
    log:
        f"{LOGS}/{{region}}/stac_collection.log",
    benchmark:
        f"{LOGS}/{{region}}/stac_collection.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("stac_collection", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("stac_collection", attempt),
    message:
        "Describing the periods of {wildcards.region}"
    script:
        "../scripts/stac_collection.py"
