"""List the jobs that a run has still to do, with their times, for a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...config.configuration import runs
from ...dates import period_months
from ...geotessera.manifest import StoreManifest
from ...region.grid import Block, RegionGrid, crop
from ...scenes.manifest import Manifest
from ...urls import is_url
from .. import assumptions
from ..files import RunFiles
from ..paths import SENSORS
from ..schedule import Schedule
from .inside import inside_shares
from .job_times import JobTimes
from .product_jobs import ProductJobs
from .row import EMBEDDINGS, STORE, TILES, Row, count_hours, dates_by_month, read_list
from .simulate import Job, Limits

ROI_PRIORITY = 0.0
WEIGHTS_PRIORITY = 2_000_000.0


class WorkLeft:
    """The jobs left of a run.

    Attributes:
        jobs: for `simulate`.
        rows: of the plan.
        spans: by block in progress, the first and the last of its jobs.
        block_gb: its disk.
        outdated: reasons by path, of files that must be made again.
    """

    def __init__(
        self,
        files: RunFiles,
        schedule: Schedule,
        limits: Limits,
        outdated: Mapping[str, str] | None = None,
    ) -> None:
        """List the jobs.

        Args:
            files: of the run.
            schedule: resources of its jobs.
            limits: on a cluster, the stacks and patches of a block are one job.
            outdated: files that are made again although they exist.
        """
        self.files, self.schedule, self.limits = files, schedule, limits
        self.outdated = dict(outdated or {})
        self.times = JobTimes(files, schedule, limits)
        self.jobs: list[Job] = []
        self.rows: Sequence[Row] = []
        self.spans: dict[int, tuple[int, int]] = {}
        self.block_gb: dict[int, float] = {}
        self._memory: dict[str, int] = {}
        self._masks: dict[str, tuple[int, ...]] = {}
        self._shares = {
            name: inside_shares(files.config, grid) for name, grid in files.grids.items()
        }
        self._products = ProductJobs(self)
        weights = self._weights()
        for region, period in runs(files.config):
            self._add_run(region, period, weights)
        self._products.add_last()

    def exists(self, path: str | Path) -> bool:
        """Return whether a file exists and is not made again."""
        return str(path) not in self.outdated and Path(path).exists()

    def add(self, row: Row | None, rule: str, seconds: float, /, **more: object) -> int:
        """Add a job to the run and to a row; return its number."""
        uses = {"mem_mb": self._memory_mb(rule)}
        if rule == "infer_gpu":
            uses["gpu"] = 1
        if rule in ("download", "import_embeddings"):
            uses["downloads"] = 1
        job = Job(
            rule,
            seconds,
            threads=self.times.threads(rule),
            uses=uses,
            local=rule in self.files.config.jobs.local_rules,
            **more,  # type: ignore[arg-type]
        )
        self.jobs.append(job)
        if row is not None:
            row.jobs[rule] = row.jobs.get(rule, 0) + 1
            count_hours(row, job)
        return len(self.jobs) - 1

    def _memory_mb(self, rule: str) -> int:
        if rule not in self._memory:
            self._memory[rule] = self.schedule.memory_mb(rule, 1)
        return self._memory[rule]

    def _weights(self) -> tuple[int, ...]:
        record = self.files.weights_record()
        if not isinstance(record, str) or self.exists(record):
            return ()
        seconds = self.times.weights()
        return (self.add(None, "weights", seconds, priority=WEIGHTS_PRIORITY),)

    def _mask(self, row: Row) -> tuple[int, ...]:
        if row.region not in self._masks:
            path = self.files.paths.roi.format(region=row.region)
            seconds = self.times.of_region("roi", row.region, self._pixels(row.region))
            self._masks[row.region] = (
                () if self.exists(path) else (self.add(row, "roi", seconds, priority=ROI_PRIORITY),)
            )
        return self._masks[row.region]

    def _pixels(self, region: str) -> float:
        return float(sum(b.window.height * b.window.width for b in self.files.grids[region].blocks))

    def row(self, region: str, period: str, sensor: str) -> Row:
        """Add a row without jobs, and return it."""
        grid = self.files.grids[region]
        shares = self._shares[region]
        inside = sum(b.window.height * b.window.width * shares[b.id] for b in grid.blocks)
        area = abs(grid.transform[0] * grid.transform[4])
        row = Row(
            region, period, sensor, inside * area / 1e6, inside / grid.downsample_rate**2,
            len(grid.blocks),
        )  # fmt: skip
        self.rows = [*self.rows, row]
        return row

    def _add_run(self, region: str, period: str, weights: tuple[int, ...]) -> None:
        """Add the jobs of a region and period."""
        files, source = self.files, self.files.config.source
        others = {"scenes": [], "tiles": [TILES], STORE: [STORE]}[source]
        names = others if source == "tiles" else [*others, *files.sensors(region, period)]
        of_sensor = {name: self.row(region, period, name) for name in names}
        row = self.row(region, period, EMBEDDINGS)
        blocks = self._blocks_left(region, period)
        mask = self._mask(next(iter(of_sensor.values()), row)) if blocks else ()
        lists: dict[str, tuple[int, ...]] = {}
        manifests: dict[str, Manifest | StoreManifest | None] = {}
        for name, path in self._list_paths(region, period).items():
            tiles = manifests[name] = read_list(path, name)
            if tiles is not None:
                many = tiles.parts if isinstance(tiles, StoreManifest) else tiles.items
                of_sensor[name].scenes = len(many)
            if isinstance(tiles, Manifest):
                days = files.config.periods[period]
                of_sensor[name].months = dates_by_month(tiles)
                of_sensor[name].period_months = period_months(days.start, days.end)
            rule = "store_tiles" if name == STORE else "items"
            lists[name] = ()
            if blocks and not self.exists(path):
                needs = mask if name != STORE else weights
                seconds = self.times.of_list(rule, region, period)
                lists[name] = (self.add(of_sensor[name], rule, seconds, needs=needs),)
        before = _Before(mask, weights, lists, manifests)
        ends = [
            _BlockJobs(self, region, period, block, of_sensor, row, before).add()
            for block in blocks
        ]
        for each in (*of_sensor.values(), row):
            each.blocks_left = len(blocks)
        self._products.add(region, period, row, tuple(ends), weights)

    def _list_paths(self, region: str, period: str) -> dict[str, str]:
        """Return the lists of scenes or tiles by sensor."""
        paths = self.files.manifests(region, period)
        return {stem if (stem := Path(p).stem) in SENSORS else STORE: p for p in paths}

    def _blocks_left(self, region: str, period: str) -> list[Block]:
        """Return the blocks whose embeddings are to be made: those without, or all of them if a
        list, the mask or the record of the weights is made, on which all depend."""
        blocks = self.files.grids[region].blocks
        missing = [
            b for b in blocks if not self.exists(self.files.embeddings_file(region, period, b.id))
        ]
        record = self.files.weights_record()
        heads = [
            self.files.paths.roi.format(region=region),
            *self._list_paths(region, period).values(),
            *([record] if isinstance(record, str) else []),
        ]
        if all(map(self.exists, heads)):
            return missing
        made = bool(missing) or self._products.missing(region, period)
        return list(blocks) if made or self.outdated.keys() & set(heads) else []

    def share(self, region: str, block: str) -> float:
        """Return the share of a block that is inside the region."""
        return self._shares[region][block]


@dataclass(frozen=True)
class _Before:
    """Jobs before those of the blocks, and the lists of scenes that exist."""

    mask: tuple[int, ...]
    weights: tuple[int, ...]
    lists: Mapping[str, tuple[int, ...]]
    manifests: Mapping[str, Manifest | StoreManifest | None]


class _BlockJobs:
    """The jobs left of one block."""

    def __init__(
        self,
        work: WorkLeft,
        region: str,
        period: str,
        block: Block,
        of_sensor: Mapping[str, Row],
        row: Row,
        before: _Before,
    ) -> None:
        self.work, self.region, self.period, self.block = work, region, period, block
        self.of_sensor, self.row, self.before = of_sensor, row, before
        self.files, self.times = work.files, work.times
        self.names = {"region": region, "period": period, "block": block.id}
        self.rank = work.schedule.rank(region, period, block.id)
        self.number = len(work.spans)
        self.pixels = float(block.window.height * block.window.width)
        self.published: tuple[int, ...] = ()
        # Of a block without a job log nothing exists: its files need not be looked up.
        self.started = self.files.job_log_file(region, period, block.id).exists()

    def add(self) -> int:
        first = len(self.work.jobs)
        if self.files.config.fills:
            last = self._fill()
        elif self.files.config.source == STORE:
            last = self._import_embeddings()
        else:
            self.dates = self._dates()
            last = self._infer(self._patches())
        self.work.spans[self.number] = (first, last)
        return last

    def _job(self, row: Row, rule: str, seconds: float, stage: str, **more: object) -> int:
        priority = float(self.work.schedule.stage_priority(stage, self.rank))
        return self.work.add(row, rule, seconds, priority=priority, block=self.number, **more)

    def _exists(self, path: str) -> bool:
        return self.started and self.work.exists(path)

    def _dates(self) -> dict[str, float]:
        assumed = self.work.schedule.dates(self.region, self.period)
        grid, dates = self.files.grids[self.region], {}
        for name, number in assumed.items():
            scenes = self.before.manifests.get(name)
            listed = isinstance(scenes, Manifest)
            dates[name] = _dates_of(scenes, grid, self.block) if listed else number  # type: ignore[arg-type]
            if name in self.of_sensor:
                self.of_sensor[name].dates += dates[name] / len(grid.blocks)
        return dates

    def _patches(self) -> tuple[int, ...]:
        """Add the jobs up to the patches of each sensor; return those that inference needs."""
        paths = self.files.paths
        disk = assumptions.series_gb(self.pixels, self.dates)
        self.work.block_gb[self.number] = disk
        if self.files.config.source == "tiles":
            self.row.block_gb = max(self.row.block_gb, disk)
            if self._exists(paths.patches.format(**self.names)):
                return ()
            seconds = self.times.of_block("retile", self.pixels, self.dates, as_rule="import_tiles")
            needs = self.before.mask
            row = self.of_sensor[TILES]
            return (self._job(row, "import_tiles", seconds, "retile", needs=needs),)
        self.work.block_gb[self.number] = assumptions.block_disk_gb(self.pixels, self.dates)
        for name, number in self.dates.items():
            row = self.of_sensor[name]
            most = assumptions.block_disk_gb(self.pixels, {name: number})
            row.block_gb = max(row.block_gb, most)
        if self._exists(paths.patches.format(**self.names)):
            return ()
        return self._series()

    def _series(self) -> tuple[int, ...]:
        """Add downloads, stacks and retiling; on a cluster the last two are one job."""
        stacks: list[tuple[Row, float, tuple[int, ...]]] = []
        for name, number in self.dates.items():
            path = self.files.paths.stack.format(**self.names, sensor=name)
            if not self._exists(path):
                one = {name: number}
                seconds = self.times.of_block("stack", self.pixels, one, of=self.dates)
                stacks.append((self.of_sensor[name], seconds, self._downloads(name, number)))
        retile = self.times.of_block("retile", self.pixels, self.dates)
        if not self.work.limits.on_cluster:
            needs = tuple(
                self._job(row, "stack", seconds, "stack", needs=downloads)
                for row, seconds, downloads in stacks
            )
            needs += self.before.mask + self.published
            return (self._job(self.row, "retile", retile, "retile", needs=needs),)
        longest = max((seconds for _, seconds, _ in stacks), default=0.0)
        every = tuple(number for *_, downloads in stacks for number in downloads)
        inside = (len(stacks) + 1) * assumptions.LOCAL_OVERHEAD_SECONDS
        group = self._job(
            self.row, "retile", longest + retile + inside, "retile",
            needs=(*every, *self.before.mask, *self.published),
            members=len(stacks) + 1,
        )  # fmt: skip
        for row, *_ in stacks:
            row.jobs["stack"] = row.jobs.get("stack", 0) + 1
        return (group,)

    def _downloads(self, name: str, number: float) -> tuple[int, ...]:
        row = self.of_sensor[name]
        paths = self.files.slice_files(self.region, self.period, name, self.block.id)
        missing = [path for path in paths if not self._exists(path)]
        seconds = self.times.of_block("download", self.pixels, {name: number}, of=self.dates)
        one = assumptions.read_gb(self.pixels, {name: number}) / len(paths)
        row.download_gb += one * len(missing)
        needs = (*self.before.mask, *self.before.lists[name], *self.published)
        return tuple(
            self._job(row, "download", seconds / len(paths), "download", needs=needs,
                      starts_block=True)
            for _ in missing
        )  # fmt: skip

    def _infer(self, patches: tuple[int, ...]) -> int:
        rule = f"infer_{self.work.schedule.device(self.block.id)}"
        inside = self.pixels * self.work.share(self.region, self.block.id)
        seconds = self.times.inference(rule, self.pixels, inside, self.dates)
        needs = (*patches, *self.before.weights)
        ends = not self.files.config.fills
        return self._job(self.row, rule, seconds, "infer", needs=needs, ends_block=ends)

    def _fill(self) -> int:
        """Add the jobs of a block whose holes are computed: as many as if all of it is a hole."""
        self.dates = self._dates()
        if not self._exists(self.files.paths.published.format(**self.names)):
            self.published = (self._import_embeddings(),)
        needs = self.published
        if not self._exists(self.files.paths.computed.format(**self.names)):
            needs += (self._infer(self._patches()),)
        self.work.block_gb[self.number] = self.work.block_gb.get(
            self.number, 0.0
        ) + assumptions.fill_gb(self.pixels)
        seconds = assumptions.FILL_SECONDS * self.pixels / 1e6
        return self._job(self.row, "fill", seconds, "infer", needs=needs, ends_block=True)

    def _import_embeddings(self) -> int:
        row, tiles = self.of_sensor[STORE], self.before.manifests.get(STORE)
        gb = self.pixels * assumptions.PUBLISHED_BYTES / assumptions.GB
        if isinstance(tiles, StoreManifest) and tiles.bytes:
            gb = tiles.bytes / assumptions.GB / len(self.files.grids[self.region].blocks)
        nothing = isinstance(tiles, StoreManifest) and not tiles.parts
        if nothing or not is_url(self.files.config.geotessera.location or "https://"):
            gb = 0.0
        row.download_gb += gb
        needs = (*self.before.mask, *self.before.lists[STORE])
        seconds = self.times.imported(self.pixels, gb)
        first = self.files.config.fills
        return self._job(
            row, "import_embeddings", seconds, "download" if first else "infer", needs=needs,
            starts_block=first, ends_block=not first,
        )  # fmt: skip


def _dates_of(manifest: Manifest, grid: RegionGrid, block: Block) -> float:
    """Return the number of dates with a scene that touches the block."""
    geobox = crop(grid.geobox, block.window)
    return float(len({(i.date, i.orbit) for i in manifest.items if i.overlaps(geobox)}))
