# To look, before and during a run; asked for by name, and never part of one.
# Needs: nothing but the configuration.
# Makes:
#   lists   the lists of scenes, for a plan that knows them (needs the archive)
#   plan    what the run will need: plan.json, plan.md and a map of each region
#   status  what is done, what failed and why, on the terminal


rule lists:
    input:
        RUN.all_manifests(),
    message:
        "The lists of scenes are there"


rule plan:
    log:
        f"{LOGS}/plan.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        folder=RUN.plan_folder,
    message:
        "Planning; see {params.folder}"
    script:
        "../scripts/plan.py"


rule status:
    log:
        f"{LOGS}/status.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    message:
        "Looking at what is done"
    script:
        "../scripts/status.py"
