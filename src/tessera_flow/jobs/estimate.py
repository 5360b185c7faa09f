"""Estimate what a run will need: jobs, gigabytes, hours.

From assumptions and, where they exist, from the lists of scenes and the times of earlier jobs.
"""

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
from ..geotessera import STORE_DIM
from ..geotessera.manifest import StoreManifest
from ..models.published import PUBLISHED
from ..region.blocks import region_warnings
from ..region.grid import Block, RegionGrid, crop
from ..region.roi import read_roi
from ..scenes.search import Manifest
from . import assumptions
from .block_map import LEGEND, render_blocks
from .files import RunFiles
from .scene_warnings import scene_warnings
from .schedule import INFERENCE, Schedule
from .status import duration

STORE = "geotessera"
"""Key of a store of published embeddings, beside the names of the sensors."""


@dataclass(frozen=True)
class Estimate:
    """Needs of a run, all regions and periods together.

    Attributes:
        blocks, blocks_left: all blocks, and those without embeddings.
        jobs: number of jobs by rule, of the blocks without embeddings.
        items: scenes by sensor, or tiles of a store; None if not listed yet.
        download_gb: to read from the archives.
        peak_disk_gb: largest size of the intermediate files with `concurrent_jobs` jobs.
        final_disk_gb: embeddings of blocks and products.
        cpu_hours: core hours of all jobs except GPU jobs.
        gpu_hours: hours of GPUs.
        concurrent_jobs: assumed number.
        wall_hours: with that many jobs.
        calibrated: rules whose times were measured on earlier blocks.
        assumptions: as text.
        inference_limit_hours: that an inference job requests at its first attempt; 0 without one.
        warnings: about regions and scenes, and about jobs that take too long.
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
    inference_limit_hours: float
    warnings: list[str]


def make_estimate(files: RunFiles, schedule: Schedule, concurrent_jobs: int) -> Estimate:
    """Estimate the rest of a run, without reading scenes or asking an archive.

    Args:
        files: the files of the run.
        schedule: resources of its jobs.
        concurrent_jobs: how many jobs run at the same time.
    """
    work = _Work(files, schedule, schedule.measured)
    blocks = 0
    for region, period in runs(files.config):
        work.read_lists(region, period)
        for block in files.grids[region].blocks:
            blocks += 1
            if not files.embeddings_file(region, period, block.id).exists():
                work.add(region, period, block)
    in_progress = max(1, min(schedule.most_in_flight(), concurrent_jobs, work.blocks))
    return Estimate(
        blocks=blocks,
        blocks_left=work.blocks,
        jobs=dict(work.jobs),
        items=work.items,
        download_gb=work.download_gb,
        peak_disk_gb=in_progress * work.largest_block_gb,
        final_disk_gb=sum(
            _final_gb(files, files.grids[region]) for region, _ in runs(files.config)
        ),
        cpu_hours=work.core_seconds / 3600,
        gpu_hours=work.gpu_seconds / 3600,
        concurrent_jobs=concurrent_jobs,
        wall_hours=work.job_seconds / 3600 / concurrent_jobs,
        calibrated=sorted(work.measured),
        assumptions=_assumptions(files, work.items),
        inference_limit_hours=max(
            (schedule.runtime(rule, 1) / 60 for rule in INFERENCE if work.jobs[rule]), default=0.0
        ),
        warnings=[
            *region_warnings(files.config),
            *schedule.time_warnings(),
            *scene_warnings(files, of_blocks=True),
        ],
    )


class _Work:
    """Sums over the blocks without embeddings."""

    def __init__(self, files: RunFiles, schedule: Schedule, measured: Mapping[str, float]) -> None:
        self.files = files
        self.schedule = schedule
        self.measured = measured
        self.blocks = 0
        self.jobs: Counter[str] = Counter()
        self.from_tiles = files.config.source == "tiles"
        sensors = () if self.from_tiles else files.all_sensors
        self.items: dict[str, int | None] = dict.fromkeys(sensors, 0)
        self.download_gb = self.largest_block_gb = 0.0
        self.core_seconds = self.gpu_seconds = self.job_seconds = 0.0
        self._lists: dict[str, Manifest | None] = {}
        self._tile_gb: float | None = None
        if files.config.source == "geotessera":
            self.items[STORE] = 0

    def read_lists(self, region: str, period: str) -> None:
        """Read the lists of scenes, or of a store's tiles, of a region and period, if they
        exist."""
        if STORE in self.items:
            tiles = _store_manifest(self.files, region, period)
            self._count(STORE, None if tiles is None else len(tiles.tiles))
            self._tile_gb = None if tiles is None else tiles.bytes / assumptions.GB
        self._lists = {}
        for name in self.files.sensors(region, period):
            self._lists[name] = None
            if not self.from_tiles:
                scenes = self._lists[name] = _manifest(self.files, region, period, name)
                self._count(name, None if scenes is None else len(scenes.items))

    def _count(self, name: str, number: int | None) -> None:
        known = self.items[name]
        self.items[name] = None if number is None or known is None else known + number

    def add(self, region: str, period: str, block: Block) -> None:
        """Add the needs of a block."""
        if STORE in self.items:
            self._add_published(region, block)
            return
        files, schedule = self.files, self.schedule
        device = schedule.device(block.id)
        assumed = schedule.dates(region, period)
        dates = {
            name: assumed[name] if scenes is None else _dates(scenes, files.grids[region], block)
            for name, scenes in self._lists.items()
        }
        pixels = float(block.window.height * block.window.width)
        slices = len(files.time_slices(period))
        seconds = _block_seconds(schedule, pixels, dates, slices, device)
        if self.from_tiles:
            jobs = {"import_tiles": 1}
            infer = f"infer_{device}"
            seconds = {"import_tiles": seconds["retile"], infer: seconds[infer]}
            disk_gb = assumptions.series_gb(pixels, dates)
        else:
            jobs = {"download": slices * len(dates), "stack": len(dates), "retile": 1}
            self.download_gb += _read_bytes(pixels, dates) / assumptions.GB
            disk_gb = assumptions.block_disk_gb(pixels, dates)
        self.blocks += 1
        self.jobs.update(jobs | {f"infer_{device}": 1})
        self.largest_block_gb = max(self.largest_block_gb, disk_gb)
        self._add_seconds(pixels, seconds)

    def _add_published(self, region: str, block: Block) -> None:
        """Add the needs of a block of published embeddings."""
        pixels = float(block.window.height * block.window.width)
        gb = pixels * assumptions.PUBLISHED_BYTES / assumptions.GB
        if self._tile_gb is not None:
            gb = self._tile_gb / len(self.files.grids[region].blocks)
        if self.files.config.geotessera.location is not None:
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


def _manifest(files: RunFiles, region: str, period: str, sensor: str) -> Manifest | None:
    path = Path(files.paths.items.format(region=region, period=period, sensor=sensor))
    try:
        return Manifest.read(path) if path.exists() else None
    except ItemError:
        return None


def _store_manifest(files: RunFiles, region: str, period: str) -> StoreManifest | None:
    path = Path(files.paths.store_tiles.format(region=region, period=period))
    try:
        return StoreManifest.read(path) if path.exists() else None
    except ItemError:
        return None


def _dates(manifest: Manifest, grid: RegionGrid, block: Block) -> float:
    """Return the number of dates with a scene that touches the block."""
    geobox = crop(grid.geobox, block.window)
    dates = {(item.date, item.orbit) for item in manifest.items if item.overlaps(geobox)}
    return float(len(dates))


def _block_seconds(
    schedule: Schedule, pixels: float, dates: Mapping[str, float], slices: int, device: str
) -> dict[str, float]:
    """Return the assumed seconds of a block by rule, of all jobs of the rule together."""
    millions = pixels / 1e6
    total = sum(dates.values())
    read = _read_bytes(pixels, dates)
    start = assumptions.START_SECONDS
    return {
        "download": slices * len(dates) * start + read / assumptions.DOWNLOAD_BYTES_PER_SECOND,
        "stack": len(dates) * start + assumptions.STACK_SECONDS * millions * total,
        "retile": start + assumptions.RETILE_SECONDS * millions * total,
        f"infer_{device}": assumptions.inference_seconds(
            device, schedule.parameters, pixels, total, schedule.threads(f"infer_{device}")
        ),
    }


def _final_gb(files: RunFiles, grid: RegionGrid) -> float:
    """Return the uncompressed size of the blocks' embeddings and of every product."""
    model = files.config.model
    published = PUBLISHED.get(files.config.weights or "")
    dim = model.dim or (published.dim if published else STORE_DIM)
    pixel = dim * (1 if model.dtype == "int8" else 4) + 10
    pixels = sum(block.window.height * block.window.width for block in grid.blocks)
    height, width = grid.product_geobox.shape
    formats = files.config.products.formats
    stores = 1 + ("zarr" in formats)
    arrays = pixel * float(height) * width if {"arrays", "vrt"} & set(formats) else 0.0
    if "cog" in formats:
        size = 1 if files.config.products.cog_dtype == "int8" else 4
        arrays += 4 / 3 * dim * size * float(height) * width  # with overviews
    return (stores * pixel * pixels / grid.downsample_rate**2 + arrays) / assumptions.GB


def _assumptions(files: RunFiles, items: Mapping[str, int | None]) -> list[str]:
    if STORE in items:
        return _assumptions_of_store(items[STORE])
    lines = []
    if files.config.source == "tiles":
        lines.append(
            "The tile folders are not read: "
            + " and ".join(
                f"{assumptions.SENSORS[s].dates_per_year:g} of {s}" for s in files.all_sensors
            )
            + " dates per year are assumed, and no downloads."
        )
    for name, number in items.items():
        sensor = assumptions.SENSORS[name]
        if number is None:
            lines.append(
                f"{name}: scenes are not listed yet, so {sensor.dates_per_year:g} dates per year "
                "are assumed (`snakemake lists` lists them; it needs the archive)."
            )
        lines.append(
            f"{name}: {sensor.read_bytes:g} bytes read and {sensor.stored_bytes:g} bytes stored "
            "per pixel and date."
        )
    lines.append(
        "Times of rules that are not calibrated: "
        + (
            f"{assumptions.DOWNLOAD_BYTES_PER_SECOND / 1e6:g} MB/s for a download, and "
            if items
            else ""
        )
        + "for inference "
        f"{assumptions.CPU_MULTIPLICATIONS / 1e9:g} billion multiplications per second and core, "
        f"{assumptions.GPU_MULTIPLICATIONS / 1e12:g} trillion on a GPU, one pass per date."
    )
    lines.append("The wall time does not include waiting in a cluster's queue.")
    return lines


def _assumptions_of_store(tiles: int | None) -> list[str]:
    lines = []
    if tiles is None:
        lines.append(
            f"The store's tiles are not listed yet, so {assumptions.PUBLISHED_BYTES:g} bytes per "
            "pixel are assumed (`snakemake lists` lists them; it needs the store)."
        )
    lines.append(
        "Times, where not calibrated: "
        f"{assumptions.DOWNLOAD_BYTES_PER_SECOND / 1e6:g} MB/s for a download, and "
        f"{assumptions.IMPORT_SECONDS:g} s per million pixels. Tiles that are already in "
        "geotessera.cache are counted as downloads, too."
    )
    lines.append("The wall time does not include waiting in a cluster's queue.")
    return lines


def _named(source: str) -> str:
    return "tiles of the store" if source == STORE else f"scenes of {source}"


def estimate_text(estimate: Estimate) -> str:
    """Return the estimate as Markdown."""
    rows = [
        ("blocks", f"{estimate.blocks}, of which {estimate.blocks_left} have no embeddings yet"),
        *((f"jobs of {rule}", f"{number:,}") for rule, number in estimate.jobs.items()),
        *(
            (_named(name), "not listed yet" if number is None else f"{number:,}")
            for name, number in estimate.items.items()
        ),
        ("to download", _size(estimate.download_gb)),
        ("intermediate files at most", _size(estimate.peak_disk_gb)),
        ("embeddings and products", _size(estimate.final_disk_gb)),
        ("CPU", f"{duration(estimate.cpu_hours)} of one core"),
        ("GPU", f"{duration(estimate.gpu_hours)} of one GPU"),
        ("time limit of an inference job", duration(estimate.inference_limit_hours)),
        (f"wall time, {estimate.concurrent_jobs} concurrent jobs", duration(estimate.wall_hours)),
        ("calibrated on earlier blocks", ", ".join(estimate.calibrated) or "nothing yet"),
    ]
    table = ["| item | amount |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
    notes = [f"- {a}" for a in estimate.assumptions]
    warnings = [f"- Warning: {text}" for text in estimate.warnings]
    return "\n".join(["# Plan", "", *table, "", *warnings, *notes, ""])


def _size(gb: float) -> str:
    return f"{gb:,.1f} GB" if gb >= 1 else f"{1000 * gb:,.0f} MB"


def estimate_json(estimate: Estimate) -> str:
    """Return the estimate as JSON."""
    document: dict[str, Any] = asdict(estimate)
    return json.dumps(document, indent=2) + "\n"


def write_estimate(config: Config, folder: Path) -> str:
    """Write `plan.json`, `plan.md` and `<region>_<period>.png` into a folder.

    Returns:
        The estimate as text.

    Raises:
        RegionError: a region cannot be read.
        OutputError: a file cannot be written.
    """
    files = RunFiles(config)
    schedule = Schedule(files)
    estimate = make_estimate(files, schedule, config.jobs.concurrent_jobs)
    text = estimate_text(estimate)
    write_text(folder / "plan.json", estimate_json(estimate))
    maps = [_map_text(region, period) for region, period in runs(config)]
    write_text(folder / "plan.md", "\n".join([text, *maps]))
    for region, period in runs(config):
        grid, settings = files.grids[region], config.regions[region]
        states = {b.id: schedule.block_state(region, period, b.id) for b in grid.blocks}
        render_blocks(
            grid, read_roi(settings.roi, settings.layer), states, folder / _map_name(region, period)
        )
    return text


def _map_name(region: str, period: str) -> str:
    return f"{region}_{period}.png"


def _map_text(region: str, period: str) -> str:
    """Return the map of a region's blocks with its legend, as Markdown."""
    title = f"Blocks of {region}, {period}"
    return f"![{title}]({_map_name(region, period)})\n\n{title}. {LEGEND}\n"
