# The workflow itself is in workflow/Snakefile; this file lets `snakemake` be run here.
include: "workflow/Snakefile"


# A default target is not handed on by `include`.
rule default:
    default_target: True
    input:
        rules.all.input,
    message:
        "All products exist"
