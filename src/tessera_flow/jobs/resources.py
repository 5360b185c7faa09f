"""State what each rule needs: memory, time and threads, from measured peaks.

`python -m benchmarks.memory` measures; `NEEDS` is its result, rounded up. A job that was killed
gets more at its next attempt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .assumptions import YEAR_BYTES

HEADROOM = 1.5
"""Request over measured peak: other scenes, another allocator, a busier file cache."""

SNAKEMAKE_MB = 550
"""Two processes of Snakemake around a job on a cluster, whose memory counts as the job's."""

TIME_HEADROOM = 2.0
"""Time limit over the estimated time of an inference job: slower cores, clearer skies."""

DEFAULT_BLOCK = 2000
DEFAULT_PATCH = 500


@dataclass(frozen=True)
class Need:
    """Needs of a job of one rule at the default block and patch size.

    Attributes:
        fixed_mb: peak memory independent of the size: interpreter and libraries.
        sized_mb: peak memory proportional to the pixels of `unit`.
        unit: block or patch.
        minutes: time limit of the first attempt; of an inference job at least, see
            `inference_minutes`.
        threads: cores.
    """

    fixed_mb: int
    sized_mb: int
    unit: Literal["block", "patch", "none"]
    minutes: int
    threads: int = 1


NEEDS: Mapping[str, Need] = {
    "roi": Need(250, 0, "none", 30),
    "items": Need(200, 0, "none", 60),
    "weights": Need(400, 0, "none", 60),
    "download": Need(250, 1500, "block", 60),
    "stack": Need(200, 250, "block", 30),
    "retile": Need(300, 450, "patch", 30),
    # Without the time series of its patches, see `memory_mb`.
    "infer_cpu": Need(600, 900, "patch", 30, threads=2),
    # Not measured: the libraries of a GPU take 2 GB of a process, finished patches 0.6 GB.
    "infer_gpu": Need(3200, 900, "patch", 30, threads=4),
    "skip_block": Need(100, 0, "none", 10),
    "list_skipped_blocks": Need(100, 0, "none", 10),
    "stitch_zarr": Need(900, 0, "none", 120, threads=2),
    "stitch_arrays": Need(300, 0, "none", 120),
    "preview": Need(550, 0, "none", 120),
    # Holds the same window of two periods.
    "change": Need(600, 0, "none", 120),
    "counts": Need(350, 0, "none", 120),
    # As int8 447 MB at 2,000 and at 4,000 px; 449 at 10,000 px, measured up to the overviews. As
    # float32 451 MB at 2,000 px; 442 at 4,000 px, up to the overviews.
    "cog": Need(550, 0, "none", 240, threads=2),
    "vrt": Need(150, 0, "none", 30),
    "geotessera": Need(850, 0, "none", 120),
    "cube": Need(250, 0, "none", 60),
    "stac_item": Need(250, 0, "none", 30),
    "stac_collection": Need(150, 0, "none", 30),
    "checks": Need(650, 0, "none", 120),
    "label_map": Need(700, 0, "none", 120, threads=2),
    "label_map_page": Need(300, 0, "none", 30),
    "report": Need(500, 0, "none", 120),
    "index": Need(200, 0, "none", 30),
    # Not measured; as for retile, they hold the same few dates of a patch.
    "import_tiles": Need(300, 450, "patch", 60),
    # Not measured on the list of all NPY tiles of the world.
    "store_tiles": Need(1000, 0, "none", 60),
    "import_embeddings": Need(600, 100, "patch", 120),
    # 308 MB without the imports of a job, of 500 px patches.
    "fill": Need(300, 150, "patch", 30),
    # Assumed, as counts.
    "origin": Need(350, 0, "none", 120),
    "site_items": Need(200, 0, "none", 60),
    # The pixels of a cell as a block. Of four days at a time 534 MB with one million pixels, 1,200
    # with four (first of four days); six days, the most, take 120 and 480 MB more (computed).
    "site_series": Need(500, 1500, "block", 60),
    "site_infer": Need(600, 900, "patch", 30, threads=2),
    "site_table": Need(900, 0, "none", 120),
    "site_stac": Need(300, 0, "none", 30),
    "export_tiles": Need(300, 450, "patch", 120),
    "list_tiles": Need(150, 0, "none", 60),
}
"""Measured peaks (MB of resident memory) and generous times by rule."""


MAP_RATES = {"linear": 250_000, "nearest": 10_000, "random_forest": 50_000}
"""Pixels that a map predicts per second and core: measured, on one core of an AMD EPYC, with 128
dimensions, 2,000 labels and 200 trees; `nearest` as computed for 10,000 labels."""

PATCHES_IN_MEMORY = {"infer_cpu": 1, "infer_gpu": 3}
"""Patches of which an inference job holds all dates: next to a GPU the one that is computed, the
next one, and memory for copies that is kept."""

CHUNK_PIXELS = 16384
"""Pixels that inference works on at a time; larger patches take no more memory for it."""


def rule_name(name: str) -> str:
    """Return the name of a rule in this workflow, also if another workflow has renamed it.

    `use rule * from ... as maps_*` makes `maps_roi` of `roi`. Rules that are not in `NEEDS`
    keep the name they have.
    """
    longest_first = sorted(NEEDS, key=len, reverse=True)
    ends = [rule for rule in longest_first if name.endswith(rule)]
    begins = [rule for rule in longest_first if name.startswith(f"{rule}_")]
    return next(iter([*ends, *begins]), name)


def memory_mb(
    rule: str,
    attempt: int,
    block_size: int,
    patch_size: int,
    weights_bytes: int = 0,
    series_bytes: float = YEAR_BYTES,
) -> int:
    """Return the memory to request, in MB.

    Args:
        rule: a key of `NEEDS`.
        attempt: from 1; attempt n gets n times the memory.
        block_size, patch_size: edges in pixels.
        weights_bytes: size of a checkpoint that the job loads, which is in memory twice: as read
            and as laid out for the device; next to a GPU once more, for comparison.
        series_bytes: of all dates of a pixel, for inference: `assumptions.memory_bytes`.
    """
    need = NEEDS[rule]
    edges = {"block": block_size / DEFAULT_BLOCK, "patch": patch_size / DEFAULT_PATCH, "none": 0.0}
    share, copies = edges[need.unit] ** 2, 2
    peak = float(need.fixed_mb)
    if rule in PATCHES_IN_MEMORY:
        share = min(1.0, patch_size**2 / CHUNK_PIXELS)
        copies = 3 if rule == "infer_gpu" else 2
        peak += PATCHES_IN_MEMORY[rule] * patch_size**2 * series_bytes / 1e6
    peak += need.sized_mb * share + copies * weights_bytes / 1e6
    return attempt * 100 * math.ceil((HEADROOM * peak + SNAKEMAKE_MB) / 100)


def runtime_minutes(rule: str, attempt: int, block_size: int) -> int:
    """Return the time to request, in minutes: that of a default block, more for a larger one.

    A smaller block gets no less, because of the fixed start-up time.
    """
    larger = max(1.0, (block_size / DEFAULT_BLOCK) ** 2)
    sized = NEEDS[rule].unit != "none"
    return attempt * round(NEEDS[rule].minutes * (larger if sized else 1.0))


def inference_minutes(rule: str, attempt: int, seconds: float) -> int:
    """Return the time to request for an inference job, in minutes.

    Args:
        rule: `infer_cpu` or `infer_gpu`.
        attempt: from 1.
        seconds: estimated for the whole block. A later attempt continues the earlier one.
    """
    return attempt * max(NEEDS[rule].minutes, math.ceil(TIME_HEADROOM * seconds / 60))


def map_minutes(attempt: int, pixels: float, methods: Iterable[str], threads: int) -> int:
    """Return the time to request for a map from labels, in minutes.

    Args:
        attempt: from 1.
        pixels: of the largest region.
        methods: of the maps.
        threads: of the job.
    """
    slowest = min((MAP_RATES[method] for method in methods), default=1)
    predicted = TIME_HEADROOM * pixels / (slowest * threads) / 60
    return attempt * (NEEDS["label_map"].minutes + math.ceil(predicted))
