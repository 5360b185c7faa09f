"""The keys of the sections that concern how and where a run works, not what it computes."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from .messages import expected
from .types import PathText, Section, Shares, key


class Jobs(Section):
    """Distribution of the work. No key of this section changes an embedding."""

    cpu_gpu: Shares = key(
        "auto",
        "Ratio of blocks embedded on CPUs and on GPUs, such as [1, 4]. `[0, 1]`: all blocks on "
        "GPUs. The assignment follows the order of the blocks and is reproducible. `auto`: "
        "according to `model.device`; if that is `auto` as well, GPUs if the machine that runs "
        "Snakemake has one. On a cluster whose login node has no GPU, set the ratio explicitly.",
    )
    on_missing_gpu: Literal["fail", "cpu"] = key(
        "fail",
        "Action if a GPU job finds no GPU. `fail`: the job fails. `cpu`: it runs on the CPU.",
    )
    gpu_job_minutes: float = key(
        15,
        "Time in which a GPU job embeds more than its own block: it continues with blocks that "
        "wait for a GPU, with the model it has, so that starting PyTorch, the GPU and the model is "
        "paid once. 0: every job starts its own.",
        "min",
        ge=0,
    )
    max_disk_gb: float | None = key(
        None,
        "Maximum disk space for intermediate files. Limits the number of blocks processed at the "
        "same time; at least one block is always processed. Default: no limit.",
        "GB",
        gt=0,
    )
    concurrent_jobs: int | None = key(
        None,
        "Number of jobs on a cluster that a plan without a profile assumes. Default: a plan has "
        "the limits of its own command, `--cores` or `--profile`.",
        ge=1,
    )
    max_job_hours: float | None = key(
        None,
        "Longest time that a job requests, such as the limit of a cluster's partition. Inference "
        "requests twice its estimated time, which follows from the model, the pixels, the dates "
        "and the threads, or from earlier blocks; with a limit, a job that is stopped at its end "
        "is continued by the next attempt. Default: no limit.",
        "h",
        gt=0,
    )
    local_rules: list[
        Literal[
            "items",
            "weights",
            "download",
            "store_tiles",
            "import_embeddings",
            "site_items",
            "site_series",
        ]
    ] = key(
        [],
        "Local rules. They run on the machine that runs Snakemake, for clusters "
        "whose compute nodes have no internet access and that have no partition for data transfer.",
    )
    scratch: str | None = key(
        None,
        "Folder on a local disk of the node; jobs copy large inputs there first. Environment "
        "variables such as `$TMPDIR` are expanded on the node. Default: inputs are read in place.",
        min_length=1,
    )
    on_failed_block: Literal["fail", "skip"] = key(
        "fail",
        "Action for blocks that failed in an earlier run. `fail`: compute them again; products are "
        "written only if all blocks succeed. `skip`: write the products without embeddings in "
        "these blocks and list them in `results/<region>/<period>/skipped_blocks.json`.",
    )


class Paths(Section):
    """Output folders, relative to the working directory."""

    results: PathText = key("results", "Folder for products.", min_length=1)
    work: PathText = key(
        "work", "Folder for intermediate files; may be on a scratch file system.", min_length=1
    )
    logs: PathText = key("logs", "Folder for log and benchmark files.", min_length=1)
    keep: list[Literal["slices", "stack", "patches"]] = key(
        [],
        "Intermediate files to keep. All others are deleted when no job needs them any more. Keep "
        "`patches` to compare models or settings without downloading the scenes again; kept ones "
        "also have the values under clouds.",
    )

    @field_validator("results", "work", "logs", mode="after")
    @classmethod
    def _no_wildcards(cls, value: str) -> str:
        if "{" in value or "}" in value:
            raise expected(
                "a path without braces, because Snakemake reads braces as wildcards (a folder for "
                "each region and period is created in it)"
            )
        return value
