"""Name the files of the cells of sites, the parameters of their jobs, and their resources.

A cell and period is to a table of sites what a block is to a region. `days` is the period,
`<first day>_<last day>`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ...config.configuration import SITES, Config
from ...config.fingerprint import sites_hash
from ...dates import Slice, period_slices
from ...errors import Refused
from ...input_files import MADE_FROM
from ...models.weights_record import read_weights_record
from ...products.checksums import FOLDER
from ..assumptions import dates_in, inference_seconds, memory_bytes
from ..block_attributes import read_attributes
from ..cpu_gpu_split import shares
from ..files import RunFiles
from ..journal import JobRecord
from ..made_from import settings_hash
from ..params import MODEL_KEYS, JobParams
from ..paths import SENSORS
from ..resources import inference_minutes, memory_mb, runtime_minutes
from ..schedule import Schedule
from .plan import SitePlan, SiteUnit, load_site_plan

READ_MINUTES_PER_SITE = 0.5
"""Time to request for a site: reading the blocks of the scenes' files around it for a year."""

MOST_READ_SITES = 500
"""Sites of a cell with more do not take longer: they share the blocks of the files."""


class SiteFiles:
    """The files and jobs of the table of sites of a configuration.

    Attributes:
        plan: the cells and periods; None without a table.
        units: by period and cell.

    Raises:
        RegionError: the table cannot be read or used.
        OutputError: the cached plan cannot be written.
    """

    def __init__(self, files: RunFiles) -> None:
        """Read the plan of the table, from the cache if it is valid."""
        self._files, self._config, self._paths = files, files.config, files.paths
        self.plan: SitePlan | None = None
        if files.config.sites.table is not None:
            self.plan = load_site_plan(files.config)
        self.units: dict[tuple[str, str], SiteUnit] = {
            (unit.period, unit.cell): unit for unit in (self.plan.units if self.plan else ())
        }

    @property
    def sensors(self) -> list[str]:
        """The sensors in use."""
        return [sensor for sensor in SENSORS if getattr(self._config, sensor).enabled]

    def products(self) -> list[str]:
        """Return the product files; none without a table."""
        if self.plan is None:
            return []
        files = [self._paths.sites, self._paths.sites_record, self._paths.sites_checksums]
        if self.has_stac:
            files += [
                self._paths.sites_item,
                self._paths.sites_collection,
                self._paths.sites_stac_checksums,
            ]
        return files

    @property
    def has_stac(self) -> bool:
        """Whether STAC documents of the table are made."""
        return "stac" in self._config.products.formats

    def records(self) -> dict[str, str]:
        """Return the records of checksums of the product files, by rule."""
        records = [path for path in self.products() if Path(path).parent.name == FOLDER]
        return {Path(path).stem: path for path in records}

    def manifests(self, days: str, cell: str) -> dict[str, str]:
        """Return the lists of scenes of a cell and period, by sensor."""
        return {
            sensor: self._paths.site_items.format(days=days, cell=cell, sensor=sensor)
            for sensor in self.sensors
        }

    def all_manifests(self) -> list[str]:
        """Return the lists of scenes of all cells and periods."""
        return [path for unit in self.units for path in self.manifests(*unit).values()]

    def embeddings_file(self, days: str, cell: str) -> Path:
        """Return the embeddings file of a cell and period."""
        return Path(self._paths.site_embeddings.format(days=days, cell=cell))

    def embeddings_files(self) -> list[str]:
        """Return the embeddings files of all cells and periods that are not skipped."""
        skipped = self.skipped
        return [str(self.embeddings_file(*unit)) for unit in self.units if unit not in skipped]

    def failures(self, days: str, cell: str, run_ended: bool = False) -> list[JobRecord]:
        """Return the jobs of a cell that failed, were stopped or were killed."""
        return self._files.failures(SITES, days, cell, run_ended=run_ended)

    @cached_property
    def skipped(self) -> dict[tuple[str, str], str]:
        """The cells that failed in an earlier run, with the reason, if `jobs.on_failed_block` is
        `skip`; see `RunFiles.skipped_blocks`."""
        if self._config.jobs.on_failed_block == "fail":
            return {}
        found = {}
        for unit in self.units:
            if self.embeddings_file(*unit).exists():
                continue
            records = [
                record
                for record in self.failures(*unit, run_ended=True)
                if record.state not in ("interrupted", "refused")
            ]
            if records:
                found[unit] = records[-1].why().strip().splitlines()[-1]
        return found

    def time_slices(self, days: str) -> list[Slice]:
        """Return the slices of a period, which a repeated job need not read again."""
        period = Slice.from_name(days)
        return period_slices(period.start, period.end, self._config.download.slice_months)

    def progress_text(self) -> str:
        """Return how many cells have embeddings; empty without a table."""
        if self.plan is None:
            return ""
        done = sum(self.embeddings_file(*unit).exists() for unit in self.units)
        text = f"{done} of {len(self.units)} cells and periods of sites have embeddings."
        if self.plan.unplaced:
            text += f" {self.plan.unplaced} of {self.plan.rows} sites have no place on a grid."
        return text


class SiteParams:
    """The parameters that decide the result of the jobs of sites."""

    def __init__(self, files: RunFiles, sites: SiteFiles, params: JobParams) -> None:
        """Take the files of a run, its sites and the parameters of other jobs."""
        self._config, self._sites, self._params = files.config, sites, params

    def items(self, days: str, sensor: str) -> dict[str, Any]:
        """Return the sensor's settings, the period and the grid."""
        period = Slice.from_name(days)
        return {
            **self._params.search(self._config, sensor),
            "period": {"start": period.start.isoformat(), "end": period.end.isoformat()},
            "resolution": self._config.grid.resolution,
        }

    def series(self, days: str, cell: str) -> dict[str, Any]:
        """Return the hash of the pixels, and how scenes are read."""
        source = {"provider", "item_format"}
        return {
            "pixels": self._sites.units[days, cell].digest,
            "size": self._config.sites.size,
            "resolution": self._config.grid.resolution,
            "patch_size": self._config.grid.patch_size,
            "slices": [part.name for part in self._sites.time_slices(days)],
            "preprocessing": self._config.preprocessing,
            "sources": {
                sensor: getattr(self._config, sensor).model_dump(mode="json", include=source)
                for sensor in self._sites.sensors
            },
        }

    def infer(self, days: str) -> dict[str, Any]:
        """Return the model's settings and the period."""
        settings = self._config.model.model_dump(mode="json", include=MODEL_KEYS)
        period = Slice.from_name(days)
        return settings | {"period": [period.start.isoformat(), period.end.isoformat()]}

    def table(self) -> dict[str, Any]:
        """Return the hash of the table and of all settings, and what is skipped."""
        return {
            "table": self._sites.plan.sha256 if self._sites.plan else None,
            "configuration": sites_hash(self._config),
            "skipped": sorted([*unit, why] for unit, why in self._sites.skipped.items()),
            "units": settings_hash([[*u, self._sites.units[u].digest] for u in self._sites.units]),
        }

    def stac(self) -> dict[str, Any]:
        """Return what the STAC documents depend on, beside the table."""
        return {**self.table(), "license": self._config.products.license}

    def of_record(self, rule: str) -> dict[str, Any]:
        """Return the settings that the record of checksums of a rule states."""
        return self.stac() if rule == "site_stac" else self.table()

    def record(self, rule: str, days: str, cell: str, weights: str | None) -> dict[str, str]:
        """Return what the block file of a rule and cell is made from (`jobs.made_from`).

        Args:
            rule: `site_series` or `site_infer`.
            days, cell: of the job.
            weights: the record of the weights, for `site_infer`; None: they are not compared.
        """
        lists = self._sites.manifests(days, cell)
        record = {"series": settings_hash(self.series(days, cell))}
        for sensor, path in lists.items():
            if Path(path).exists():
                record[f"items {sensor}"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if rule == "site_infer":
            record["infer"] = settings_hash(self.infer(days))
            if weights is not None:
                record["weights"] = read_weights_record(weights).sha256
        return record

    def differences(
        self, attributes: Mapping[str, Any], rule: str, unit: tuple[str, str], weights: str | None
    ) -> list[str]:
        """Return the steps in which a block file with these attributes differs from what `rule`
        would make; see `record`."""
        stated = attributes.get(MADE_FROM)
        expected = self.record(rule, *unit, weights)
        if not isinstance(stated, dict):
            return list(expected)
        steps = dict.fromkeys([*expected, *stated])
        if weights is None:
            steps.pop("weights", None)
        return [step for step in steps if stated.get(step) != expected.get(step)]

    def check(self, paths: Mapping[tuple[str, str], str], rule: str, weights: str | None) -> None:
        """Refuse block files that were made from something else.

        Args:
            paths: files of cells and periods, made by `rule`.
            rule, weights: as in `record`.

        Raises:
            Refused: there is such a file.
            TileError, ReadError: a file is missing or damaged, or cannot be read.
        """
        for unit, path in paths.items():
            if steps := self.differences(read_attributes(path), rule, unit, weights):
                raise Refused(
                    f"{path} was not made with the settings and lists of this run: it differs in "
                    f"{', '.join(steps)}. If another configuration uses this folder, set another "
                    "paths.work; else delete the file and run again."
                )


class SiteSchedule:
    """Memory, time and device of the jobs of sites."""

    def __init__(self, files: RunFiles, sites: SiteFiles, schedule: Schedule) -> None:
        """Take the files of a run, its sites and the schedule of other jobs."""
        self._config, self._sites, self._schedule = files.config, sites, schedule

    @property
    def inference(self) -> str:
        """The rule whose memory, time and threads inference has: `infer_cpu` or `infer_gpu`."""
        gpu = shares(self._config.jobs.cpu_gpu, self._config.model.device)[1]
        return "infer_gpu" if gpu else "infer_cpu"

    @property
    def gpu(self) -> dict[str, int]:
        """The GPUs that an inference job requests."""
        return {"gpu": 1} if self.inference == "infer_gpu" else {}

    def needs(self, rule: str) -> dict[str, Callable[[Any, int], int]]:
        """Return memory (MB) and run time (minutes) of a rule's jobs as functions of wildcards and
        attempt."""

        def memory(wildcards: Any, attempt: int) -> int:
            return self.memory_mb(rule, wildcards.days, wildcards.cell, attempt)

        def runtime(wildcards: Any, attempt: int) -> int:
            return self.runtime(rule, wildcards.days, wildcards.cell, attempt)

        return {"mem_mb": memory, "runtime": runtime}

    def table_memory_mb(self, attempt: int) -> int:
        """Return the memory of the job that writes the table, which holds one cell at a time."""
        largest = max((unit.pixels for unit in self._sites.units.values()), default=0)
        size = 4 if self._config.model.dtype == "float32" else 1
        extra = 2 * largest * (self.dim() * size + _BYTES_BESIDE) / 1e6
        return memory_mb("site_table", attempt, 0, 0) + attempt * math.ceil(extra)

    def dim(self) -> int:
        """Return the dimensions that are stored, as far as the configuration states them."""
        most = 1024 if self._schedule.weights == "v2-teacher" else 128
        return self._config.model.dim or most

    def dates(self, days: str) -> dict[str, float]:
        """Return the assumed number of dates of each sensor in a period."""
        period = Slice.from_name(days)
        number = (period.end - period.start).days + 1
        return {sensor: dates_in(sensor, number) for sensor in self._sites.sensors}

    def _edge(self, days: str, cell: str) -> int:
        """Return the edge of a block with the pixels of a cell."""
        return math.ceil(math.sqrt(self._sites.units[days, cell].pixels))

    def memory_mb(self, rule: str, days: str, cell: str, attempt: int) -> int:
        """Return the memory to request, in MB."""
        edge = self._edge(days, cell)
        patch = min(edge, self._config.grid.patch_size)
        if rule == "site_series":
            return memory_mb(rule, attempt, edge, patch)
        dates = memory_bytes(self.dates(days))
        weights = self._schedule.weights_bytes
        return memory_mb(self.inference, attempt, edge, patch, weights, dates)

    def runtime(self, rule: str, days: str, cell: str, attempt: int) -> int:
        """Return the time to request, in minutes, at most `jobs.max_job_hours`."""
        unit = self._sites.units[days, cell]
        if rule == "site_series":
            share = sum(self.dates(days).values()) / sum(self.dates(_YEAR).values())
            sites = min(MOST_READ_SITES, unit.count)
            minutes = runtime_minutes(rule, attempt, self._edge(days, cell)) + math.ceil(
                attempt * share * READ_MINUTES_PER_SITE * sites
            )
        else:
            rule = self.inference
            seconds = inference_seconds(
                rule.removeprefix("infer_"),
                self._schedule.parameters,
                unit.pixels,
                sum(self.dates(days).values()),
                self._schedule.threads(rule),
            )
            minutes = inference_minutes(rule, attempt, seconds)
        limit = self._config.jobs.max_job_hours
        return minutes if limit is None else min(minutes, int(60 * limit))


_YEAR = "2021-01-01_2021-12-31"
_BYTES_BESIDE = 40
"""Of a pixel: scale, counts, months, position."""


def site_record(config: Config, days: str, cell: str, patches: str, weights: str) -> dict[str, str]:
    """Check the time series of a cell, and return what its embeddings are made from.

    Raises:
        Refused: the time series were made from something else.
        TileError, ReadError: the file is damaged or cannot be read.
    """
    _, params = site_files(RunFiles(config))
    params.check({(days, cell): patches}, "site_series", None)
    return params.record("site_infer", days, cell, weights)


def site_files(config_files: RunFiles) -> tuple[SiteFiles, SiteParams]:
    """Return the sites of a run and the parameters of their jobs."""
    sites = SiteFiles(config_files)
    return sites, SiteParams(config_files, sites, JobParams(config_files))


def units_of(paths: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return the embeddings files of cells by period and cell, from their paths."""
    return {(Path(path).parent.parent.name, Path(path).stem): path for path in paths}
