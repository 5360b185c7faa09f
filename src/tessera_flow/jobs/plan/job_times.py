"""Estimate the seconds of each job: from earlier jobs where there are any, else from assumptions.

The seconds are those of the work, without the overhead of a job (`simulate.Limits`).
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import assumptions
from ..files import RunFiles
from ..measured import measured_products
from ..schedule import Schedule
from .simulate import Job, Limits

YEAR_DAYS = 365.25


class JobTimes:
    """Seconds of the jobs of a run.

    Attributes:
        calibrated: rules whose times were measured on earlier jobs.
    """

    def __init__(self, files: RunFiles, schedule: Schedule, limits: Limits) -> None:
        """Take the files of the run, whose job logs are read."""
        self._files, self._schedule, self._limits = files, schedule, limits
        self._blocks = schedule.measured
        self._others = measured_products(files)
        self.calibrated = {*self._blocks, *(rule for _, rule in self._others)}

    def threads(self, rule: str) -> int:
        """Return the cores of a job, at most those of this machine."""
        threads = self._limits.threads.get(rule, self._schedule.threads(rule))
        return threads if self._limits.cores is None else min(threads, self._limits.cores)

    def of_block(
        self,
        stage: str,
        pixels: float,
        dates: Mapping[str, float],
        of: Mapping[str, float] | None = None,
        as_rule: str | None = None,
    ) -> float:
        """Return the seconds of all jobs of a step of a block together.

        Args:
            stage: download, stack or retile.
            pixels: of the block.
            dates: of the sensors of these jobs.
            of: of all sensors, if these jobs are one sensor's share of the step.
            as_rule: the rule, if it is not named like the step.
        """
        rate = self._blocks.get(as_rule or stage)
        if rate is not None:
            share = 1.0
            if of is not None:
                # Bytes decide for downloads; dates for the others.
                weigh = assumptions.read_gb if stage == "download" else assumptions.total_dates
                share = weigh(1.0, dates) / (weigh(1.0, of) or 1.0)
            assumed = sum((of or dates).values())
            return rate * pixels * assumed * share
        if stage == "download":
            return assumptions.read_gb(pixels, dates) * 1e9 / assumptions.DOWNLOAD_BYTES_PER_SECOND
        second = assumptions.STACK_SECONDS if stage == "stack" else assumptions.RETILE_SECONDS
        return second * pixels / 1e6 * sum(dates.values())

    def inference(
        self, rule: str, pixels: float, inside: float, dates: Mapping[str, float]
    ) -> float:
        """Return the seconds of the inference of a block.

        Args:
            rule: `infer_cpu` or `infer_gpu`.
            pixels: of the block.
            inside: of them, those of the region.
            dates: by sensor.
        """
        if rule in self._blocks:
            return self._blocks[rule] * pixels * sum(dates.values())
        products = inside / self._files.config.grid.downsample_rate**2
        return assumptions.inside_seconds(
            rule.removeprefix("infer_"), self._schedule.parameters, products, dates,
            self.threads(rule),
        )  # fmt: skip

    def imported(self, pixels: float, gb: float) -> float:
        """Return the seconds to import the published embeddings of a block."""
        if "import_embeddings" in self._blocks:
            return self._blocks["import_embeddings"] * pixels
        download = gb * assumptions.GB / assumptions.DOWNLOAD_BYTES_PER_SECOND
        return assumptions.IMPORT_SECONDS * pixels / 1e6 + download

    def of_region(self, rule: str, region: str, pixels: float, dates: float = 1.0) -> float:
        """Return the seconds of a job of a region or of one of its products."""
        if (region, rule) in self._others:
            return self._others[region, rule]
        if rule == "export_tiles":
            return assumptions.EXPORT_SECONDS * pixels / 1e6 * dates
        return 1.0 + assumptions.PRODUCT_SECONDS[rule] * pixels / 1e6

    def of_list(self, rule: str, region: str, period: str) -> float:
        """Return the seconds of listing scenes or tiles."""
        if (region, rule) in self._others:
            return self._others[region, rule]
        days = self._files.config.periods[period]
        return assumptions.LIST_SECONDS * ((days.end - days.start).days + 1) / YEAR_DAYS

    def weights(self) -> float:
        """Return the seconds to download and check the weights."""
        download = self._schedule.weights_bytes / assumptions.DOWNLOAD_BYTES_PER_SECOND
        published = self._schedule.weights_published
        return assumptions.WEIGHTS_SECONDS + (download if published else 0.0)

    def spread(self, job: Job) -> tuple[float, float]:
        """Return the range of the time of a job, as factors of its estimate."""
        if job.rule in self.calibrated:
            return assumptions.MEASURED_SPREAD
        return assumptions.SPREAD.get(job.rule, assumptions.OTHER_SPREAD)
