"""What a run will need: jobs, gigabytes, hours. From assumptions, and, as far as they are there,
from the lists of scenes and from what earlier jobs took."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..config.configuration import Config, runs
from ..errors import ItemError
from ..geotessera.manifest import StoreManifest
from ..models.published import PUBLISHED
from ..region.grid import Block, RegionGrid
from ..region.roi import read_roi
from ..scenes.search import Manifest
from . import assumptions
from .block_map import LEGEND, draw_blocks
from .files import RunFiles
from .journal import read_job_log
from .schedule import STAGES, Schedule
from .status import duration

STORE = "geotessera"
"""Stands for a store of published embeddings where sensors stand for scenes."""

CALIBRATION_BLOCKS = 200
"""Blocks whose verdicts are read for times: more would not change the mean."""

SMALLEST_ENCODER = 1_000_000
"""Parameters assumed where nothing is known of the weights."""


@dataclass(frozen=True)
class Plan:
    """What a run will need, all regions and periods together.

    Attributes:
        blocks, blocks_left: blocks, and those without embeddings.
        jobs: jobs by rule, for what is left.
        items: scenes by sensor, or tiles of a store; None where their list is not there yet.
        download_gb: to read from the archives.
        peak_disk_gb: intermediate files at once, with `concurrent_jobs` jobs.
        final_disk_gb: embeddings of blocks and products.
        cpu_hours: core hours of everything but GPU jobs.
        gpu_hours: hours of GPUs.
        concurrent_jobs: assumed.
        wall_hours: with so many jobs at once.
        calibrated: rules whose times were measured on earlier blocks.
        assumptions: in sentences.
    """

    blocks: int
    blocks_left: int
    jobs: dict[str, int]
    items: dict[str, int | None]
    download_gb: float
    peak_disk_gb: float
    final_disk_gb: float
    cpu_hours: float
    gpu_hours: float
    concurrent_jobs: int
    wall_hours: float
    calibrated: list[str]
    assumptions: list[str]


def make_estimate(run: RunFiles, schedule: Schedule, concurrent_jobs: int) -> Plan:
    """Work out what is left to do of a run; reads no scene and asks no archive.

    Args:
        run: the run.
        schedule: its jobs.
        concurrent_jobs: how many jobs the cluster will run at the same time.
    """
    work = _Work(run, schedule, _measured_seconds(run))
    blocks = 0
    for region, period in runs(run.config):
        work.look_at_lists(region, period)
        for block in run.grids[region].blocks:
            blocks += 1
            if not run.embeddings_file(region, period, block.id).exists():
                work.add(region, period, block)
    once = max(1, min(schedule.most_in_flight(), concurrent_jobs, work.blocks))
    return Plan(
        blocks=blocks,
        blocks_left=work.blocks,
        jobs=dict(work.jobs),
        items=work.items,
        download_gb=work.download_gb,
        peak_disk_gb=once * work.largest_block_gb,
        final_disk_gb=sum(_final_gb(run, run.grids[region]) for region, _ in runs(run.config)),
        cpu_hours=work.core_seconds / 3600,
        gpu_hours=work.gpu_seconds / 3600,
        concurrent_jobs=concurrent_jobs,
        wall_hours=work.job_seconds / 3600 / concurrent_jobs,
        calibrated=sorted(work.measured),
        assumptions=_assumptions(run, work.items),
    )


class _Work:
    """Sums over the blocks that are left."""

    def __init__(self, run: RunFiles, schedule: Schedule, measured: Mapping[str, float]) -> None:
        self.run = run
        self.schedule = schedule
        self.measured = measured
        self.blocks = 0
        self.jobs: Counter[str] = Counter()
        self.from_tiles = run.config.source == "tiles"
        sensors = () if self.from_tiles else run.sensors
        self.items: dict[str, int | None] = dict.fromkeys(sensors, 0)
        self.download_gb = self.largest_block_gb = 0.0
        self.core_seconds = self.gpu_seconds = self.job_seconds = 0.0
        self._lists: dict[str, Manifest | None] = {}
        self._tile_gb: float | None = None
        if run.config.source == "geotessera":
            self.items[STORE] = 0

    def look_at_lists(self, region: str, period: str) -> None:
        """Read the lists of scenes, or of a store's tiles, of a region and period, as far as
        they are there."""
        if STORE in self.items:
            tiles = _store_manifest(self.run, region, period)
            self._count(STORE, None if tiles is None else len(tiles.tiles))
            self._tile_gb = None if tiles is None else tiles.bytes / assumptions.GB
        for name in self.run.sensors:
            self._lists[name] = None
            if not self.from_tiles:
                found = self._lists[name] = _manifest(self.run, region, period, name)
                self._count(name, None if found is None else len(found.items))

    def _count(self, name: str, number: int | None) -> None:
        known = self.items[name]
        self.items[name] = None if number is None or known is None else known + number

    def add(self, region: str, period: str, block: Block) -> None:
        """Add what a block needs."""
        if STORE in self.items:
            self._add_published(region, block)
            return
        run, schedule = self.run, self.schedule
        kind = schedule.kind(block.id)
        assumed = schedule.dates(period)
        dates = {
            name: assumed[name] if found is None else _dates(found, run.grids[region], block)
            for name, found in self._lists.items()
        }
        pixels = float(block.window.height * block.window.width)
        slices = len(run.slices(period))
        seconds = _block_seconds(schedule, pixels, dates, slices, kind)
        if self.from_tiles:
            jobs = {"import_tiles": 1}
            seconds = {"import_tiles": seconds["retile"], f"infer_{kind}": seconds[f"infer_{kind}"]}
            disk_gb = assumptions.series_gb(pixels, dates)
        else:
            jobs = {"download": slices * len(dates), "stack": len(dates), "retile": 1}
            self.download_gb += _read_bytes(pixels, dates) / assumptions.GB
            disk_gb = assumptions.block_disk_gb(pixels, dates)
        self.blocks += 1
        self.jobs.update(jobs | {f"infer_{kind}": 1})
        self.largest_block_gb = max(self.largest_block_gb, disk_gb)
        self._add_seconds(pixels, seconds)

    def _add_published(self, region: str, block: Block) -> None:
        """Add what a block of published embeddings needs."""
        pixels = float(block.window.height * block.window.width)
        gb = pixels * assumptions.PUBLISHED_BYTES / assumptions.GB
        if self._tile_gb is not None:
            gb = self._tile_gb / len(self.run.grids[region].blocks)
        if self.run.config.geotessera.location is not None:
            gb = 0.0
        self.blocks += 1
        self.jobs["import_embeddings"] += 1
        self.download_gb += gb
        seconds = assumptions.START_SECONDS + assumptions.IMPORT_SECONDS * pixels / 1e6
        seconds += gb * assumptions.GB / assumptions.DOWNLOAD_BYTES_PER_SECOND
        self._add_seconds(pixels, {"import_embeddings": seconds})

    def _add_seconds(self, pixels: float, assumed: Mapping[str, float]) -> None:
        for rule, assumed_seconds in assumed.items():
            rate = self.measured.get(rule)
            seconds = assumed_seconds if rate is None else rate * pixels
            self.job_seconds += seconds
            if rule == "infer_gpu":
                self.gpu_seconds += seconds
            else:
                self.core_seconds += seconds * self.schedule.threads(rule)


def _read_bytes(pixels: float, dates: Mapping[str, float]) -> float:
    return sum(pixels * n * assumptions.SENSORS[name].read_bytes for name, n in dates.items())


def _manifest(run: RunFiles, region: str, period: str, sensor: str) -> Manifest | None:
    path = Path(run.paths.items.format(region=region, period=period, sensor=sensor))
    try:
        return Manifest.read(path) if path.exists() else None
    except ItemError:
        return None


def _store_manifest(run: RunFiles, region: str, period: str) -> StoreManifest | None:
    path = Path(run.paths.store_tiles.format(region=region, period=period))
    try:
        return StoreManifest.read(path) if path.exists() else None
    except ItemError:
        return None


def _dates(manifest: Manifest, grid: RegionGrid, block: Block) -> float:
    """Dates with a scene that touches the block."""
    a, _, c, _, e, f = tuple(grid.geobox.affine)[:6]
    w = block.window
    left, top = c + a * w.x0, f + e * w.y0
    right, bottom = left + a * w.width, top + e * w.height
    days = set()
    for item in manifest.items:
        x = item.extent
        if x is None or (x[0] < right and x[2] > left and x[1] < top and x[3] > bottom):
            days.add((item.date, item.orbit))
    return float(len(days))


def _block_seconds(
    schedule: Schedule, pixels: float, dates: Mapping[str, float], slices: int, kind: str
) -> dict[str, float]:
    """Assumed seconds of a block's jobs by rule, for all jobs of the rule together."""
    millions = pixels / 1e6
    total = sum(dates.values())
    read = _read_bytes(pixels, dates)
    published = PUBLISHED.get(schedule.weights)
    parameters = published.parameters if published else max(
        SMALLEST_ENCODER, schedule.weights_bytes / 4
    )  # fmt: skip
    multiplications = pixels * parameters * total / 2  # each step goes through half the encoder
    rate = (
        assumptions.GPU_MULTIPLICATIONS
        if kind == "gpu"
        else assumptions.CPU_MULTIPLICATIONS * schedule.threads("infer_cpu")
    )
    start = assumptions.START_SECONDS
    return {
        "download": slices * len(dates) * start + read / assumptions.DOWNLOAD_BYTES_PER_SECOND,
        "stack": len(dates) * start + assumptions.STACK_SECONDS * millions * total,
        "retile": start + assumptions.RETILE_SECONDS * millions * total,
        f"infer_{kind}": start + multiplications / rate,
    }


def _measured_seconds(run: RunFiles) -> dict[str, float]:
    """Seconds for a pixel of a block, by rule, of jobs that are done."""
    pixels: dict[str, float] = {}
    seconds: dict[str, float] = {}
    read = 0
    for region, period in runs(run.config):
        for block in run.grids[region].blocks:
            if read == CALIBRATION_BLOCKS:
                break
            verdicts = read_job_log(run.job_log_file(region, period, block.id))
            read += bool(verdicts)
            done = [v for v in verdicts if v.state == "done"]
            if {v.rule.split("_")[0] for v in done} < set(STAGES):
                continue  # only whole blocks can be compared
            for rule in {v.rule for v in done}:
                pixels[rule] = pixels.get(rule, 0) + block.window.height * block.window.width
            for v in done:
                seconds[v.rule] = seconds.get(v.rule, 0) + v.seconds
    return {rule: seconds[rule] / pixels[rule] for rule in pixels}


def _final_gb(run: RunFiles, grid: RegionGrid) -> float:
    """Embeddings of blocks and every product, uncompressed."""
    model = run.config.model
    pixel = (model.dim or 128) * (1 if model.dtype == "int8" else 4) + 10
    pixels = sum(block.window.height * block.window.width for block in grid.blocks)
    height, width = grid.product_geobox.shape
    formats = run.config.products.formats
    stores = 1 + ("zarr" in formats)
    arrays = pixel * float(height) * width if "arrays" in formats else 0.0
    return (stores * pixel * pixels / grid.downsample_rate**2 + arrays) / assumptions.GB


def _assumptions(run: RunFiles, items: Mapping[str, int | None]) -> list[str]:
    if STORE in items:
        return _assumptions_of_store(items[STORE])
    lines = []
    if run.config.source == "tiles":
        lines.append(
            "The tile folders are not looked at: "
            + " and ".join(f"{assumptions.SENSORS[s].dates_per_year:g} of {s}" for s in run.sensors)
            + " are assumed for the dates of a year, and that nothing has to be downloaded."
        )
    for name, number in items.items():
        sensor = assumptions.SENSORS[name]
        if number is None:
            lines.append(
                f"{name}: the lists of scenes are not there yet, so {sensor.dates_per_year:g} "
                "dates a year are assumed (`snakemake lists` makes them; it needs the archive)."
            )
        lines.append(
            f"{name}: {sensor.read_bytes:g} bytes read and {sensor.stored_bytes:g} bytes kept for "
            "a pixel and a date."
        )
    lines.append(
        "Times of rules that are not calibrated: "
        + (
            f"{assumptions.DOWNLOAD_BYTES_PER_SECOND / 1e6:g} MB/s for a download, and "
            if items
            else ""
        )
        + "for inference "
        f"{assumptions.CPU_MULTIPLICATIONS / 1e9:g} billion multiplications a second and core, "
        f"{assumptions.GPU_MULTIPLICATIONS / 1e12:g} trillion on a GPU, at one pass per date."
    )
    lines.append("Waiting in a cluster's queue is not in the wall time.")
    return lines


def _assumptions_of_store(tiles: int | None) -> list[str]:
    lines = []
    if tiles is None:
        lines.append(
            f"The lists of the store's tiles are not there yet, so {assumptions.PUBLISHED_BYTES:g} "
            "bytes are assumed for a pixel (`snakemake lists` makes them; it needs the store)."
        )
    lines.append(
        "Times, where not calibrated: "
        f"{assumptions.DOWNLOAD_BYTES_PER_SECOND / 1e6:g} MB/s for a download, and "
        f"{assumptions.IMPORT_SECONDS:g} s for a million pixels. Tiles in geotessera.cache are not "
        "downloaded again, which is not reckoned with."
    )
    lines.append("Waiting in a cluster's queue is not in the wall time.")
    return lines


def _named(source: str) -> str:
    return "tiles of the store" if source == STORE else f"scenes of {source}"


def estimate_text(plan: Plan) -> str:
    """The plan as Markdown."""
    rows = [
        ("blocks", f"{plan.blocks}, of which {plan.blocks_left} are left"),
        *((f"jobs of {rule}", f"{number:,}") for rule, number in plan.jobs.items()),
        *(
            (_named(name), "not listed yet" if number is None else f"{number:,}")
            for name, number in plan.items.items()
        ),
        ("to download", _size(plan.download_gb)),
        ("intermediate files at most", _size(plan.peak_disk_gb)),
        ("embeddings and products", _size(plan.final_disk_gb)),
        ("CPU", f"{duration(plan.cpu_hours)} of one core"),
        ("GPU", f"{duration(plan.gpu_hours)} of one GPU"),
        (f"wall time, {plan.concurrent_jobs} jobs at once", duration(plan.wall_hours)),
        ("calibrated on earlier blocks", ", ".join(plan.calibrated) or "nothing yet"),
    ]
    table = ["| what | how much |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
    return "\n".join(["# Plan", "", *table, "", *(f"- {a}" for a in plan.assumptions), ""])


def _size(gb: float) -> str:
    return f"{gb:,.1f} GB" if gb >= 1 else f"{1000 * gb:,.0f} MB"


def estimate_json(plan: Plan) -> str:
    """The plan as JSON."""
    document: dict[str, Any] = asdict(plan)
    return json.dumps(document, indent=2) + "\n"


def write_estimate(config: Config, folder: Path) -> str:
    """Write `plan.json`, `plan.md` and `<region>_<period>.png` into a folder.

    Returns:
        The plan as text.

    Raises:
        RegionError: a region cannot be read.
        OutputError: a file cannot be written.
    """
    run = RunFiles(config)
    schedule = Schedule(run)
    plan = make_estimate(run, schedule, config.jobs.concurrent_jobs)
    text = estimate_text(plan)
    write_text(folder / "plan.json", estimate_json(plan))
    maps = [_map_text(region, period) for region, period in runs(config)]
    write_text(folder / "plan.md", "\n".join([text, *maps]))
    for region, period in runs(config):
        grid, chosen = run.grids[region], config.regions[region]
        states = {b.id: schedule.block_state(region, period, b.id) for b in grid.blocks}
        draw_blocks(
            grid, read_roi(chosen.roi, chosen.layer), states, folder / _map_name(region, period)
        )
    return text


def _map_name(region: str, period: str) -> str:
    return f"{region}_{period}.png"


def _map_text(region: str, period: str) -> str:
    """The picture of a region's blocks, and what its colours mean, as Markdown."""
    title = f"Blocks of {region}, {period}"
    return f"![{title}]({_map_name(region, period)})\n\n{title}. {LEGEND}\n"
