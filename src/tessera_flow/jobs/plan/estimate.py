"""Estimate what a run will need: jobs, gigabytes, hours.

From assumptions and, where they exist, from the lists of scenes and the times of earlier jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...config.configuration import runs
from ...geotessera import STORE_DIM
from ...models.published import PUBLISHED
from ...region.blocks import region_warnings
from ...region.grid import RegionGrid
from .. import assumptions
from ..files import RunFiles
from ..scene_warnings import scene_warnings
from ..schedule import INFERENCE, Schedule
from .bottleneck import dominated_by
from .row import EMBEDDINGS, STORE, TILES, Row
from .simulate import Job, Limits, simulate
from .work_left import WorkLeft

WITHOUT_QUEUE = (
    "The wall time does not include waiting in a cluster's queue. Its range: all jobs are faster, "
    "or all are slower, by the factors of src/tessera_flow/jobs/assumptions.py."
)
ARRAYS_OF_STORE = 4
"""Arrays of the Zarr store that have shards: codes, scales, counts, months."""
FILES_OF_PRODUCTS = 40


@dataclass(frozen=True)
class LongestJob:
    """The job that takes longest.

    Attributes:
        rule: its rule.
        hours: estimated.
        limit_hours: that it requests at its first attempt.
    """

    rule: str
    hours: float
    limit_hours: float


@dataclass(frozen=True)
class Estimate:
    """Needs of what is left of a run, all regions and periods together.

    Attributes:
        blocks, blocks_left: all blocks, and those whose embeddings are to be made.
        outdated: files that are made again, because they were made with other settings.
        rows: the same by region, period and sensor.
        jobs: number of jobs by rule.
        items: scenes by sensor, or tiles of a store; None if not listed yet.
        download_gb: to read from the archives, and published weights.
        peak_disk_gb: largest size of the intermediate files.
        final_disk_gb: embeddings of blocks and products.
        peak_inodes: most files, with logs and Snakemake's records.
        cpu_hours: core hours of all jobs except GPU jobs.
        gpu_hours: hours of GPUs.
        gpu: the device that the hours of GPUs are for, and its rate; empty without GPU jobs.
        cluster_jobs: jobs that are submitted to a cluster; 0 on one machine.
        limits: what limits the run, as text.
        wall_hours: most likely.
        wall_hours_range: if all jobs are as fast, and as slow, as they may be.
        dominated_by: what decides the wall time, as text.
        longest_job: see `LongestJob`; None without jobs.
        calibrated: rules whose times were measured on earlier jobs.
        assumptions: as text.
        inference_limit_hours: that an inference job requests at its first attempt; 0 without one.
        warnings: about regions and scenes, and about jobs that take too long.
    """

    blocks: int
    blocks_left: int
    outdated: int
    rows: Sequence[Row]
    jobs: dict[str, int]
    items: dict[str, int | None]
    download_gb: float
    peak_disk_gb: float
    final_disk_gb: float
    peak_inodes: int
    cpu_hours: float
    gpu_hours: float
    gpu: str
    cluster_jobs: int
    limits: str
    wall_hours: float
    wall_hours_range: tuple[float, float]
    dominated_by: str
    longest_job: LongestJob | None
    calibrated: list[str]
    assumptions: list[str]
    inference_limit_hours: float
    warnings: list[str]


def make_estimate(
    files: RunFiles,
    schedule: Schedule,
    limits: Limits,
    outdated: Mapping[str, str] | None = None,
) -> Estimate:
    """Estimate the rest of a run, without reading scenes or asking an archive.

    Args:
        files: the files of the run.
        schedule: resources of its jobs.
        limits: what limits the jobs that run at the same time.
        outdated: reasons by path, of files that are made again although they exist.
    """
    if files.config.jobs.max_disk_gb is not None:
        limits = replace(limits, in_flight=schedule.most_in_flight())
    work = WorkLeft(files, schedule, limits, outdated)
    spread = work.times.spread
    expected = simulate(work.jobs, limits)
    low = simulate(work.jobs, limits, lambda job: job.seconds * spread(job)[0]).seconds
    high = simulate(work.jobs, limits, lambda job: job.seconds * spread(job)[1]).seconds
    rows = work.rows
    jobs: Counter[str] = Counter()
    for row in rows:
        jobs.update(row.jobs)
        if row.sensor == EMBEDDINGS:
            row.final_gb = _final_gb(files, files.grids[row.region])
    weights = [job for job in work.jobs if job.rule == "weights"]
    jobs.update({"weights": 1} if weights else {})
    published = schedule.weights_published and bool(weights)
    weights_gb = schedule.weights_bytes / assumptions.GB if published else 0.0
    items = _items(files, rows)
    return Estimate(
        blocks=sum(len(files.grids[region].blocks) for region, _ in runs(files.config)),
        blocks_left=sum(row.blocks_left for row in rows if row.sensor == EMBEDDINGS),
        outdated=len(work.outdated),
        rows=rows,
        jobs=dict(jobs),
        items=items,
        download_gb=sum(row.download_gb for row in rows) + weights_gb,
        peak_disk_gb=expected.peak({n: work.spans[n] for n in work.block_gb}, work.block_gb),
        final_disk_gb=sum(row.final_gb for row in rows),
        peak_inodes=_inodes(files, work, expected.peak(work.spans, dict.fromkeys(work.spans, 1.0))),
        cpu_hours=sum(row.core_hours for row in rows),
        gpu_hours=sum(row.gpu_hours for row in rows),
        gpu=_gpu_text(work, jobs),
        cluster_jobs=sum(not job.local for job in work.jobs) if limits.on_cluster else 0,
        limits=limits_text(limits),
        wall_hours=expected.seconds / 3600,
        wall_hours_range=(low / 3600, high / 3600),
        dominated_by=dominated_by(work.jobs, limits, expected.seconds),
        longest_job=_longest_job(schedule, work.jobs),
        calibrated=sorted(work.times.calibrated),
        assumptions=_assumptions(files, items),
        inference_limit_hours=max(
            (schedule.runtime(rule, 1) / 60 for rule in INFERENCE if jobs[rule]), default=0.0
        ),
        warnings=[
            *region_warnings(files.config),
            *schedule.time_warnings(),
            *scene_warnings(files, of_blocks=True),
        ],
    )


def _items(files: RunFiles, rows: Sequence[Row]) -> dict[str, int | None]:
    """Return the number of scenes of all lists by sensor; None if one is missing."""
    items: dict[str, int | None] = {name: 0 for name in files.all_sensors}
    if files.config.source == STORE:
        items = {STORE: 0, **items}
    if files.config.source == TILES:
        return {}
    for row in rows:
        if row.sensor in items:
            known = items[row.sensor]
            both = known is not None and row.scenes is not None
            items[row.sensor] = known + row.scenes if both else None  # type: ignore[operator]
    return items


def _longest_job(schedule: Schedule, jobs: Sequence[Job]) -> LongestJob | None:
    if not jobs:
        return None
    longest = max(jobs, key=lambda job: job.seconds)
    limit = schedule.runtime(longest.rule, 1, longest.threads) / 60
    return LongestJob(longest.rule, longest.seconds / 3600, limit)


def _gpu_text(work: WorkLeft, jobs: Mapping[str, int]) -> str:
    """Return the device and the rate behind the hours of GPUs."""
    if not jobs.get("infer_gpu"):
        return ""
    of_gpus = {job.block: job for job in work.jobs if job.rule == "infer_gpu"}
    pixels = sum(row.pixels * row.blocks_left / row.blocks for row in work.rows
                 if row.sensor == EMBEDDINGS)  # fmt: skip
    share = len(of_gpus) / max(1, sum(row.blocks_left for row in work.rows
                                      if row.sensor == EMBEDDINGS))  # fmt: skip
    rate = pixels * share / sum(job.seconds for job in of_gpus.values())
    if "infer_gpu" in work.times.calibrated:
        return f"the GPU of earlier blocks: about {rate:,.0f} px/s"
    return f"assumed: {assumptions.GPU_CLASS}, about {rate:,.0f} px/s"


def _inodes(files: RunFiles, work: WorkLeft, in_progress: float) -> int:
    """Return the most files: of each job a log, a benchmark and Snakemake's record; of each block
    its embeddings and job log; of blocks in progress their series; of the stores their shards."""
    per_block = max(sum(files.jobs_of_block(*run).values()) for run in runs(files.config))
    members = sum(job.members for job in work.jobs)
    blocks = sum(len(files.grids[region].blocks) for region, _ in runs(files.config))
    products = FILES_OF_PRODUCTS * len(runs(files.config))
    if "zarr" in files.config.products.formats:
        from ...products.stores.overviews import number_of_files
        from ...products.stores.zarr_grid import shard_edges

        grid, dim = files.config.grid, _dim(files)
        edge = grid.block_size // grid.downsample_rate
        shard, chunk = shard_edges(edge, files.config.products.zarr_chunk, dim)
        file = shard if files.config.products.zarr_shards else chunk
        for region, _ in runs(files.config):
            height, width = files.grids[region].product_geobox.shape
            products += ARRAYS_OF_STORE * -(-height // file) * -(-width // file)
            if files.config.products.zarr_preview:
                shards = files.config.products.zarr_shards
                products += number_of_files((int(height), int(width)), edge, shards)
    return round(3 * members + 2 * blocks + in_progress * per_block + products)


def limits_text(limits: Limits) -> str:
    """Return what limits a run, in a few words."""
    parts = []
    if limits.cores is not None:
        parts.append(f"{limits.cores} core" + ("s" if limits.cores > 1 else ""))
    if limits.jobs is not None:
        parts.append(f"{limits.jobs:,} jobs on a cluster")
    texts = {
        "mem_mb": lambda n: f"{n / 1000:,.0f} GB of memory",
        "downloads": lambda n: f"{n} downloads",
        "gpu": lambda n: f"{n} GPUs" if n != 1 else "1 GPU",
    }
    parts += [texts[name](n) for name, n in limits.resources.items() if name in texts]
    if limits.in_flight is not None:
        parts.append(f"{limits.in_flight:,} blocks in progress")
    if limits.starts is not None:
        number, seconds = limits.starts
        parts.append(f"{60 * number / seconds:,.0f} starts a minute")
    return ", ".join(parts)


def _dim(files: RunFiles) -> int:
    published = PUBLISHED.get(files.config.weights or "")
    return files.config.model.dim or (published.dim if published else STORE_DIM)


def _final_gb(files: RunFiles, grid: RegionGrid) -> float:
    """Return the uncompressed size of the blocks' embeddings and of every product."""
    model, dim = files.config.model, _dim(files)
    pixel = dim * (1 if model.dtype == "int8" else 4) + 10
    pixels = sum(block.window.height * block.window.width for block in grid.blocks)
    height, width = grid.product_geobox.shape
    formats = files.config.products.formats
    stores = 1 + ("zarr" in formats)
    arrays = pixel * float(height) * width if {"arrays", "vrt"} & set(formats) else 0.0
    if "cog" in formats:
        size = 2 if files.config.products.cog_dtype == "int8" else 4
        arrays += 4 / 3 * dim * size * float(height) * width  # with overviews
    if "zarr" in formats and files.config.products.zarr_preview:
        arrays += 4 / 3 * 3 * float(height) * width
    return (stores * pixel * pixels / grid.downsample_rate**2 + arrays) / assumptions.GB


def _assumptions(files: RunFiles, items: Mapping[str, int | None]) -> list[str]:
    if STORE in items and not files.config.fills:
        return _assumptions_of_store(items[STORE])
    lines = []
    if STORE in items:
        lines = [
            "Which pixels are not published is known when a block is imported: downloads and "
            "inference are an upper bound, as if nothing were published. A block without a hole "
            "takes neither, only the start of its jobs.",
            *_assumptions_of_store(items[STORE])[:-1],
        ]
        items = {name: number for name, number in items.items() if name != STORE}
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
    shares = " and ".join(
        f"{assumptions.SENSORS[s].valid_share:.0%} of the dates of {s}" for s in files.all_sensors
    )
    lines.append(f"Inference: {shares} are valid at a pixel; time limits of jobs count all dates.")
    lines.append(WITHOUT_QUEUE)
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
        f"{assumptions.IMPORT_SECONDS:g} s per million pixels."
    )
    lines.append(WITHOUT_QUEUE)
    return lines
