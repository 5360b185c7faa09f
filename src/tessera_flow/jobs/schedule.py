"""When and where each job runs, and with how much memory, time, cores and disk.

Nothing here changes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..config.configuration import runs
from ..models.published import PUBLISHED, weights_file
from .assumptions import block_disk_gb, dates
from .cpu_gpu_split import gpu_blocks, pattern, shares
from .files import RunFiles
from .in_flight import Admission
from .paths import ANY_BLOCK
from .resources import NEEDS, memory_mb, runtime_minutes

STAGES = ("download", "stack", "retile", "infer")
"""Steps of a block, first to last: a later one goes first, so that its inputs can be deleted."""

LAST_STEPS = ("infer", "import_embeddings")
"""What the rules begin with that make a block's embeddings."""


class Schedule:
    """The order, the place and the needs of the jobs of one configuration.

    Attributes:
        weights: the weights as the configuration names them; empty where none are used.
        weights_bytes: size of the checkpoint.

    Raises:
        ConfigError, CheckpointError: the weights are neither a file nor a published name.
    """

    def __init__(self, layout: RunFiles, one_job: bool = False) -> None:
        """Take the files of a configuration.

        Args:
            layout: the files and blocks.
            one_job: this is the process of one job, which was told which rule it is; the
                division between CPUs and GPUs is not to be made again on another machine.
        """
        self._layout, self._config = layout, layout.config
        self._one_job = one_job
        self.weights = layout.config.weights or ""
        self.weights_bytes = self._size_of_weights()
        # One period of a region after the other, so that its products are there first. No two
        # turns are alike: see `admission`.
        keys = [
            (region, period, block.id)
            for region, period in runs(layout.config)
            for block in layout.grids[region].blocks
        ]
        self._turns = {key: number for number, key in enumerate(keys)}
        # A name that is in several regions stands once: rules know blocks by their names.
        self._names = sorted({block for _, _, block in keys})
        cpu, gpu = shares(layout.config.jobs.cpu_gpu, layout.config.model.device)
        self._on_gpu = frozenset(gpu_blocks(self._names, cpu, gpu))
        self._admission = Admission(self.most_in_flight())

    def kind(self, block: str) -> str:
        """Whether `cpu` or `gpu` embeds a block."""
        return "gpu" if block in self._on_gpu else "cpu"

    def blocks_on(self, kind: str) -> str:
        """Regular expression of the names of the blocks that `cpu` or `gpu` embeds."""
        chosen = [name for name in self._names if self.kind(name) == kind]
        everything = self._one_job or len(chosen) == len(self._names)
        return ANY_BLOCK if everything else pattern(chosen)

    def priority(self, stage: str, wildcards: Any) -> int:
        """What a job goes before others by: its step, and the place of its block.

        So a block that is begun is finished before others are, and few are in flight.

        Args:
            stage: one of `STAGES`.
            wildcards: of the job: region, period and block.
        """
        turn = self._turns[wildcards.region, wildcards.period, wildcards.block]
        return (STAGES.index(stage) + 1) * len(self._turns) - turn

    def dates(self, period: str) -> dict[str, float]:
        """How many dates a period is assumed to have, by sensor in use."""
        chosen = self._config.periods[period]
        return {
            name: dates(name, (chosen.end - chosen.start).days + 1) for name in self._layout.sensors
        }

    def most_in_flight(self) -> int:
        """How many blocks may be in flight, by `jobs.max_disk_gb`: at least 1."""
        limit = self._config.jobs.max_disk_gb
        if limit is None or not self._layout.sensors:
            return len(self._turns)
        pixels = self._config.grid.block_size**2
        largest = max(block_disk_gb(pixels, self.dates(name)) for name in self._config.periods)
        return max(1, int(limit / largest))

    @property
    def claim(self) -> int | Callable[[Any], int]:
        """What a download of a block claims of the disk: a number, or a function of its
        wildcards; see `admission`. A function costs time for every job of a dry run."""
        if self._one_job or self._config.jobs.max_disk_gb is None:
            return 1

        def claim(wildcards: Any) -> int:
            block = (wildcards.region, wildcards.period, wildcards.block)
            return self._admission.claim(block, self._layout.embeddings_file(*block))

        return claim

    def expect(self, jobs: Iterable[Any]) -> None:
        """Take the jobs that a run will do, so that blocks are admitted by their priority.

        Args:
            jobs: Snakemake's jobs. Blocks of which they do not make the embeddings (holes, blocks
                of other workflows) do not count: those would never be done.
        """
        if self._config.jobs.max_disk_gb is None:
            return
        made = {Path(path) for job in jobs for path in job.output}
        blocks = [(block, self._layout.embeddings_file(*block)) for block in self._turns]
        self._admission.expect((block, path) for block, path in blocks if path in made)

    def memory_mb(self, rule: str, attempt: int) -> int:
        """Memory for a job of a rule, in MB."""
        grid = self._config.grid
        weights = self.weights_bytes if rule.startswith("infer") or rule == "weights" else 0
        return memory_mb(rule, attempt, grid.block_size, grid.patch_size, weights)

    def runtime(self, rule: str, attempt: int) -> int:
        """Time for a job of a rule, in minutes."""
        return runtime_minutes(rule, attempt, self._config.grid.block_size)

    def threads(self, rule: str) -> int:
        """Cores for a job of a rule."""
        return NEEDS[rule].threads

    def block_state(self, region: str, period: str, block: str) -> str:
        """`done`, `failed`, or what is to embed it: `cpu` or `gpu`."""
        if self._layout.embeddings_file(region, period, block).exists():
            return "done"
        return "failed" if self._layout.failures(region, period, block) else self.kind(block)

    def _size_of_weights(self) -> int:
        """Bytes of the checkpoint, before it is downloaded as well."""
        file = weights_file(self.weights) if self.weights else None
        published = PUBLISHED.get(self.weights)
        return 4 * published.parameters if published else file.stat().st_size if file else 0
