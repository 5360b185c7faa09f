"""Decide when, where and with which resources each job runs. Nothing here changes a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config.configuration import runs
from ..models.published import PUBLISHED, weights_file
from .assumptions import (
    SMALLEST_ENCODER,
    YEAR_BYTES,
    block_disk_gb,
    fill_gb,
    inference_seconds,
    memory_bytes,
)
from .cpu_gpu_split import gpu_blocks, pattern, shares
from .files import RunFiles
from .in_flight import InFlight
from .measured import STAGES, assumed_dates, measured_seconds, scale
from .paths import ANY_BLOCK
from .resources import NEEDS, inference_minutes, map_minutes, memory_mb, runtime_minutes

INFERENCE = ("infer_cpu", "infer_gpu")

LAST_STEPS = ("infer", "import_embeddings")
"""Prefixes of the rules that make a block's embeddings, unless `fill` does."""


class Schedule:
    """Priority, device and resources of the jobs of one configuration.

    Attributes:
        weights: the weights as named in the configuration; empty if none are used.
        weights_bytes: size of the checkpoint.

    Raises:
        ConfigError, CheckpointError: the weights are neither a file nor a published name.
    """

    def __init__(self, files: RunFiles, one_job: bool = False, cores: int | None = None) -> None:
        """Take the files of a configuration.

        Args:
            files: the files and blocks.
            one_job: this is the process of one job, whose rule is already decided; CPUs and GPUs
                must not be divided again on another machine.
            cores: of this machine, for all jobs of a run together; None if they run elsewhere.
        """
        self._files, self._config, self._cores = files, files.config, cores
        self._one_job = one_job
        self.weights = files.config.weights or ""
        self.weights_bytes = self._size_of_weights()
        # One period of a region after the other, so that its products are complete early. Every
        # block has a rank of its own: see `in_flight`.
        keys = [
            (region, period, block.id)
            for region, period in runs(files.config)
            for block in files.grids[region].blocks
        ]
        self._ranks = {key: number for number, key in enumerate(keys)}
        # A name used in several regions counts once: rules know blocks by their names.
        self._names = sorted({block for _, _, block in keys})
        cpu, gpu = shares(files.config.jobs.cpu_gpu, files.config.model.device)
        self._on_gpu = frozenset(gpu_blocks(self._names, cpu, gpu))
        self._in_flight = InFlight(self.most_in_flight())

    def device(self, block: str) -> str:
        """Return the device that embeds a block: `cpu` or `gpu`."""
        return "gpu" if block in self._on_gpu else "cpu"

    def blocks_on(self, device: str) -> str:
        """Return a regular expression of the names of the blocks that `cpu` or `gpu` embeds."""
        names = [name for name in self._names if self.device(name) == device]
        return ANY_BLOCK if self._one_job or len(names) == len(self._names) else pattern(names)

    def priority(self, stage: str, wildcards: Any) -> int:
        """Return the priority of a job: by its step, then by the rank of its block.

        A later step has a higher priority, so that its inputs can be deleted; blocks that are
        started are finished before others are started, and few are in progress.

        Args:
            stage: one of `STAGES`, or `import` of published embeddings, which is the last step of
                a block or, if its holes are filled, the first.
            wildcards: of the job: region, period and block.
        """
        if stage == "import":
            stage = "download" if self._config.fills else "infer"
        rank = self.rank(wildcards.region, wildcards.period, wildcards.block)
        return self.stage_priority(stage, rank)

    def rank(self, region: str, period: str, block: str) -> int:
        """Return the position of a block in the order of the work, from 0."""
        return self._ranks[region, period, block]

    def stage_priority(self, stage: str, rank: int) -> int:
        """Return the priority of a job by its step and the rank of its block."""
        return (STAGES.index(stage) + 1) * len(self._ranks) - rank

    def dates(self, region: str, period: str) -> dict[str, float]:
        """Return the assumed number of dates of a region and period, by sensor in use."""
        return assumed_dates(self._files, region, period)

    def most_in_flight(self) -> int:
        """Return how many blocks may be in progress by `jobs.max_disk_gb`: at least 1."""
        limit = self._config.jobs.max_disk_gb
        if limit is None or not self._files.all_sensors:
            return len(self._ranks)
        pixels = self._config.grid.block_size**2
        largest = max(block_disk_gb(pixels, self.dates(*run)) for run in runs(self._config))
        largest += fill_gb(pixels) if self._config.fills else 0.0
        return max(1, int(limit / largest))

    @property
    def claim(self) -> int | Callable[[Any], int]:
        """What a first step of a block claims of the resource `in_flight`: a number, or a function
        of its wildcards. A function costs time for every job of a dry run."""
        if self._one_job or self._config.jobs.max_disk_gb is None:
            return 1

        def claim(wildcards: Any) -> int:
            block = (wildcards.region, wildcards.period, wildcards.block)
            return self._in_flight.claim(block, self._files.embeddings_file(*block))

        return claim

    def expect(self, jobs: Iterable[Any]) -> None:
        """Set the jobs of a run, so that blocks are admitted by their priority.

        Args:
            jobs: Snakemake's jobs. Blocks whose embeddings none of them makes (skipped blocks,
                blocks of other workflows) do not count: they would never be finished.
        """
        if self._config.jobs.max_disk_gb is None:
            return
        outputs = {Path(path) for job in jobs for path in job.output}
        blocks = [(block, self._files.embeddings_file(*block)) for block in self._ranks]
        self._in_flight.expect((block, path) for block, path in blocks if path in outputs)

    def memory_mb(self, rule: str, attempt: int) -> int:
        """Return the memory for a job of a rule, in MB."""
        grid = self._config.grid
        weights = self.weights_bytes if rule.startswith("infer") or rule == "weights" else 0
        return memory_mb(
            rule, attempt, grid.block_size, grid.patch_size, weights, self._series_bytes
        )

    @cached_property
    def _series_bytes(self) -> float:
        """Bytes of a pixel in the longest period; at least a year, which tile folders may have."""
        return max([YEAR_BYTES, *(memory_bytes(self.dates(*run)) for run in runs(self._config))])

    def runtime(self, rule: str, attempt: int, threads: int | None = None) -> int:
        """Return the time limit of a job of a rule, in minutes, at most `jobs.max_job_hours`."""
        if rule in INFERENCE:
            minutes = inference_minutes(rule, attempt, self.longest_inference(rule, threads))
            minutes += math.ceil(self._config.jobs.gpu_job_minutes) if rule == "infer_gpu" else 0
        elif rule == "label_map":
            methods = [settings.method for settings in self._config.maps.values()]
            minutes = map_minutes(
                attempt, self._largest_region, methods, threads or self.threads(rule)
            )
        else:
            minutes = runtime_minutes(rule, attempt, self._config.grid.block_size)
        limit = self._config.jobs.max_job_hours
        return minutes if limit is None else min(minutes, int(60 * limit))

    @property
    def _largest_region(self) -> float:
        """Pixels of the product of the largest region, with complete blocks."""
        grid = self._config.grid
        blocks = max(len(region.blocks) for region in self._files.grids.values())
        return blocks * (grid.block_size / grid.downsample_rate) ** 2

    @cached_property
    def parameters(self) -> float:
        """Parameters of the encoders; guessed from the size of an unpublished checkpoint."""
        published = PUBLISHED.get(self.weights)
        return published.parameters if published else max(SMALLEST_ENCODER, self.weights_bytes / 4)

    @cached_property
    def measured(self) -> dict[str, float]:
        """Seconds per pixel and unit of `measured.scale`, by rule, of finished blocks; none in a
        job's process."""
        return {} if self._one_job else measured_seconds(self._files)

    def longest_inference(self, rule: str, threads: int | None = None) -> float:
        """Return the seconds of a whole block of the longest period on one device.

        Args:
            rule: `infer_cpu` or `infer_gpu`.
            threads: of the job; default: as many as `threads` gives.
        """
        pixels = (self._config.grid.block_size / self._config.grid.downsample_rate) ** 2
        if rule in self.measured:
            longest = max(scale(self._files, *run) for run in runs(self._config))
            return self.measured[rule] * longest * self._config.grid.block_size**2
        device = rule.removeprefix("infer_")
        return inference_seconds(
            device, self.parameters, pixels, self._most_dates, threads or self.threads(rule)
        )

    @cached_property
    def _most_dates(self) -> float:
        return max(sum(self.dates(*run).values()) for run in runs(self._config))

    def time_warnings(self) -> list[str]:
        """Return a warning for each device on which a block takes longer than a job may take."""
        limit = self._config.jobs.max_job_hours
        if limit is None or not self._files.all_sensors:
            return []
        texts = []
        for device in ("cpu", "gpu"):
            rule = f"infer_{device}"
            hours = self.longest_inference(rule) / 3600
            if hours > limit and any(self.device(name) == device for name in self._names):
                texts.append(
                    f"a block takes about {hours:,.1f} h in {rule}, more than jobs.max_job_hours "
                    f"({limit:g}): each attempt continues the last one, but there are few "
                    "attempts. Set a smaller grid.block_size, or give the job more threads "
                    "(--set-threads infer_cpu=8) or a GPU."
                )
        return texts

    def threads(self, rule: str) -> int:
        """Return the number of cores for a job of a rule.

        If a run on this machine has fewer blocks to embed than cores, they divide the cores.
        """
        threads = NEEDS[rule].threads
        if rule != "infer_cpu" or self._cores is None:
            return threads
        return max(threads, self._cores // max(1, self._blocks_left))

    @cached_property
    def _blocks_left(self) -> int:
        """Number of blocks that CPUs have not embedded; all of them if none is left."""
        blocks = [key for key in self._ranks if self.device(key[2]) == "cpu"]
        left = [key for key in blocks if not self._files.embeddings_file(*key).exists()]
        return len(left or blocks)

    def block_state(self, region: str, period: str, block: str) -> str:
        """Return `done`, `failed`, or the device that is going to embed the block."""
        if self._files.embeddings_file(region, period, block).exists():
            return "done"
        return "failed" if self._files.failures(region, period, block) else self.device(block)

    @property
    def weights_published(self) -> bool:
        """Whether the weights are downloaded by their published name."""
        return self.weights in PUBLISHED

    def _size_of_weights(self) -> int:
        """Return the bytes of the checkpoint, also before it is downloaded."""
        file = weights_file(self.weights) if self.weights else None
        published = PUBLISHED.get(self.weights)
        return 4 * published.parameters if published else file.stat().st_size if file else 0
