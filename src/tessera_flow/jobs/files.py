"""Name the files that the jobs of a configuration read and write for each block.

The rules call this module and hold no logic of their own; `product_files` has the products.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from ..atomic import check_folder
from ..config.configuration import Config, runs
from ..dates import Slice, period_slices
from ..region.blocks import load_region_grid
from ..region.grid import Block, RegionGrid
from .journal import JobRecord, job_log_path, read_job_log, unfinished
from .paths import SENSORS, PathPatterns

_ALIKE = timedelta(days=31)
"""Largest difference of the lengths of two periods that are compared."""


class RunFiles:
    """The files of one configuration.

    Attributes:
        config: the configuration.
        paths: patterns of all files.
        grids: the grid and blocks of each region.
        roi_fingerprints: SHA-256 of the geometry of each region.

    Raises:
        RegionError: a region cannot be read or used.
        OutputError: a folder of `paths` cannot be written to.
    """

    def __init__(self, config: Config) -> None:
        """Read the regions' grids, from the cache if it is valid."""
        self.config = config
        for folder in (config.paths.results, config.paths.work, config.paths.logs):
            check_folder(folder)
        self.paths = PathPatterns.below(config.paths.work, config.paths.results)
        loaded = {name: load_region_grid(config, name) for name in config.regions}
        self.grids: dict[str, RegionGrid] = {name: grid for name, (grid, _) in loaded.items()}
        self.roi_fingerprints = {name: value for name, (_, value) in loaded.items()}
        self._blocks = {
            name: {block.id: block for block in grid.blocks} for name, grid in self.grids.items()
        }
        self._skipped: dict[tuple[str, str], dict[str, str]] = {}
        self._for_run: dict[tuple[str, str], Config] = {}

    def for_run(self, region: str, period: str) -> Config:
        """Return the configuration of one region and period (`Config.for_run`)."""
        if (region, period) not in self._for_run:
            self._for_run[region, period] = self.config.for_run(region, period)
        return self._for_run[region, period]

    def sensors(self, region: str, period: str) -> list[str]:
        """Return the sensors in use; none if all embeddings are published ones."""
        if self.config.source == "geotessera" and not self.config.fills:
            return []
        config = self.for_run(region, period)
        return [sensor for sensor in SENSORS if getattr(config, sensor).enabled]

    @property
    def all_sensors(self) -> list[str]:
        """The sensors in use in any region and period."""
        used = {sensor for run in runs(self.config) for sensor in self.sensors(*run)}
        return [sensor for sensor in SENSORS if sensor in used]

    @property
    def estimate_folder(self) -> str:
        """The folder in which `snakemake plan` writes."""
        return f"{self.config.paths.results}/plan"

    def time_slices(self, period: str) -> list[Slice]:
        """Return the time slices of a period, one for each download job of a block."""
        dates = self.config.periods[period]
        return period_slices(dates.start, dates.end, self.config.download.slice_months)

    def block(self, region: str, block: str) -> Block:
        """Return a block by its name."""
        return self._blocks[region][block]

    def jobs_of_block(self, region: str, period: str) -> dict[str, int]:
        """Return the number of jobs of a block by step; see `progress.STEPS`."""
        if self.config.source == "tiles":
            return {"import": 1, "infer": 1}
        if not self.config.reads_scenes:
            return {"import": 1}
        sensors, slices = len(self.sensors(region, period)), len(self.time_slices(period))
        jobs = {"download": sensors * slices, "stack": sensors, "retile": 1, "infer": 1}
        return {"import": 1, **jobs, "fill": 1} if self.config.fills else jobs

    def infer_log(self, region: str, period: str, block: str) -> Path:
        """Return the log file of the inference of a block, as in rules/infer.smk."""
        return Path(self.config.paths.logs, region, period, "infer", f"{block}.log")

    def weights_record(self) -> str | list[str]:
        """Return the record of the weights; nothing if all embeddings are published ones."""
        return [] if self.config.weights is None else self.paths.weights

    def manifests(self, region: str, period: str) -> list[str]:
        """Return the list of a store's tiles, then the lists of scenes of the enabled sensors, as
        far as they are used; nothing for tile folders."""
        if self.config.source == "tiles":
            return []
        published = self.config.source == "geotessera"
        store = [self.paths.store_tiles.format(region=region, period=period)] if published else []
        return store + [
            self.paths.items.format(region=region, period=period, sensor=sensor)
            for sensor in self.sensors(region, period)
        ]

    def all_manifests(self) -> list[str]:
        """Return `manifests` of all regions and periods."""
        return [path for run in runs(self.config) for path in self.manifests(*run)]

    def slice_files(self, region: str, period: str, sensor: str, block: str) -> list[str]:
        """Return the slices that a stack joins, in order of time."""
        return [
            self.paths.slices.format(
                region=region, period=period, sensor=sensor, slice=time_slice.name, block=block
            )
            for time_slice in self.time_slices(period)
        ]

    def stack_files(self, region: str, period: str, block: str) -> dict[str, str]:
        """Return the stacks that retiling reads, by sensor."""
        return {
            sensor: self.paths.stack.format(
                region=region, period=period, sensor=sensor, block=block
            )
            for sensor in self.sensors(region, period)
        }

    def embeddings_file(self, region: str, period: str, block: str) -> Path:
        """Return the embeddings file of one block."""
        return Path(self.paths.embeddings.format(region=region, period=period, block=block))

    def block_files(self, region: str, period: str) -> list[str]:
        """Return the embeddings files of all blocks, in the order of the region's grid; for a
        skipped block the file that replaces it."""
        skipped = self.skipped_blocks(region, period)
        return [
            (self.paths.skipped if block.id in skipped else self.paths.embeddings).format(
                region=region, period=period, block=block.id
            )
            for block in self.grids[region].blocks
        ]

    def reference_period(self, region: str) -> str:
        """Return the period of a region to which the components of all its previews are fitted:
        the first in the configuration, so that adding one at the end changes no colours."""
        return next(period for name, period in runs(self.config) if name == region)

    def reference_blocks(self, region: str, period: str) -> list[str]:
        """Return the block files of the reference period; none for this period itself."""
        reference = self.reference_period(region)
        return [] if period == reference else self.block_files(region, reference)

    def previous_period(self, region: str, period: str) -> str | None:
        """Return the period of a region with which another is compared; None if there is none.

        It has ended before the other starts. Of these, the last one that has the same first and
        last day of the year; without one, the last one that is at most a month longer or shorter.
        """
        days = self.config.periods
        this = days[period]
        season = (this.start.month, this.start.day, this.end.month, this.end.day)
        length = this.end - this.start
        earlier = sorted(
            (days[name].end, name)
            for other, name in runs(self.config)
            if other == region and days[name].end < this.start
        )
        same, similar = [], []
        for _, name in earlier:
            start, end = days[name].start, days[name].end
            if (start.month, start.day, end.month, end.day) == season:
                same.append(name)
            elif abs((end - start) - length) <= _ALIKE:
                similar.append(name)
        return next(reversed(same or similar), None)

    def previous_blocks(self, region: str, period: str) -> list[str]:
        """Return the block files of the previous period."""
        previous = self.previous_period(region, period)
        return [] if previous is None else self.block_files(region, previous)

    def tile_blocks(self, region: str, period: str) -> list[str]:
        """Return `block_files` with the facts about tile folders; none for other sources."""
        return self.block_files(region, period) if self.config.source == "tiles" else []

    def skip_lists(self, region: str, period: str) -> list[str]:
        """Return the list of skipped blocks of a region and period, if there are any."""
        skipped = self.skipped_blocks(region, period)
        return [self.paths.skip_list.format(region=region, period=period)] if skipped else []

    def job_log_file(self, *names: str) -> Path:
        """Return the job log of a block (region, period, block), or of a region's, a period's or
        the run's own jobs."""
        return job_log_path(self.config.paths.work, *names)

    def failures(self, *names: str, run_ended: bool = False) -> list[JobRecord]:
        """Return the jobs in a job log that failed, were stopped or were killed; `run_ended` as
        in `journal.unfinished`."""
        return unfinished(read_job_log(self.job_log_file(*names)), run_ended)

    def skipped_blocks(self, region: str, period: str) -> dict[str, str]:
        """Return the blocks that products are written without, with the reason of each.

        These are the blocks that failed in an earlier run, if `jobs.on_failed_block` is `skip`.
        A block during which a run was interrupted, or a job refused files of other settings, has
        not failed.
        """
        if self.config.jobs.on_failed_block == "fail":
            return {}
        if (region, period) not in self._skipped:
            # Computed before this run starts; only one run at a time works on a folder.
            failed = {
                block.id: [
                    record
                    for record in self.failures(region, period, block.id, run_ended=True)
                    if record.state not in ("interrupted", "refused")
                ]
                for block in self.grids[region].blocks
                if not self.embeddings_file(region, period, block.id).exists()
            }
            self._skipped[region, period] = {
                name: records[-1].why().strip().splitlines()[-1]
                for name, records in failed.items()
                if records
            }
        return self._skipped[region, period]
