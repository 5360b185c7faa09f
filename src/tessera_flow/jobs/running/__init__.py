"""Run jobs: locks, submission to Slurm, local copies, blocks that a GPU job embeds."""
