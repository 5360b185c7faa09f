# The workflow itself is in workflow/Snakefile; this file lets `snakemake` be run here.
include: "workflow/Snakefile"
