# Views before and during a run: requested by name, never part of a run.
# Needs: the configuration.
# Makes:
#   lists   the lists of scenes, for a plan that knows them (needs the archive)
#   plan    estimate of jobs, data, time: plan.json, plan.md and a map of each region
#   status  progress and failures, on the terminal


rule lists:
    input:
        FILES.all_manifests(),
        SITES.all_manifests(),
    message:
        "The lists of scenes exist"


rule plan:
    log:
        "<logs>/plan.log",
    localrule: True
    params:
        folder=FILES.estimate_folder,
        limits=lambda wildcards: limits_of_run(),
    message:
        "Planning; see {params.folder}"
    script:
        "../scripts/plan.py"


rule status:
    log:
        "<logs>/status.log",
    localrule: True
    message:
        "Reading the job logs"
    script:
        "../scripts/status.py"
