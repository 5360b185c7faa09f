# What was found in the embeddings, and one page that tells it.
# Needs: the embeddings of all blocks of a region and period, the lists of scenes, the record of
# the weights; the mask, the preview, the list of holes where there are some; the logs and
# benchmark files that are there.
# Makes:
#   checks  values that cannot be, and the seam score
#   report  an HTML page that needs nothing beside it


rule checks:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.weights_record(),
    output:
        checks=RUN.paths.checks,
    log:
        f"{LOGS}/{{region}}/{{period}}/checks.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/checks.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("checks", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("checks", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(
            wildcards.region, wildcards.period, "max_seam", "max_saturated"
        ),
    message:
        "Checking the embeddings of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/quality.py"


rule report:
    input:
        blocks=lambda wildcards: RUN.block_files(**wildcards),
        manifests=lambda wildcards: RUN.manifests(**wildcards),
        weights=RUN.weights_record(),
        checks=RUN.paths.checks,
        preview=RUN.paths.preview_png,
        products=lambda wildcards: RUN.described_files(**wildcards),
        mask=RUN.paths.roi,
        holes=lambda wildcards: RUN.skip_lists(**wildcards),
    output:
        page=report(
            RUN.paths.report,
            caption="../report/page.rst",
            category="{region}",
            labels={"period": "{period}", "what": "report"},
        ),
    log:
        f"{LOGS}/{{region}}/{{period}}/report.log",
    benchmark:
        f"{LOGS}/{{region}}/{{period}}/report.bench.tsv"
    priority: 1000000
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: SCHEDULE.memory_mb("report", attempt),
        runtime=lambda wildcards, attempt: SCHEDULE.runtime("report", attempt),
    params:
        settings=lambda wildcards: SETTINGS.stitch(wildcards.region, wildcards.period),
        products=lambda wildcards: RUN.openable(**wildcards),
    message:
        "Writing the report of {wildcards.region}, {wildcards.period}"
    script:
        "../scripts/html_report.py"
